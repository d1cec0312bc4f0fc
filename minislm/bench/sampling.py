"""Sampling throughput: our samplers beside other engines, on the same weights, in one run.

Every engine is measured in turn, round after round, so that a machine that slows down slows all of
them; the median and the ratio count.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models
from tqdm import tqdm

from minislm.bench.config import SHAPES, BenchmarkConfig
from minislm.bench.engines import ENGINES, CTranslate2OneThread, installed
from minislm.bench.isolate import IsolatedProcess
from minislm.bench.machine import describe_limits, machine_limits, sampling_roofline
from minislm.config import ModelConfig
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.reporting.plots import throughput_chart
from minislm.runtime.device import device_name, select_device
from minislm.runtime.errors import UserError, log
from minislm.runtime.files import write_json
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import Tokenizer

PROMPT = 16  # tokens in a prompt
TOP_K = 50
OURS = ("minislm", "plain sampler")  # all other engines are compared with the first


@dataclass
class Measurement:
    """One engine in one precision, for one batch size and one way to sample."""

    engine: str
    dtype: str
    mode: str
    batch: int
    rates: list[float] = field(default_factory=list)  # new tokens per second
    first: list[float] = field(default_factory=list)  # seconds to the first token
    memory_mb: float = 0.0  # the largest of its process so far
    failure: str | None = None

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(self.rates) if self.rates else 0.0

    def as_json(self) -> dict[str, Any]:
        entry = {"engine": self.engine, "dtype": self.dtype, "mode": self.mode, "batch": self.batch}
        if self.failure:
            return entry | {"failure": self.failure}
        return entry | {
            "tokens_per_s": self.tokens_per_s,
            "first_token_ms": 1000 * statistics.median(self.first),
            "memory_mb": self.memory_mb,
            "runs": self.rates,
        }


def benchmark(
    source: str | None, config: BenchmarkConfig, *, device: str = "auto",
    threads: int | None = None, json: str | None = None, compiled: bool = False,
) -> None:  # fmt: skip
    """Measure, print the table, and write a JSON file and a plot where asked for.

    Raises:
        UserError: a model that cannot be opened.
    """
    where, threads = select_device(device), threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as temporary:
        folder = _model_folder(source, config.preset, Path(temporary))
        model = load(folder)[0]
        limits = machine_limits(threads, where)
        log(f"limits of the machine: {describe_limits(limits)}")
        rows = _measure(folder, model.config.vocab_size, config, threads, where.type, compiled)
        text = table(rows, model, limits, config.max_new_tokens)
    result = {
        "model": source or config.preset,
        "parameters": model.n_parameters(),
        "device": device_name(where),
        "threads": threads,
        "prompt_tokens": PROMPT,
        "new_tokens": config.max_new_tokens,
        "rows": [row.as_json() for row in rows],
        "limits": limits,
    }
    print(text)
    if json:
        write_json(json, result)
    if config.out:
        cores = f"{threads} threads of " if where.type == "cpu" else ""
        rates = [(r.engine, r.dtype, r.mode, r.batch, r.tokens_per_s) for r in rows]
        throughput_chart(rates, cores + device_name(where), Path(config.out))
        log(f"plot: {config.out}")


def _model_folder(source: str | None, preset: str, temporary: Path) -> Path:
    """A Hugging Face folder with the weights to measure: the given one, or random ones."""
    if source is not None:
        if not Path(source).is_dir():
            raise UserError(f"--benchmark needs a model folder, and {source} is not one")
        return Path(source)
    model = Transformer(ModelConfig(**SHAPES[preset])).eval()
    model.initialize(torch.Generator().manual_seed(0))
    words = {f"t{number}": number for number in range(model.config.vocab_size - 1)}
    words[END_OF_TEXT] = len(words)
    folder = temporary / preset
    save(folder, model, Tokenizer(Backend(models.WordLevel(words, unk_token="t0"))))
    return folder


def _measure(
    folder: Path, vocabulary: int, config: BenchmarkConfig, threads: int, device: str,
    compiled: bool,
) -> list[Measurement]:  # fmt: skip
    """All engines, interleaved, one batch size after the other."""
    workers, rows = [], []
    for engine, precision in _wanted(config, threads, device):
        own = (compiled,) if engine == "minislm" else ()
        make = ENGINES[engine].make
        worker = IsolatedProcess(make, folder, precision, threads, device, *own)
        workers.append((worker, engine, precision))
    for batch in config.batch_sizes:
        numbers = random.Random(batch)
        prompts = [
            [numbers.randrange(1, vocabulary - 1) for _ in range(PROMPT)] for _ in range(batch)
        ]
        of_batch = [
            (worker, Measurement(engine, precision, mode, batch, failure=worker.failure))
            for worker, engine, precision in workers
            for mode in config.modes.split(",")
        ]
        turns = range(config.rounds + 1)
        for turn in tqdm(turns, desc=f"batch {batch}", disable=None, leave=False):
            for worker, row in of_batch:
                _measure_once(worker, row, prompts, config.max_new_tokens, warm_up=turn == 0)
        rows += [row for _, row in of_batch]
    for worker, _, _ in workers:
        worker.close()
    return rows


def _wanted(config: BenchmarkConfig, threads: int, device: str) -> Iterable[tuple[str, str]]:
    """The engines and precisions to measure; logs those that are not installed."""
    asked = [each for each in config.precisions.split(",") if device == "cpu" or each != "int8"]
    for name, engine in ENGINES.items():
        if name not in OURS and not config.peers:
            continue
        if device != "cpu" and not engine.make.on_gpu:
            continue
        if engine.make is CTranslate2OneThread and threads == 1:
            continue
        if not installed(name):
            log(f"{name} is not installed (pip install {engine.packages}): left out")
            continue
        yield from ((name, each) for each in engine.precisions if each in asked)


def _measure_once(
    worker: IsolatedProcess, row: Measurement, prompts: list[list[int]], new_tokens: int,
    warm_up: bool,
) -> None:  # fmt: skip
    if row.failure:
        return
    top_k = TOP_K if row.mode == "top-k" else 0
    whole, first = (worker.measure(prompts, count, top_k) for count in (new_tokens, 1))
    failure = next((answer for answer in (whole, first) if isinstance(answer, str)), None)
    if failure is not None:
        row.failure = failure
    elif not warm_up:
        row.rates.append(len(prompts) * new_tokens / whole["seconds"])
        row.first.append(first["seconds"])
        row.memory_mb = max(row.memory_mb, whole["memory_mb"])


def table(
    rows: list[Measurement], model: Transformer, limits: dict[str, float], new_tokens: int
) -> str:
    """One line per measurement; beside ours the ratio to the best of each other engine."""
    others = sorted({row.engine for row in rows} - {"minislm"})
    head = f"{'engine':<15}{'dtype':<10}{'mode':<8}{'batch':>6}{'tokens/s':>10}{'roofline':>10}"
    head += f"{'first ms':>10}{'MB':>7}" + "".join(f"{'/ ' + other:>16}" for other in others)
    lines = [head]
    for row in rows:
        line = f"{row.engine:<15}{row.dtype:<10}{row.mode:<8}{row.batch:>6}"
        if row.failure:
            lines.append(f"{line}  {row.failure}")
            continue
        limit = sampling_roofline(model, row.dtype, row.batch, limits, PROMPT, new_tokens)
        line += f"{row.tokens_per_s:>10,.0f}{row.tokens_per_s / limit:>10.0%}"
        line += f"{1000 * statistics.median(row.first):>10.1f}{row.memory_mb:>7,.0f}"
        line += "".join(f"{_ratio(row, rows, other):>16}" for other in others)
        lines.append(line.rstrip())
    return "\n".join(lines)


def _ratio(row: Measurement, rows: list[Measurement], engine: str) -> str:
    """Ours over another engine: float32 over float32, less over its best of all."""
    if row.engine != "minislm":
        return ""
    rates = [
        other.tokens_per_s
        for other in rows
        if other.engine == engine
        and (other.mode, other.batch) == (row.mode, row.batch)
        and (other.dtype == "float32" or row.dtype != "float32")
    ]
    best = max(rates, default=0.0)
    return f"{row.tokens_per_s / best:.2f}x" if best else ""
