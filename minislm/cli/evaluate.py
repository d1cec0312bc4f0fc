"""eval.py: models side by side, with any tokenizers: loss, exact match, and continuations."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minislm.cli.config import DataConfig, EvalConfig, MachineConfig
from minislm.cli.data import measured_text
from minislm.cli.open_model import open_model
from minislm.cli.run_settings import Settings, task_names
from minislm.config import SampleConfig
from minislm.dataset import TokenDataset
from minislm.evaluation import TaskScore, TextLoss, document_losses, exact_match
from minislm.fast.linear import prepack
from minislm.fast.sampler import FastSampler
from minislm.reporting.tables import columns, model_entry, task_table
from minislm.runtime.errors import log
from minislm.runtime.files import write_json

_PROMPTS = ("Once upon a time", "One day, a little girl named Lily")


@dataclass(frozen=True)
class Result:
    """The figures of one model."""

    name: str
    parameters: int
    loss: TextLoss
    tokens_per_s: float
    scores: dict[str, TaskScore]
    texts: list[str]


def evaluate(
    sources: list[str | None], prompts: list[str], config: EvalConfig, machine: MachineConfig
) -> None:
    """Measure every model, print the tables, and write the JSON object if it is asked for.

    Raises:
        UserError: a model, a text or a task that does not exist.
    """
    tasks = task_names(DataConfig(tasks=config.tasks))  # an unknown task is refused before any work
    prompts = prompts or (list(_PROMPTS) if len(sources) > 1 else [])
    results = [
        _measure(source, prompts, config, machine, None if config.tasks == "auto" else tasks)
        for source in sources
    ]
    print(_figures(results))
    for result in results:
        if result.scores:
            print(f"\n{result.name}\n{task_table(result.scores)}")
    for p, prompt in enumerate(prompts):
        print("\n" + columns(prompt, [(r.name, r.texts[p]) for r in results]))
    if machine.json:
        entries = {
            r.name: model_entry(r.parameters, r.loss, r.scores) | {"tokens_per_s": r.tokens_per_s}
            for r in results
        }
        write_json(machine.json, {"models": entries})


def _measure(
    source: str | None, prompts: list[str], config: EvalConfig, machine: MachineConfig,
    tasks: list[str] | None,
) -> Result:  # fmt: skip
    name, model, tokenizer = open_model(source, machine)
    if machine.dtype == "int8":
        model = prepack(model, "int8", rows=64)
    settings = run_settings(name)
    if tasks is None:
        tasks = Settings.tasks(Path(name)) if settings else []
    text = measured_text(settings, tokenizer, config)
    log(f"evaluating {name}: {len(text):,} stories, {text.n_tokens:,} tokens")
    begin = time.perf_counter()
    nats = document_losses(model, text, tokenizer.eot_id, context=config.context, progress=True)
    rate = text.n_tokens / (time.perf_counter() - begin)
    loss = TextLoss(float(nats.sum()), text.n_tokens, text.bytes)
    context = min(config.context or model.config.context, model.config.context)
    if (message := _long_documents(name, nats, text, context)) is not None:
        log(message)
    sampler = FastSampler(model, tokenizer, config.batch_size)
    scores = exact_match(sampler, tasks)
    settings = SampleConfig(max_new_tokens=60, temperature=0.0)
    texts = sampler.generate(prompts, settings) if prompts else []
    return Result(name, model.n_parameters(), loss, rate, scores, texts)


def run_settings(name: str) -> Settings | None:
    """The settings of a model that is a run folder of train.py; None for another one."""
    run = Path(name)
    return Settings.read(run) if (run / "run.json").is_file() else None


def _long_documents(name: str, nats: np.ndarray, text: TokenDataset, context: int) -> str | None:
    """How the documents beyond the context were read, and the loss of the others alone."""
    lengths = np.diff(text.starts)
    fits = lengths <= context
    if fits.all() or not fits.any():
        return None
    loss = TextLoss(float(nats[fits].sum()), int(lengths[fits].sum()), int(text.sizes[fits].sum()))
    return (
        f"{name}: {(~fits).sum():,} stories exceed its {context} tokens and were read in windows "
        f"that overlap by half; the {fits.sum():,} others alone: {loss.nats_per_token:.4f} nats "
        f"per token, {loss.bits_per_byte:.4f} bits per byte"
    )


def _figures(results: list[Result]) -> str:
    """One line per model."""
    width = max(len("model"), *(len(result.name) for result in results))
    head = ("parameters", "nats/token", "perplexity", "bits/byte", "tokens/s")
    lines = [f"{'model':<{width}}" + "".join(f"{name:>13}" for name in head)]
    for r in results:
        lines.append(
            f"{r.name:<{width}}{r.parameters:>13,}{r.loss.nats_per_token:>13.4f}"
            f"{r.loss.perplexity:>13.2f}{r.loss.bits_per_byte:>13.4f}{r.tokens_per_s:>13,.0f}"
        )
    return "\n".join(lines)
