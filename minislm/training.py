"""The training loop: batches in, a better model out, and a run that can be resumed at any step.

One step: loss and gradient of some batches, gradient clipping, optimizers at the scheduled rate.
Now and then an evaluation without gradients, after which weights and training state are saved. The
state holds everything the rest of a run depends on: with a number of steps (not of minutes), a
resumed run ends with the same weights as one that was never interrupted."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minislm import checkpoint
from minislm.config import TrainConfig
from minislm.dataset import IGNORED, Batches, TokenDataset
from minislm.evaluation import text_loss
from minislm.model import Transformer
from minislm.optimizer import make_optimizers, schedule
from minislm.runtime.errors import UserError
from minislm.runtime.process_group import ProcessGroup
from minislm.tokenizer import Tokenizer

_SUBSET_TOKENS = 40_000  # validation tokens of an evaluation during training

# (model, inputs [B, T], targets [B, T], precision, count) -> loss; gradients are added to `.grad`
LossAndGrad = Callable[[Transformer, Tensor, Tensor, torch.dtype, int], Tensor]


def loss_and_grad(
    model: Transformer, inputs_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype, count: int
) -> Tensor:
    """Cross-entropy of a batch, summed over its targets and divided by `count`; adds the gradient
    of this loss to the `.grad` of every parameter."""
    with torch.autocast(inputs_BT.device.type, dtype, enabled=dtype != torch.float32):
        logits_NV, targets_N = model(inputs_BT).flatten(0, 1), targets_BT.flatten()
    loss = F.cross_entropy(logits_NV.float(), targets_N, ignore_index=IGNORED, reduction="sum")
    loss = loss / count
    loss.backward()
    return loss.detach()


def train_step(
    model: Transformer, batches: Iterable[tuple[Tensor, Tensor]],
    optimizers: Sequence[torch.optim.Optimizer], *, multiplier: float, clip: float,
    dtype: torch.dtype, loss_and_grad: LossAndGrad = loss_and_grad,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor, int]:  # fmt: skip
    """One optimizer step on some batches: the loss, the gradient norm, the number of targets.

    The loss is the mean over the batches of each batch's mean; in several processes, this process's
    part of it. multiplier: of every parameter group's peak learning rate. clip: largest norm of the
    gradient. group: processes that train the same model on parts of the same batches."""
    group, batches = group or ProcessGroup(), list(batches)
    device = next(model.parameters()).device
    loss, tokens = torch.zeros((), device=device), 0
    for batch in batches:
        (count,) = map(int, group.all_reduce([int((batch[1] != IGNORED).sum())]))
        if device.type == "cuda":  # copied while the GPU still works on the last step
            batch = tuple(each.pin_memory() for each in batch)
        inputs_BT, targets_BT = (each.to(device, non_blocking=True) for each in batch)
        denominator = max(1, count * len(batches))  # every batch has the same weight
        loss = loss + loss_and_grad(model, inputs_BT, targets_BT, dtype, denominator)
        tokens += count
    group.all_reduce_gradients(model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optimizer in optimizers:
        for parameters in optimizer.param_groups:
            parameters["lr"] = parameters["peak"] * multiplier
        optimizer.step()
        optimizer.zero_grad()
    return loss, norm, tokens


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0  # targets trained on
    seconds: float = 0.0  # of training, without evaluations; a resumed run adds to it
    loss: float = math.nan  # of the training batches, smoothed
    best: float = math.inf  # bits per byte of the weights kept, on the validation subset
    evaluations: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains a model, in memory or into a run folder.

    Args:
        run: the run folder; None: nothing is evaluated or saved.
        valid, tokenizer, settings: needed with a run folder; the settings are saved with the state.
        keep_best: keep the weights of the best evaluation, not those of the last.
        loss_and_grad, optimizers, save: replacements of the plain versions.
        group: processes that train together; the first one evaluates and writes the files."""

    def __init__(
        self, model: Transformer, batches: Batches, config: TrainConfig, *,
        run: Path | None = None, valid: TokenDataset | None = None,
        tokenizer: Tokenizer | None = None, settings: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32, keep_best: bool = True,
        loss_and_grad: LossAndGrad = loss_and_grad,
        optimizers: list[torch.optim.Optimizer] | None = None,
        save: Callable[[Path, Transformer, Tokenizer], None] = checkpoint.save_model,
        group: ProcessGroup | None = None,
    ):  # fmt: skip
        self.model, self.batches, self.config, self.dtype = model, batches, config, dtype
        self.run, self.tokenizer, self.settings = run, tokenizer, settings or {}
        self.valid = validation_subset(valid) if valid is not None else None
        self.keep_best, self.loss_and_grad, self.save_model = keep_best, loss_and_grad, save
        self.optimizers = optimizers or make_optimizers(model, config, dtype)
        self.group = group or ProcessGroup()
        self.progress = Progress()
        self.stopped, self.stop = False, 0  # set `stop` to stop after the current step
        self._unread: tuple[int, Tensor, Tensor] | None = None  # a step, its loss and gradient norm
        self._last_loss = math.nan

    def done(self) -> float:
        """The fraction of the run that is done, of its steps or of its minutes."""
        steps, minutes = self.config.steps or math.inf, self.config.minutes or math.inf
        return max(self.progress.step / steps, self.progress.seconds / 60 / minutes)

    def train(self, on_step: Callable[[], None] = lambda: None) -> Progress:
        """Train to the end, or until `stopped`; `on_step` is called after every step.
        UserError: the loss is not a finite number; the last saved state is unchanged."""
        stream = iter(self.batches)
        self.model.train()
        while self.done() < 1 and not self.stopped:
            begin = time.perf_counter()
            self._step([next(stream) for _ in range(self.config.accumulate)])
            self._synchronize(time.perf_counter() - begin)
            due = self.done() * self.config.evals >= self.progress.evaluations + 1
            if self.run is not None and (due or self.done() >= 1):
                self.evaluate()
            on_step()
        self.read_loss()
        if self.stopped:
            self.save_state()
        return self.progress

    def _step(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        loss, norm, tokens = train_step(
            self.model, batches, self.optimizers, clip=self.config.clip, dtype=self.dtype,
            multiplier=schedule(self.done(), self.config.warmup, self.config.decay),
            loss_and_grad=self.loss_and_grad, group=self.group,
        )  # fmt: skip
        # The loss of a step is read after the next one has been launched: a GPU never waits.
        self.read_loss()
        self.progress.step += 1
        self.progress.tokens += tokens
        self._unread = (self.progress.step, loss, norm)

    def read_loss(self) -> float:
        """The loss of the last step, for which a GPU is waited for."""
        if self._unread is None:
            return self._last_loss
        (step, loss, norm), self._unread = self._unread, None
        (value,) = self.group.all_reduce([float(loss)])
        if not math.isfinite(value) or not math.isfinite(norm):
            raise UserError(f"the loss is not a finite number any more (step {step}); "
                            "use a smaller --learning-rate and --matrix-rate")  # fmt: skip
        before, self._last_loss = self.progress.loss, value
        self.progress.loss = value if math.isnan(before) else 0.98 * before + 0.02 * value
        return value

    def _synchronize(self, seconds: float) -> None:
        """One clock, that of the first process, and a stop for all where one is to stop."""
        own = [seconds * self.group.is_main, bool(self.stop) or self.stopped]
        seconds, stopped = self.group.all_reduce(own)
        self.progress.seconds += seconds
        self.stopped = stopped > 0

    def evaluate(self) -> None:
        """Loss on the validation subset, one line of metrics, and weights and state on disk."""
        self.read_loss()
        run, valid, tokenizer, p = self.run, self.valid, self.tokenizer, self.progress
        if run is None or valid is None or tokenizer is None:
            raise ValueError("an evaluation needs a run folder, a validation text and a tokenizer")
        p.evaluations = math.floor(self.done() * self.config.evals)
        if not self.group.is_main:  # the others wait in their next step
            return
        loss = text_loss(self.model, valid, tokenizer.eot_id, dtype=self.dtype)
        record: dict[str, Any] = dict(step=p.step, tokens=p.tokens, seconds=round(p.seconds, 2))
        record |= dict(train_loss=p.loss) if p.step else {}
        record |= dict(valid_loss=loss.nats_per_token, bits_per_byte=loss.bits_per_byte)
        p.history.append(record)
        if loss.bits_per_byte < p.best or not self.keep_best:
            p.best = loss.bits_per_byte
            self.save_model(run, self.model, tokenizer)
        self.save_state()
        checkpoint.write_metrics(run, p.history)

    def save_state(self) -> None:
        if self.group.is_main and self.run is not None:
            checkpoint.save_state(self.run, self.state(), self.config.keep)

    def state(self) -> dict[str, Any]:
        """Everything the rest of the run depends on, in plain containers and tensors."""
        return {
            "step": self.progress.step,
            "progress": vars(self.progress),
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "batches": self.batches.state,
            "random": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.batches.state = dict(state["batches"])
        torch.set_rng_state(state["random"])


def validation_subset(documents: TokenDataset) -> TokenDataset:
    """Documents spread evenly over the text, about 40,000 tokens: enough to follow a run."""
    every = max(1, round(documents.n_tokens / _SUBSET_TOKENS))
    return documents if every == 1 else documents.subset(range(0, len(documents), every))
