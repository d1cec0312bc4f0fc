"""Training throughput: our loop beside a plain one, on the same model, in one run."""

from collections import namedtuple
from dataclasses import asdict, replace

import torch
from tqdm import tqdm

from minislm.bench.isolate import IsolatedProcess, Measurement, measure_in_turn, text_table
from minislm.bench.machine import measure_machine
from minislm.config import ModelConfig, TrainConfig
from minislm.fast.backward import FastLossAndGrad
from minislm.fast.modules import FusedRMSNorm, copy_with
from minislm.fast.optimizer import FastMuon
from minislm.model import RMSNorm, Transformer
from minislm.optimizer import make_optimizers
from minislm.runtime.device import keep_freed_memory, on_meta_device, select_device, select_dtype
from minislm.runtime.files import write_json
from minislm.training import loss_and_grad, train_step

# Kind of loop and precision; None: the precision that the machine is fast in.
LOOPS = (("minislm", None), ("plain", "float32"), ("plain", None), ("plain compiled", None))
LOOPS_OF_GPU = (("minislm compiled", None), ("minislm", None), *LOOPS[2:])
ROUNDS = 5
_STEPS, _STEPS_OF_GPU = 3, 10  # of a round
Case = namedtuple("Case", "loop dtype")
COLUMNS = {"loop": "<18", "dtype": "<10", "tokens/s": ">10", "MFU": ">7", "MB": ">8",
           "first step": ">12", "minislm is": ">12"}  # fmt: skip


class Loop:
    """Training steps on one random batch, of a kind in LOOPS; `loop(steps)`: the last loss."""

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
        else:  # as most training scripts: the library's RMSNorm, all logits at once, AdamW
            twin = copy_with(self.model, {RMSNorm: FusedRMSNorm})
            forward = torch.compile(twin) if compiled else twin
            self.loss_and_grad = lambda _, *batch: loss_and_grad(forward, *batch)
            self.optimizers = make_optimizers(self.model, replace(train, optimizer="adamw"))

    def __call__(self, steps: int) -> float:
        for _ in range(steps):
            loss, _, _ = train_step(
                self.model, [self.batch], self.optimizers, multiplier=1.0, clip=self.clip,
                dtype=self.dtype, loss_and_grad=self.loss_and_grad,
            )  # fmt: skip
        return float(loss)


def benchmark(
    model: ModelConfig, train: TrainConfig, *, device: str = "auto", dtype: str = "auto",
    threads: int | None = None, json: str | None = None,
) -> None:  # fmt: skip
    """Measure the loops, print a table, and write the JSON file where it is named."""
    where, threads = select_device(device), threads or torch.get_num_threads()
    facts, operations = measure_machine(where, threads), flops_per_token(model)
    rows = measure(model, train, threads, where, dtype)
    print(table(rows, operations, facts["limits"]))
    if json:
        figures = ("rates", "memory_mb", "failure", "tokens_per_s")
        entries = [row.case._asdict() | {"start": row.first[0]}
                   | {name: getattr(row, name) for name in figures} for row in rows]  # fmt: skip
        result = {"model": asdict(model), "batch_tokens": train.batch_tokens,
                  "flops_per_token": operations, "rows": entries}  # fmt: skip
        write_json(json, result | facts)


def measure(
    model: ModelConfig, train: TrainConfig, threads: int, device: torch.device, dtype: str
) -> list[Measurement]:
    """Every loop in its process, interleaved."""
    selected = str(select_dtype(dtype, device)).removeprefix("torch.")
    loops, steps = (LOOPS, _STEPS) if device.type == "cpu" else (LOOPS_OF_GPU, _STEPS_OF_GPU)
    tokens = max(1, train.batch_tokens // model.context) * model.context
    rows = []
    for case in dict.fromkeys(Case(kind, precision or selected) for kind, precision in loops):
        process = IsolatedProcess(Loop, case.loop, model, train, device.type, case.dtype, threads)
        rows.append(Measurement(case, process, [(steps,)], steps * tokens))
    for row in tqdm(rows, "first steps", disable=None, leave=False):
        row.first = [row.seconds(1)]
    measure_in_turn(rows, ROUNDS, "rounds")
    for row in rows:
        row.process.close()
    return rows


def flops_per_token(model: ModelConfig) -> float:
    """Floating-point operations of a token in training: six per weight of a matrix (Kaplan et al.
    2020, table 1); and per block, for scores and for values, six per feature of the context / 2
    tokens that a query attends to on average. What the causal mask hides is not counted."""
    with on_meta_device():
        transformer = Transformer(model)
    weights = sum(w.numel() for w in transformer.blocks.parameters() if w.ndim == 2)
    weights += model.vocab_size * model.width
    attended = model.n_layer * model.n_head * model.head_width * model.context / 2
    return 6.0 * (weights + 2 * attended)


def table(rows: list[Measurement], operations: float, limits: dict[str, float]) -> str:
    """One line per loop; MFU: the model's operations per second, relative to matrix products."""

    def figures(row: Measurement) -> list[str]:
        rate = row.tokens_per_s
        mfu = rate * operations / 1e9 / limits[f"gflops_{row.case.dtype}"]
        ratio = f"{rows[0].tokens_per_s / rate:.2f}x" if row is not rows[0] else ""
        return [f"{rate:,.0f}", f"{mfu:.0%}", f"{row.memory_mb:,.0f}", f"{row.first[0]:.1f} s",
                ratio]  # fmt: skip

    return text_table(COLUMNS, rows, figures)
