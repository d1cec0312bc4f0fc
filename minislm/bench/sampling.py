"""Sampling throughput: our samplers beside other engines, on the same weights, in one run."""

import random
import tempfile
from collections import namedtuple
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models

from minislm.bench.config import PRECISIONS, SHAPES, BenchmarkConfig
from minislm.bench.engines import ENGINES, ONE_THREAD, installed
from minislm.bench.isolate import IsolatedProcess, Measurement, measure_in_turn, text_table
from minislm.bench.machine import measure_machine, sampling_roofline
from minislm.config import PRESETS, ModelConfig
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.reporting.plots import throughput_chart
from minislm.runtime.device import select_device
from minislm.runtime.errors import UserError, log
from minislm.runtime.files import write_json
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import Tokenizer

PROMPT = 16  # tokens in a prompt
TOP_K = {"greedy": 0, "top-k": 50}
OURS = ("minislm", "plain sampler")  # all other engines are compared with the first
Case = namedtuple("Case", "engine dtype mode batch")
COLUMNS = {"engine": "<15", "dtype": "<10", "mode": "<8", "batch": ">6", "tokens/s": ">10",
           "roofline": ">10", "first ms": ">10", "MB": ">7"}  # fmt: skip


def benchmark(
    source: str | None, config: BenchmarkConfig, *, device: str = "auto",
    threads: int | None = None, json: str | None = None, compiled: bool = False,
) -> None:  # fmt: skip
    """Measure, print the table, and write the JSON file and the plot where they are named.
    UserError: a model that cannot be opened."""
    where, threads = select_device(device), threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as temporary:
        folder = _model_folder(source, config.preset, Path(temporary))
        model, facts = load(folder)[0], measure_machine(where, threads)
        rows = _measure(folder, model.config.vocab_size, config, threads, where.type, compiled)
    print(table(rows, model, facts["limits"], config.max_new_tokens))
    if json:
        result = {"model": source or config.preset, "parameters": model.n_parameters(),
                  "prompt_tokens": PROMPT, "new_tokens": config.max_new_tokens,
                  "rows": [entry(row) for row in rows]}  # fmt: skip
        write_json(json, result | facts)
    if config.out:
        cores = f"{threads} threads of " if where.type == "cpu" else ""
        rates = [(*row.case, row.tokens_per_s) for row in rows]
        throughput_chart(rates, cores + facts["device"], Path(config.out))
        log(f"plot: {config.out}")


def _model_folder(source: str | None, preset: str, temporary: Path) -> Path:
    """A Hugging Face folder with the weights to measure: the given one, or random ones."""
    if source is not None:
        if not Path(source).is_dir():
            raise UserError(f"--benchmark needs a model folder, and {source} is not one")
        return Path(source)
    model = Transformer(ModelConfig(**SHAPES[preset], **PRESETS["gpt2"])).eval()
    model.initialize(torch.Generator().manual_seed(0))
    words = {f"t{number}": number for number in range(model.config.vocab_size - 1)}
    words[END_OF_TEXT] = len(words)
    save(temporary, model, Tokenizer(Backend(models.WordLevel(words, unk_token="t0"))))
    return temporary


def _measure(
    folder: Path, vocab: int, config: BenchmarkConfig, threads: int, device: str, compiled: bool
) -> list[Measurement]:
    """All engines, interleaved, one batch size after the other."""
    processes, rows = {}, []
    for engine, precision in _engines(config, threads, device):
        arguments = (folder, precision, 1 if engine == ONE_THREAD else threads, device, compiled)
        processes[engine, precision] = IsolatedProcess(ENGINES[engine], *arguments)
    for batch in config.batch_sizes:
        numbers = random.Random(batch)
        prompts = [numbers.choices(range(1, vocab - 1), k=PROMPT) for _ in range(batch)]
        of_batch, tokens = [], batch * config.max_new_tokens
        for (key, process), mode in product(processes.items(), config.modes.split(",")):
            requests = [(prompts, count, TOP_K[mode]) for count in (config.max_new_tokens, 1)]
            row = Measurement(Case(*key, mode, batch), process, requests, tokens)
            row.failure = process.failure
            of_batch.append(row)
        measure_in_turn(of_batch, config.rounds, f"batch {batch}")
        rows += of_batch
    for process in processes.values():
        process.close()
    return rows


def _engines(config: BenchmarkConfig, threads: int, device: str) -> Iterable[tuple[str, str]]:
    """The engines and precisions to measure; logs those that are not installed."""
    precisions = config.precisions.split(",")
    for name, engine in ENGINES.items():
        wanted = (config.peers or name in OURS) and (device == "cpu" or engine.on_gpu)
        if not wanted or (name == ONE_THREAD and threads == 1):
            continue
        if not installed(name):
            log(f"{name} is not installed (pip install {engine.packages}): left out")
            continue
        for precision in engine.precisions:
            if precision in precisions and (device == "cpu" or precision != "int8"):
                yield name, precision


def entry(row: Measurement) -> dict[str, Any]:
    """The entry of --json."""
    case = row.case._asdict()
    if row.failure:
        return case | {"failure": row.failure}
    return case | {"tokens_per_s": row.tokens_per_s, "first_token_ms": 1000 * median(row.first),
                   "memory_mb": row.memory_mb, "runs": row.rates}  # fmt: skip


def table(
    rows: list[Measurement], model: Transformer, limits: dict[str, float], new_tokens: int
) -> str:
    """One line per measurement; beside ours the ratio to the best of each other engine."""
    others = sorted({row.case.engine for row in rows} - {"minislm"})

    def figures(row: Measurement) -> list[str]:
        case, rate = row.case, row.tokens_per_s
        attended = PROMPT + new_tokens / 2  # on average, half of the new tokens are there
        limit = sampling_roofline(model, case.dtype, case.batch, attended, limits)
        return [f"{rate:,.0f}", f"{rate / limit:.0%}", f"{1000 * median(row.first):.1f}",
                f"{row.memory_mb:,.0f}", *(_ratio(row, rows, other) for other in others)
                ]  # fmt: skip

    return text_table(COLUMNS | {f"/ {other}": ">16" for other in others}, rows, figures)


def _ratio(row: Measurement, rows: list[Measurement], engine: str) -> str:
    """Ours over another engine: float32 over float32, less over its best of all."""
    if row.case.engine != "minislm":
        return ""
    dtypes = ("float32",) if row.case.dtype == "float32" else PRECISIONS
    cases = [row.case._replace(engine=engine, dtype=dtype) for dtype in dtypes]
    best = max((other.tokens_per_s for other in rows if other.case in cases), default=0.0)
    return f"{row.tokens_per_s / best:.2f}x" if best else ""
