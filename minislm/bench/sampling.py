"""How fast the sampler is: beside other engines, on the same weights, in the same minutes.

Every engine is measured in turn, round after round, so that a machine that slows down slows all of
them; what counts is the median and the ratio. The machine's limits, the rate of its matrix
products and the bandwidth of its memory, are measured in the same run: what they allow is the
roofline (Williams et al. 2009), and a speed is given as a share of it.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models
from tqdm import tqdm

from minislm.pretrained.load import load, save_model
from minislm.bench.isolate import Apart, limits_shown, machine_limits
from minislm.config import SHAPES, BenchmarkConfig, MachineConfig, ModelConfig
from minislm.runtime.device import choose_device, name_of
from minislm.runtime.errors import UserError, say
from minislm.runtime.files import atomic_path, write_json
from minislm.model import Transformer
from minislm.bench.engines import ENGINES, CTranslate2Alone, installed
from minislm.reporting.plots import plotting
from minislm.tokenizer import Tokenizer

PROMPT = 16  # tokens in a prompt
TOP_K = 50
_HUES = {"minislm": "Blues", "transformers": "Greys", "ctranslate2": "Oranges",
         "ct2, 1 thread": "Reds", "llama.cpp": "Greens"}  # fmt: skip


@dataclass
class Row:
    """One engine in one precision, for one batch size and one way to choose tokens."""

    engine: str
    dtype: str
    mode: str
    batch: int
    rates: list[float] = field(default_factory=list)  # new tokens per second
    first: list[float] = field(default_factory=list)  # seconds to the first token
    memory_mb: float = 0.0  # the most that its process has held so far
    failure: str | None = None

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(self.rates) if self.rates else 0.0

    def as_json(self) -> dict[str, Any]:
        shown = {"engine": self.engine, "dtype": self.dtype, "mode": self.mode, "batch": self.batch}
        if self.failure:
            return shown | {"failure": self.failure}
        return shown | {
            "tokens_per_s": self.tokens_per_s,
            "first_token_ms": 1000 * statistics.median(self.first),
            "memory_mb": self.memory_mb,
            "runs": self.rates,
        }


def run(
    source: str | None, config: BenchmarkConfig, machine: MachineConfig, compiled: bool = False
) -> None:
    """Measure, print the table, and write JSON and a chart where asked for.

    Raises:
        UserError: a model that cannot be opened, a peer that was asked for and is not installed.
    """
    threads, device = machine.threads or torch.get_num_threads(), choose_device(machine.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = _model_folder(source, config.shape, Path(temporary))
        shape = load(folder)[0]
        limits = machine_limits(threads, device)
        say(f"limits of the machine: {limits_shown(limits)}")
        rows = _measure(folder, shape.config.vocab_size, config, threads, device.type, compiled)
        results = table(rows, shape, limits, config.new_tokens)
        result = {
            "model": source or config.shape,
            "parameters": shape.n_parameters(),
            "device": name_of(device),
            "threads": threads,
            "prompt_tokens": PROMPT,
            "new_tokens": config.new_tokens,
            "rows": [row.as_json() for row in rows],
            "limits": limits,
        }
    print(results)
    if machine.json:
        write_json(machine.json, result)
    if config.chart:
        on = f"{threads} threads of " if device.type == "cpu" else ""
        chart(rows, on + name_of(device), Path(config.chart))


def _model_folder(source: str | None, shape: str, temporary: Path) -> Path:
    """A Hugging Face folder with the weights to measure: the given one, or random ones."""
    if source is not None:
        if not Path(source).is_dir():
            raise UserError(f"--benchmark takes a model folder, and {source} is none")
        return Path(source)
    model = Transformer(ModelConfig(**SHAPES[shape])).eval()
    model.initialize(torch.Generator().manual_seed(0))
    words = {f"t{number}": number for number in range(model.config.vocab_size - 1)}
    words["<|endoftext|>"] = len(words)
    folder = temporary / shape
    tokenizer = Tokenizer(Backend(models.WordLevel(words, unk_token="t0")))
    save_model(folder, model, tokenizer)
    return folder


def _measure(
    folder: Path, vocabulary: int, config: BenchmarkConfig, threads: int, device: str,
    compiled: bool,
) -> list[Row]:  # fmt: skip
    """All engines, interleaved, one batch size after the other."""
    workers, rows = [], []
    for engine, precision in _wanted(config, threads, device):
        own = (compiled,) if engine == "minislm" else ()
        worker = Apart(ENGINES[engine][2], folder, precision, threads, device, *own)
        workers.append((worker, engine, precision))
    for batch in config.batch_sizes:
        numbers = random.Random(batch)
        prompts = [
            [numbers.randrange(1, vocabulary - 1) for _ in range(PROMPT)] for _ in range(batch)
        ]
        of_batch = [
            (worker, Row(engine, precision, mode, batch, failure=worker.failure))
            for worker, engine, precision in workers
            for mode in config.modes.split(",")
        ]
        turns = range(config.rounds + 1)
        for turn in tqdm(turns, desc=f"batch {batch}", disable=None, leave=False):
            for worker, row in of_batch:
                _measure_once(worker, row, prompts, config.new_tokens, warm_up=turn == 0)
        rows += [row for _, row in of_batch]
    for worker, _, _ in workers:
        worker.close()
    return rows


def _wanted(config: BenchmarkConfig, threads: int, device: str) -> Iterable[tuple[str, str]]:
    asked = [each for each in config.precisions.split(",") if device == "cpu" or each != "int8"]
    for engine, (packages, precisions, make) in ENGINES.items():
        if engine != "minislm" and not config.peers:
            continue
        if device != "cpu" and not make.on_gpu:
            continue
        if make is CTranslate2Alone and threads == 1:
            continue
        if not installed(engine):
            say(f"{engine} is not installed (pip install {packages}): left out")
            continue
        yield from ((engine, each) for each in precisions if each in asked)


def _measure_once(
    worker: Apart, row: Row, prompts: list[list[int]], new_tokens: int, warm_up: bool
) -> None:
    if row.failure:
        return
    top_k = TOP_K if row.mode == "top-k" else 0
    whole, first = (worker.measure(prompts, count, top_k) for count in (new_tokens, 1))
    failed = next((answer for answer in (whole, first) if isinstance(answer, str)), None)
    if failed is not None:
        row.failure = failed
    elif not warm_up:
        row.rates.append(len(prompts) * new_tokens / whole["seconds"])
        row.first.append(first["seconds"])
        row.memory_mb = max(row.memory_mb, whole["memory_mb"])


def roofline(
    model: Transformer, dtype: str, batch: int, limits: dict[str, float], new_tokens: int
) -> float:
    """Tokens/s that products and memory allow: the slower of the two decides.

    Every step multiplies each weight once a row, and reads every weight and, on average, half of
    the keys and values that the rows will have.
    """
    config = model.config
    weights = sum(block.numel() for block in model.blocks.parameters())
    weights += config.vocab_size * config.width
    read = PROMPT + new_tokens / 2  # tokens a query reads, on average
    cached = 2 * config.n_layer * config.kv_heads * config.head_width * read
    queries = 2 * config.n_layer * config.n_head * config.head_width * read
    operations = 2 * batch * (weights + queries)
    size = {"float32": 4, "int8": 1}.get(dtype, 2)
    in_bytes = weights * size + batch * cached * max(size, 2)
    rate = limits["gflops_float32" if dtype == "float32" else "gflops_bfloat16"]
    rate *= 2 if dtype == "int8" else 1
    bandwidth = limits["cache_gb_s" if in_bytes < 30e6 else "memory_gb_s"]
    return batch / max(operations / rate / 1e9, in_bytes / bandwidth / 1e9)


def table(
    rows: list[Row], model: Transformer, limits: dict[str, float], new_tokens: int
) -> str:
    """A line a row; beside our own rows what they are in terms of each peer's best and ours."""
    peers = sorted({row.engine for row in rows} - {"minislm"})
    head = f"{'engine':<14}{'dtype':<10}{'mode':<8}{'batch':>6}{'tokens/s':>10}{'roofline':>10}"
    head += f"{'first ms':>10}{'MB':>7}" + "".join(f"{'/ ' + peer:>16}" for peer in peers)
    lines = [head]
    for row in rows:
        if row.failure:
            lines.append(
                f"{row.engine:<14}{row.dtype:<10}{row.mode:<8}{row.batch:>6}  {row.failure}"
            )
            continue
        share = row.tokens_per_s / roofline(model, row.dtype, row.batch, limits, new_tokens)
        line = f"{row.engine:<14}{row.dtype:<10}{row.mode:<8}{row.batch:>6}"
        line += f"{row.tokens_per_s:>10,.0f}{share:>10.0%}"
        line += f"{1000 * statistics.median(row.first):>10.1f}{row.memory_mb:>7,.0f}"
        line += "".join(f"{_ratio(row, rows, peer):>16}" for peer in peers)
        lines.append(line.rstrip())
    return "\n".join(lines)


def _ratio(row: Row, rows: list[Row], peer: str) -> str:
    """Ours over a peer's: float32 against float32, less against the peer's best of all."""
    if row.engine != "minislm":
        return ""
    of_peer = [
        other.tokens_per_s
        for other in rows
        if other.engine == peer
        and (other.mode, other.batch) == (row.mode, row.batch)
        and (other.dtype == "float32" or row.dtype != "float32")
    ]
    best = max(of_peer, default=0.0)
    return f"{row.tokens_per_s / best:.2f}x" if best else ""


def chart(rows: list[Row], where: str, path: Path) -> None:
    """Bars as a PNG: a panel for each batch size and way to choose, an engine a colour.

    Raises:
        UserError: there is no matplotlib.
    """
    if (pyplot := plotting()) is None:
        raise UserError("--chart needs matplotlib: pip install -e '.[plot]'")
    modes = list(dict.fromkeys(row.mode for row in rows))
    batches = sorted({row.batch for row in rows})
    kinds = list(dict.fromkeys((row.engine, row.dtype) for row in rows))
    figure, axes = pyplot.subplots(
        len(modes), len(batches), figsize=(1 + 2.6 * len(batches), 0.8 + 2.4 * len(modes)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for line, mode in zip(axes, modes):
        for panel, batch in zip(line, batches):
            for place, kind in enumerate(kinds):
                rate = next(
                    r.tokens_per_s for r in rows
                    if ((r.engine, r.dtype), r.mode, r.batch) == (kind, mode, batch)
                )  # fmt: skip
                panel.bar(place, rate, color=_colour(*kind), label=" ".join(kind))
            panel.set_title(f"batch {batch}, {mode}", fontsize=9)
            panel.set_xticks([])
            panel.tick_params(labelsize=8)
            panel.spines[["top", "right"]].set_visible(False)
            panel.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    names = axes[0][0].get_legend_handles_labels()
    figure.legend(*names, loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(f"new tokens per second on {where}", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)
    print(f"chart: {path}", file=sys.stderr)


def _colour(engine: str, dtype: str) -> tuple[float, ...]:
    """A hue for an engine, darker for larger numbers."""
    depth = {"float32": 0.85, "int8": 0.4}.get(dtype, 0.6)
    return plotting().colormaps[_HUES[engine]](depth)
