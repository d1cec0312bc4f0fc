"""The training loop: batches in, a better model out, and nothing lost on the way.

Every line of the loop is here to be read: loss, backward, clip, step; rates that rise and fall;
an evaluation without gradients now and then, after which the state is saved. `state()` holds all
that the future of a run depends on, so a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minislm import checkpoint
from minislm.pretrained.load import save_model
from minislm.dataset import Batches
from minislm.config import SampleConfig, TrainConfig
from minislm.corpus.prepare import TokenFile
from minislm.runtime.process_group import Team
from minislm.runtime.errors import UserError
from minislm.evaluation import TextLoss, text_loss
from minislm.fast.backward import backward, with_compiled_blocks
from minislm.model import Transformer
from minislm.optimizer import advance, make_optimizers
from minislm.reporting.plots import plotting
from minislm.sampler import Sampler
from minislm.tokenizer import Tokenizer

_GLANCE_TOKENS = 40_000  # how much of the validation text an evaluation on the way reads


def schedule(progress: float, warmup: float, decay: float) -> float:
    """The share of the peak rate: up in a line, level, and down in a line to 0 at progress 1.

    A trapezoid (Haegele et al. 2024): the longer the rates stay high, the farther the weights get,
    and the fall at the end brings them to rest.
    """
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return max(0.0, min(1.0, (1 - progress) / decay))


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    tokens: int = 0  # trained on
    seconds: float = 0.0  # spent in training: not in evaluations, not before a resume
    loss: float = math.nan  # of the training batches, smoothed
    best: float = math.inf  # bits per byte of the weights kept, on a glance at validation text
    evaluations: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One run: a model, the batches it learns from, and the folder it leaves."""

    def __init__(
        self,
        run: Path,
        model: Transformer,
        tokenizer: Tokenizer,
        batches: Batches,
        valid: TokenFile,
        config: TrainConfig,
        dtype: torch.dtype,
        settings: dict[str, Any],
        team: Team | None = None,
    ):
        self.run, self.model, self.tokenizer, self.config = run, model, tokenizer, config
        self.batches, self.dtype, self.settings = batches, dtype, settings
        self.device = model.embedding.weight.device
        self.learner = with_compiled_blocks(model) if config.compile else model
        self.optimizers = make_optimizers(model, config, dtype)
        self.team = team or Team()
        self.valid = glance(valid)
        self.progress = Progress()
        self.stopped = False
        self.late = self.device.type != "cpu"  # whether a step's loss is read during the next one
        self._unread: tuple[int, Any, Any] | None = None  # a step, its loss and its gradients' norm

    def done(self) -> float:
        """How much of the run is behind it, from 0 to 1: of its steps or of its minutes."""
        shares = [0.0]
        if self.config.steps:
            shares.append(self.progress.step / self.config.steps)
        if self.config.minutes:
            shares.append(self.progress.seconds / 60 / self.config.minutes)
        return max(shares)

    def fit(self) -> Progress:
        """Train to the end, or until Ctrl-C: then the state is saved and `stopped` is True.

        Raises:
            UserError: the loss is not a finite number; the last saved state is left as it is.
        """
        evals, samples = self.config.evals, self.config.samples
        next_sample = (math.floor(self.done() * samples) + 1) / samples if samples else math.inf
        stream = iter(self.batches)
        with self._interrupts(), tqdm(
            total=100, unit="%", bar_format=_BAR, dynamic_ncols=True,
            disable=None if self.team.leads else True,
        ) as bar:  # fmt: skip
            while self.done() < 1 and not self.stopped:
                begin = time.perf_counter()
                self._step(stream)
                self._agree(time.perf_counter() - begin)
                self._show(bar)
                if self.done() * evals >= self.progress.evaluations + 1 or self.done() >= 1:
                    self._evaluate(bar)
                if next_sample <= self.done() < 1:
                    next_sample += 1 / samples
                    self._sample(bar)
            if self.stopped:
                self._read()
                self.save()
        return self.progress

    def _agree(self, seconds: float) -> None:
        """One clock, the leader's, and a stop for all where one was asked to stop."""
        told = [seconds if self.team.leads else 0.0, float(self.stopped)]
        seconds, stopped = self.team.add_up(told)
        self.progress.seconds += seconds
        self.stopped = stopped > 0

    def _step(self, stream: Iterator) -> None:
        """One optimizer step on `accumulate` batches.

        A GPU has work while the loss of its last step is read: it never waits.
        """
        share, total = schedule(self.done(), self.config.warmup, self.config.decay), 0.0
        for _ in range(self.config.accumulate):
            inputs_BT, targets_BT = next(stream)
            (everybodys,) = self.team.add_up([int((targets_BT >= 0).sum())])
            count = int(everybodys) * self.config.accumulate  # for the mean over all processes
            batch = (self._sent(inputs_BT), self._sent(targets_BT))
            total += backward(self.learner, *batch, self.dtype, count)
            self.progress.tokens += int(everybodys)
        (total,) = self.team.add_up([total])
        self.team.add_up_gradients(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.progress.step += 1
        if self.late:
            self._read()
        self._unread = (self.progress.step, total, norm)
        if not self.late:
            self._read()
        advance(self.optimizers, share)

    def _sent(self, tokens_BT: Tensor) -> Tensor:
        """The tokens on the device, without waiting for what it does."""
        if self.device.type != "cuda":
            return tokens_BT.to(self.device)
        return tokens_BT.pin_memory().to(self.device, non_blocking=True)

    def _read(self) -> None:
        """Read the loss of the step that was not read yet; raises UserError if it is no number."""
        if self._unread is None:
            return
        (step, total, norm), self._unread = self._unread, None
        total = float(total)
        if not math.isfinite(total) or not math.isfinite(norm):
            raise UserError(
                f"the loss is not a finite number any more (step {step}); "
                "use a smaller --learning-rate and --matrix-rate"
            )
        before = self.progress.loss
        self.progress.loss = total if math.isnan(before) else 0.98 * before + 0.02 * total

    def _evaluate(self, bar: tqdm) -> None:
        """A glance at the validation text, a line of metrics, and the state on disk."""
        self._read()
        p = self.progress
        p.evaluations = math.floor(self.done() * self.config.evals)
        found = self._valid_loss()
        record = {
            "step": p.step,
            "tokens": p.tokens,
            "seconds": round(p.seconds, 2),
            "train_loss": p.loss,
            "valid_loss": found.nats_per_token,
            "bits_per_byte": found.bits_per_byte,
        }
        p.history.append(record)
        # Held-out stories say nothing about pairs: a run that learns pairs keeps its last weights.
        if found.bits_per_byte < p.best or self.batches.examples:
            p.best = found.bits_per_byte
            if self.team.leads:
                save_model(self.run, self.model, self.tokenizer)
        self.save()
        if not self.team.leads:
            return
        checkpoint.append_metrics(self.run, record)
        bar.write(
            f"{self.done():4.0%}  step {p.step:>6,}  train loss {p.loss:.3f}  valid loss "
            f"{found.nats_per_token:.3f}  {found.bits_per_byte:.3f} bits/byte",
            file=sys.stderr,
        )

    def _valid_loss(self) -> TextLoss:
        """The loss on the glance, to which each process adds its own stories."""
        team, own = self.team, self.valid
        if team.world > 1:
            numbers = range(team.rank, len(self.valid), team.world)
            own = TokenFile.from_ids([self.valid.story(i).tolist() for i in numbers], 0)
        nats = text_loss(self.model, own, self.tokenizer.eot_id, dtype=self.dtype).nats
        (nats,) = team.add_up([nats])
        return TextLoss(nats, self.valid.n_tokens, self.valid.bytes)

    def _sample(self, bar: tqdm) -> None:
        if not self.team.leads:
            return
        settings = SampleConfig(max_new_tokens=48, temperature=0.8, seed=self.config.seed)
        text = Sampler(self.model, self.tokenizer).generate([""], settings)[0]
        self.model.train()
        bar.write(f"      it says: {' '.join(text.split())} ...", file=sys.stderr)

    def _show(self, bar: tqdm) -> None:
        p, done = self.progress, self.done()
        left = p.seconds / done * (1 - done) if done else 0.0
        bar.n = min(100.0, round(100 * done, 1))
        bar.set_postfix_str(
            f"loss {p.loss:.3f}, {p.tokens / max(p.seconds, 1e-9):,.0f} tokens/s, "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Ctrl-C ends the run after the step it is in; a second one ends it at once."""

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = True

        try:
            previous = signal.signal(signal.SIGINT, on_interrupt)
        except ValueError:  # not the main thread: Ctrl-C is somebody else's
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def save(self) -> None:
        if self.team.leads:
            checkpoint.save_state(self.run, self.state(), self.config.keep)

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on: plain containers and tensors."""
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
        """Go back to where `state` was taken."""
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.batches.state = dict(state["batches"])
        torch.set_rng_state(state["random"])
        if self.team.leads:
            checkpoint.rewind_metrics(self.run, self.progress.step)


_BAR = "{percentage:3.0f}%|{bar}| {elapsed} {postfix}"


def glance(stories: TokenFile) -> TokenFile:
    """Stories evenly spread over the text, some 40,000 tokens: enough to see where a run goes.

    Their bytes are estimated from the text's bytes per token.
    """
    every = max(1, round(stories.n_tokens / _GLANCE_TOKENS))
    if every == 1:
        return stories
    chosen = [stories.story(i).tolist() for i in range(0, len(stories), every)]
    tokens = sum(map(len, chosen))
    return TokenFile.from_ids(chosen, round(stories.bytes * tokens / stories.n_tokens))


def plot_losses(run: Path) -> Path | None:
    """Draw loss.png from metrics.jsonl, where matplotlib is installed; the path, or None."""
    records = checkpoint.read_metrics(run)
    pyplot = plotting()
    if pyplot is None or not records:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    tokens = np.array([record["tokens"] for record in records]) / 1e6
    for key, label in (("train_loss", "training"), ("valid_loss", "validation")):
        axes.plot(tokens, [record[key] for record in records], marker="o", ms=3, label=label)
    axes.set(xlabel="million tokens", ylabel="loss (nats per token)", title=run.name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    path = run / "loss.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path
