"""Models side by side, whatever their tokenizers: loss, exact match, and what they say."""

from __future__ import annotations

import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

from minislm import checkpoint, evaluation
from minislm.pretrained.load import load
from minislm.config import DataConfig, EvalConfig, MachineConfig, SampleConfig
from minislm.corpus.prepare import TokenFile, prepare
from minislm.runtime.device import choose_device, set_threads
from minislm.runtime.errors import UserError, say
from minislm.runtime.files import write_json
from minislm.pretrained.hub import find_text
from minislm.model import Transformer
from minislm.fast.linear import pack
from minislm.cli.train import HELD_OUT_STORIES, generated_tokens, prepare_corpus
from minislm.sampler import Sampler
from minislm.cli.run_settings import Settings, task_names
from minislm.tokenizer import Tokenizer

_CELL = 44  # characters of a column of text
_PROMPTS = ("Once upon a time", "One day, a little girl named Lily")


@dataclass(frozen=True)
class Measured:
    """One model's figures."""

    name: str
    parameters: int
    loss: evaluation.TextLoss
    tokens_per_s: float
    scores: dict[str, evaluation.TaskScore]
    texts: list[str]


def open_model(
    source: str | None, machine: MachineConfig, to_sample: bool = False
) -> tuple[str, Transformer, Tokenizer]:
    """The model that --model names, or the newest run: its name, the model and its tokenizer.

    `to_sample`: int8 is left to the sampler, which knows for how many rows.
    """
    set_threads(machine.threads)
    device = choose_device(machine.device)
    source = source if source is not None else str(checkpoint.newest_run())
    if machine.dtype != "int8":
        return (source, *load(source, dtype=machine.dtype, device=str(device)))
    if device.type != "cpu":
        raise UserError("--dtype int8 is for the CPU; use --device cpu or --dtype bfloat16")
    model, tokenizer = load(source)
    if to_sample:
        return source, model, tokenizer
    return source, pack(model, "int8", rows=64), tokenizer


def evaluate(
    sources: list[str | None], prompts: list[str], config: EvalConfig, machine: MachineConfig
) -> None:
    """Measure every model, print the tables, and write the JSON object if it is asked for.

    Raises:
        UserError: a model, a text or a task that is not there.
    """
    asked = task_names(DataConfig(tasks=config.tasks))  # an unknown task is told before any work
    prompts = prompts or (list(_PROMPTS) if len(sources) > 1 else [])
    results, entries = [], {}
    for source in sources:
        name, model, tokenizer = open_model(source, machine)
        tasks = asked if config.tasks != "auto" else _trained_tasks(name)
        text = measured_text(name, tokenizer, config)
        say(f"measuring {name}: {len(text):,} stories, {text.n_tokens:,} tokens")
        begin = time.perf_counter()
        nats = evaluation.story_losses(
            model, text, tokenizer.eot_id, context=config.context, progress=True
        )
        rate = text.n_tokens / (time.perf_counter() - begin)
        loss = evaluation.TextLoss(float(nats.sum()), text.n_tokens, text.bytes)
        context = min(config.context or model.config.context, model.config.context)
        fitting = evaluation.loss_of_fitting(nats, text, tokenizer, context)
        scores = evaluation.exact_match(model, tokenizer, tasks, config.batch_size)
        told = SampleConfig(max_new_tokens=60, temperature=0.0)
        texts = Sampler(model, tokenizer).generate(prompts, told) if prompts else []
        results.append(Measured(name, model.n_parameters(), loss, rate, scores, texts))
        entries[name] = evaluation.as_json(model, loss, scores) | {"tokens_per_s": rate}
        if 0 < fitting[0] < len(text):
            say(_about_long_stories(name, len(text), context, *fitting))
    print(figures(results))
    for result in results:
        if result.scores:
            print(f"\n{result.name}\n{evaluation.task_table(result.scores)}")
    for p, prompt in enumerate(prompts):
        print("\n" + columns(prompt, [(r.name, r.texts[p]) for r in results]))
    if machine.json:
        write_json(machine.json, {"models": entries})


def _trained_tasks(name: str) -> list[str]:
    run = Path(name)
    return Settings.tasks(run) if (run / "run.json").is_file() else []


def measured_text(name: str, tokenizer: Tokenizer, config: EvalConfig) -> TokenFile:
    """The text to measure on: --data, the run's own validation text, or generated stories."""
    run, cache = Path(name), DataConfig().cache
    if config.data is not None:
        text, validation = find_text(config.data)
        return prepare(validation or text, tokenizer, cache)
    if (run / "run.json").is_file():
        return prepare_corpus(Settings.read(run), tokenizer).valid
    return generated_tokens(HELD_OUT_STORIES, 1, 0, tokenizer, cache)


def _about_long_stories(
    name: str, stories: int, context: int, fitting: int, loss: evaluation.TextLoss
) -> str:
    return (
        f"{name}: {stories - fitting:,} stories exceed its {context} tokens and were read in "
        f"windows that overlap by half; the {fitting:,} others alone: {loss.nats_per_token:.4f} "
        f"nats per token, {loss.bits_per_byte:.4f} bits per byte"
    )


def figures(results: list[Measured]) -> str:
    """One line a model."""
    width = max(len("model"), *(len(result.name) for result in results))
    head = ("parameters", "nats/token", "perplexity", "bits/byte", "tokens/s")
    lines = [f"{'model':<{width}}" + "".join(f"{name:>13}" for name in head)]
    for r in results:
        lines.append(
            f"{r.name:<{width}}{r.parameters:>13,}{r.loss.nats_per_token:>13.4f}"
            f"{r.loss.perplexity:>13.2f}{r.loss.bits_per_byte:>13.4f}{r.tokens_per_s:>13,.0f}"
        )
    return "\n".join(lines)


def columns(prompt: str, texts: list[tuple[str, str]]) -> str:
    """The continuations of one prompt beside each other, a column a model."""
    wrapped = [
        [name[-_CELL:], "-" * min(_CELL, len(name))]
        + textwrap.wrap(" ".join(text.split()), _CELL, break_long_words=True)
        for name, text in texts
    ]
    lines = [f'"{prompt}" ...']
    for line in range(max(map(len, wrapped))):
        cells = (column[line] if line < len(column) else "" for column in wrapped)
        lines.append("  ".join(f"{cell:<{_CELL}}" for cell in cells).rstrip())
    return "\n".join(lines)
