"""How fast training goes: our loop beside a plain one, on the same model, in the same minutes.

The plain loop is what most training scripts do: logits of the whole batch, cross-entropy, AdamW;
in float32, in bfloat16, and compiled. Each loop runs alone in a process, in turn, round after
round, so that a machine that slows down slows all of them; what counts is the median.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from minislm.bench.isolate import Apart, limits_shown, machine_limits
from minislm.config import ModelConfig, TrainConfig, to_dict
from minislm.runtime.device import choose_device, choose_dtype, keep_freed_memory, name_of, shapes_alone
from minislm.runtime.errors import say
from minislm.runtime.files import write_json
from minislm.fast.backward import backward, with_compiled_blocks
from minislm.model import Transformer
from minislm.optimizer import advance, make_optimizers
from minislm.cli.run_settings import settings_from

# what to measure, and in which precision; None: the one that the machine is fast in
LOOPS = (("minislm", None), ("plain", "float32"), ("plain", None), ("plain compiled", None))
LOOPS_OF_GPU = (("minislm compiled", None), ("minislm", None), *LOOPS[2:])
ROUNDS = 5
_STEPS, _STEPS_OF_GPU = 3, 10  # of a round


class Loop:
    """Training steps on one random batch, the way `kind` says: `loop(steps)`, the last one's loss.

    Args:
        kind: "minislm" or "plain"; "minislm compiled" or "plain compiled".
    """

    def __init__(self, kind: str, model: ModelConfig, train: TrainConfig, threads: int):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        device = choose_device(train.device)
        self.dtype, self.clip = choose_dtype(train.dtype, device), train.clip
        self.model = Transformer(model).to(device)
        rows = max(1, train.batch_tokens // model.context)
        tokens = torch.randint(model.vocab_size, (rows, model.context + 1))
        count = rows * model.context
        self.inputs_BT, self.targets_BT = tokens[:, :-1].to(device), tokens[:, 1:].to(device)
        compiled = kind.endswith("compiled")
        if kind.startswith("minislm"):
            keep_freed_memory()
            batch = self.inputs_BT, self.targets_BT
            learner = with_compiled_blocks(self.model) if compiled else self.model
            self.learn = lambda: backward(learner, *batch, self.dtype, count)
            self.optimizers = make_optimizers(self.model, train, self.dtype)
        else:
            forward = torch.compile(self.model) if compiled else self.model
            self.learn = lambda: self._plainly(forward)
            self.optimizers = make_optimizers(self.model, _with_adamw(train))

    def _plainly(self, forward: Callable) -> Tensor:
        half = self.dtype != torch.float32
        with torch.autocast(self.inputs_BT.device.type, self.dtype, enabled=half):
            logits_BTV = forward(self.inputs_BT)
            loss = F.cross_entropy(logits_BTV.flatten(0, 1), self.targets_BT.flatten())
        loss.backward()
        return loss.detach()

    def __call__(self, steps: int) -> float:
        for _ in range(steps):
            loss = self.learn()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            advance(self.optimizers, 1.0)
        return loss.item()


def _with_adamw(train: TrainConfig) -> TrainConfig:
    return TrainConfig(**(to_dict(train) | {"optimizer": "adamw"}))


@dataclass
class Pace:
    """How fast one loop went."""

    loop: str
    dtype: str
    start: float = 0.0  # seconds of the first step, compiling included
    rates: list[float] = field(default_factory=list)  # tokens per second
    memory_mb: float = 0.0
    failure: str | None = None

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(self.rates) if self.rates else 0.0


def benchmark(flags: argparse.Namespace) -> None:
    """Measure the loops on the model that the flags describe, and print a table."""
    settings = settings_from(flags)
    train, model = settings.train, settings.model
    device = choose_device(train.device)
    model = ModelConfig(**(to_dict(model) | {"vocab_size": settings.data.vocab}))
    threads = train.threads or torch.get_num_threads()
    limits = machine_limits(threads, device)
    say(f"limits of the machine, {threads} thread(s): {limits_shown(limits)}")
    paces = measure(model, train, threads, device)
    operations = flops_per_token(model)
    print(table(paces, operations, limits))
    if train.json:
        rows = [vars(pace) | {"tokens_per_s": pace.tokens_per_s} for pace in paces]
        result = {"model": to_dict(model), "device": name_of(device), "threads": threads,
                  "batch_tokens": train.batch_tokens, "flops_per_token": operations,
                  "limits": limits, "rows": rows}  # fmt: skip
        write_json(train.json, result)


def measure(
    model: ModelConfig, train: TrainConfig, threads: int, device: torch.device
) -> list[Pace]:
    """Every loop in its process, interleaved."""
    chosen = str(choose_dtype(train.dtype, device)).removeprefix("torch.")
    loops, steps = (LOOPS, _STEPS) if device.type == "cpu" else (LOOPS_OF_GPU, _STEPS_OF_GPU)
    kinds = dict.fromkeys((kind, dtype or chosen) for kind, dtype in loops)
    paces = [Pace(*kind) for kind in kinds]
    workers = []
    for pace in paces:
        of_kind = TrainConfig(**(to_dict(train) | {"dtype": pace.dtype}))
        workers.append(Apart(Loop, pace.loop, model, of_kind, threads))
    for worker, pace in zip(tqdm(workers, "first steps", disable=None, leave=False), paces):
        pace.failure = worker.failure
        pace.start = _ask(worker, pace, 1).get("seconds", 0.0)
    tokens = max(1, train.batch_tokens // model.context) * model.context
    for turn in tqdm(range(ROUNDS + 1), desc="rounds", disable=None, leave=False):
        for worker, pace in zip(workers, paces):
            told = _ask(worker, pace, steps)
            if told and turn:
                pace.rates.append(steps * tokens / told["seconds"])
                pace.memory_mb = told["memory_mb"]
    for worker in workers:
        worker.close()
    return paces


def _ask(worker: Apart, pace: Pace, steps: int) -> dict[str, float]:
    told = pace.failure or worker.measure(steps)
    if isinstance(told, str):
        pace.failure = told
        return {}
    return told


def flops_per_token(model: ModelConfig) -> float:
    """Multiplications and additions that one token of training needs, forward and backward.

    Six for each weight of a product (Kaplan et al. 2020, table 1), and six per block for each
    feature of each of the, on average, context / 2 tokens that a query reads, twice: for scores
    and for values. What a mask hides is not counted.
    """
    with shapes_alone():
        transformer = Transformer(model)
    weights = sum(w.numel() for w in transformer.blocks.parameters() if w.ndim == 2)
    weights += model.vocab_size * model.width
    reads = model.n_layer * model.n_head * model.head_width * model.context / 2
    return 6.0 * (weights + 2 * reads)


def table(paces: list[Pace], operations: float, limits: dict[str, float]) -> str:
    """A line a loop. MFU: the operations a model needs, as a share of what products alone reach."""
    lines = [f"{'loop':<18}{'dtype':<10}{'tokens/s':>10}{'MFU':>7}{'MB':>8}{'first step':>12}"
             f"{'minislm is':>12}"]  # fmt: skip
    ours = paces[0].tokens_per_s
    for pace in paces:
        line = f"{pace.loop:<18}{pace.dtype:<10}"
        if pace.failure:
            lines.append(f"{line}  {pace.failure}")
            continue
        share = pace.tokens_per_s * operations / 1e9 / limits[f"gflops_{pace.dtype}"]
        line += f"{pace.tokens_per_s:>10,.0f}{share:>7.0%}{pace.memory_mb:>8,.0f}"
        line += f"{pace.start:>10.1f} s"
        lines.append(line + (f"{ours / pace.tokens_per_s:>11.2f}x" if pace is not paces[0] else ""))
    return "\n".join(lines)
