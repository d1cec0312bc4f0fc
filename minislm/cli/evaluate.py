"""eval.py: models side by side, with any tokenizers: loss, exact match, and continuations."""

import time
from typing import Any

import numpy as np

from minislm.cli.config import DataConfig, EvalConfig, MachineConfig
from minislm.cli.data import measured_text
from minislm.cli.open_model import open_model
from minislm.cli.run_settings import Settings, task_names
from minislm.evaluation import TaskScore, TextLoss, document_losses, exact_match
from minislm.fast.linear import prepack
from minislm.fast.sampler import FastSampler
from minislm.reporting.tables import columns, model_entry, task_table
from minislm.runtime.errors import log
from minislm.runtime.files import write_json

_PROMPTS = ["Once upon a time", "One day, a little girl named Lily"]
_FORMATS = {"parameters": ",", "nats_per_token": ".4f", "perplexity": ".2f",
            "bits_per_byte": ".4f", "tokens_per_s": ",.0f"}  # fmt: skip


def evaluate(
    sources: list[str | None], prompts: list[str], config: EvalConfig, machine: MachineConfig
) -> None:
    """Measure every model, print the tables, and write the file of --json.
    UserError: a model, a text or a task that does not exist."""
    prompts = prompts or (_PROMPTS if len(sources) > 1 else [])
    results = [_measure(source, prompts, config, machine) for source in sources]
    width = max(len("model"), *(len(name) for name, *_ in results))
    heads = (figure.replace("_per_", "/") for figure in _FORMATS)
    print(f"{'model':<{width}}" + "".join(f"{head:>13}" for head in heads))
    for name, entry, *_ in results:
        cells = (f"{entry[figure]:>13{form}}" for figure, form in _FORMATS.items())
        print(f"{name:<{width}}" + "".join(cells))
    for name, _, scores, _ in results:
        if scores:
            print(f"\n{name}\n{task_table(scores)}")
    for p, prompt in enumerate(prompts):
        print("\n" + columns(prompt, [(name, texts[p]) for name, _, _, texts in results]))
    if machine.json:
        write_json(machine.json, {"models": {name: entry for name, entry, *_ in results}})


def _measure(
    source: str | None, prompts: list[str], config: EvalConfig, machine: MachineConfig
) -> tuple[str, dict[str, Any], dict[str, TaskScore], list[str]]:
    """The name of a model, its entry for --json, its scores, and its continuations."""
    tasks = None if config.tasks == "auto" else task_names(DataConfig(tasks=config.tasks))
    name, model, tokenizer = open_model(source, machine)
    if machine.dtype == "int8":
        model = prepack(model, "int8", rows=64)
    settings = Settings.read(name)
    if tasks is None:
        tasks = Settings.tasks(name) if settings else []
    text = measured_text(settings, tokenizer, config)
    log(f"evaluating {name}: {len(text):,} stories, {text.n_tokens:,} tokens")
    begin = time.perf_counter()
    nats = document_losses(model, text, tokenizer.eot_id, context=config.context, progress=True)
    rate = text.n_tokens / (time.perf_counter() - begin)
    loss = TextLoss(float(nats.sum()), text.n_tokens, text.bytes)
    context = min(config.context or model.config.context, model.config.context)
    lengths = np.diff(text.starts)
    fits = lengths <= context
    if fits.any() and not fits.all():
        part = nats[fits].sum(), lengths[fits].sum(), text.sizes[fits].sum()
        others = TextLoss(*(each.item() for each in part))
        read = f"exceed its {context} tokens and were read in windows that overlap by half"
        alone = f"{others.nats_per_token:.4f} nats per token, {others.bits_per_byte:.4f} bits"
        long, short = f"{(~fits).sum():,} stories", f"{fits.sum():,} others"
        log(f"{name}: {long} {read}; the {short} alone: {alone} per byte")
    sampler = FastSampler(model, tokenizer, config.batch_size)
    scores = exact_match(sampler, tasks)
    texts = sampler.generate(prompts, max_new_tokens=60, temperature=0.0)
    entry = model_entry(model.n_parameters(), loss, scores) | {"tokens_per_s": rate}
    return name, entry, scores, texts
