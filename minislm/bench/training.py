"""Training throughput: our loop beside a plain one, on the same model, in one run.

The plain loop is what most training scripts do: logits of the whole batch, cross-entropy, AdamW; in
float32, in bfloat16, and compiled. Each loop runs in an isolated process, in turn, round after
round, so that a machine that slows down slows all of them; the median counts.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, replace

import torch
from tqdm import tqdm

from minislm.bench.isolate import IsolatedProcess
from minislm.bench.machine import describe_limits, machine_limits
from minislm.config import ModelConfig, TrainConfig
from minislm.fast.backward import FastLossAndGrad
from minislm.fast.modules import FusedRMSNorm, copy_with
from minislm.fast.optimizer import FastMuon
from minislm.model import RMSNorm, Transformer
from minislm.optimizer import make_optimizers
from minislm.runtime.device import (
    device_name,
    keep_freed_memory,
    on_meta_device,
    select_device,
    select_dtype,
)
from minislm.runtime.errors import log
from minislm.runtime.files import write_json
from minislm.training import loss_and_grad, train_step

# what to measure, and in which precision; None: the one that the machine is fast in
LOOPS = (("minislm", None), ("plain", "float32"), ("plain", None), ("plain compiled", None))
LOOPS_OF_GPU = (("minislm compiled", None), ("minislm", None), *LOOPS[2:])
ROUNDS = 5
_STEPS, _STEPS_OF_GPU = 3, 10  # of a round


class Loop:
    """Training steps on one random batch: `loop(steps)`, the loss of the last one.

    Args:
        kind: "minislm" or "plain"; "minislm compiled" or "plain compiled".
    """

    def __init__(
        self, kind: str, model: ModelConfig, train: TrainConfig, device: str, dtype: str,
        threads: int,
    ):  # fmt: skip
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.dtype, self.clip = select_dtype(dtype, torch.device(device)), train.clip
        self.model, compiled = Transformer(model).to(device), kind.endswith("compiled")
        rows = max(1, train.batch_tokens // model.context)
        tokens = torch.randint(model.vocab_size, (rows, model.context + 1))
        self.batch = tokens[:, :-1], tokens[:, 1:].contiguous()
        if kind.startswith("minislm"):
            keep_freed_memory()
            self.loss_and_grad = FastLossAndGrad(self.model, compiled)
            self.optimizers = make_optimizers(self.model, train, self.dtype, FastMuon)
        else:  # with the library's RMSNorm, as most training scripts have it
            twin = copy_with(self.model, {RMSNorm: FusedRMSNorm})
            forward = torch.compile(twin) if compiled else twin
            self.loss_and_grad = lambda _, *batch: loss_and_grad(forward, *batch)
            self.optimizers = make_optimizers(self.model, replace(train, optimizer="adamw"))

    def __call__(self, steps: int) -> float:
        for _ in range(steps):
            loss, _, _ = train_step(
                self.model, [self.batch], self.optimizers, rate=1.0, clip=self.clip,
                dtype=self.dtype, loss_and_grad=self.loss_and_grad,
            )  # fmt: skip
        return float(loss)


@dataclass
class Throughput:
    """Figures of one loop."""

    loop: str
    dtype: str
    start: float = 0.0  # seconds of the first step, with compilation
    rates: list[float] = field(default_factory=list)  # tokens per second
    memory_mb: float = 0.0
    failure: str | None = None

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(self.rates) if self.rates else 0.0


def benchmark(
    model: ModelConfig, train: TrainConfig, *, device: str = "auto", dtype: str = "auto",
    threads: int | None = None, json: str | None = None,
) -> None:  # fmt: skip
    """Measure the loops, print a table, and write a JSON file where asked for."""
    where, threads = select_device(device), threads or torch.get_num_threads()
    limits = machine_limits(threads, where)
    log(f"limits of the machine, {threads} thread(s): {describe_limits(limits)}")
    rows = measure(model, train, threads, where, dtype)
    operations = flops_per_token(model)
    print(table(rows, operations, limits))
    if json:
        result = {"model": asdict(model), "device": device_name(where), "threads": threads,
                  "batch_tokens": train.batch_tokens, "flops_per_token": operations,
                  "limits": limits, "rows": [vars(row) | {"tokens_per_s": row.tokens_per_s}
                                             for row in rows]}  # fmt: skip
        write_json(json, result)


def measure(
    model: ModelConfig, train: TrainConfig, threads: int, device: torch.device, dtype: str
) -> list[Throughput]:
    """Every loop in its process, interleaved."""
    selected = str(select_dtype(dtype, device)).removeprefix("torch.")
    loops, steps = (LOOPS, _STEPS) if device.type == "cpu" else (LOOPS_OF_GPU, _STEPS_OF_GPU)
    kinds = dict.fromkeys((kind, precision or selected) for kind, precision in loops)
    rows = [Throughput(*kind) for kind in kinds]
    workers = [
        IsolatedProcess(Loop, row.loop, model, train, device.type, row.dtype, threads)
        for row in rows
    ]
    for worker, row in zip(tqdm(workers, "first steps", disable=None, leave=False), rows):
        row.failure = worker.failure
        row.start = _measure_once(worker, row, 1).get("seconds", 0.0)
    tokens = max(1, train.batch_tokens // model.context) * model.context
    for turn in tqdm(range(ROUNDS + 1), desc="rounds", disable=None, leave=False):
        for worker, row in zip(workers, rows):
            found = _measure_once(worker, row, steps)
            if found and turn:
                row.rates.append(steps * tokens / found["seconds"])
                row.memory_mb = found["memory_mb"]
    for worker in workers:
        worker.close()
    return rows


def _measure_once(worker: IsolatedProcess, row: Throughput, steps: int) -> dict[str, float]:
    found = row.failure or worker.measure(steps)
    if isinstance(found, str):
        row.failure = found
        return {}
    return found


def flops_per_token(model: ModelConfig) -> float:
    """Floating-point operations that one token of training needs, forward and backward.

    Six per weight of a matrix (Kaplan et al. 2020, table 1); and per block six for each feature of
    the, on average, context / 2 tokens that a query attends to, twice: for scores and for values.
    What the causal mask hides is not counted.
    """
    with on_meta_device():
        transformer = Transformer(model)
    weights = sum(w.numel() for w in transformer.blocks.parameters() if w.ndim == 2)
    weights += model.vocab_size * model.width
    attended = model.n_layer * model.n_head * model.head_width * model.context / 2
    return 6.0 * (weights + 2 * attended)


def table(rows: list[Throughput], operations: float, limits: dict[str, float]) -> str:
    """One line per loop. MFU: the operations a model needs, relative to what matrix products alone
    reach on this machine."""
    lines = [f"{'loop':<18}{'dtype':<10}{'tokens/s':>10}{'MFU':>7}{'MB':>8}{'first step':>12}"
             f"{'minislm is':>12}"]  # fmt: skip
    ours = rows[0].tokens_per_s
    for row in rows:
        line = f"{row.loop:<18}{row.dtype:<10}"
        if row.failure:
            lines.append(f"{line}  {row.failure}")
            continue
        mfu = row.tokens_per_s * operations / 1e9 / limits[f"gflops_{row.dtype}"]
        line += f"{row.tokens_per_s:>10,.0f}{mfu:>7.0%}{row.memory_mb:>8,.0f}{row.start:>10.1f} s"
        lines.append(line + (f"{ours / row.tokens_per_s:>11.2f}x" if row is not rows[0] else ""))
    return "\n".join(lines)
