"""eval.py --inspect and --off: a page about the inside of a model, and a model with parts ablated."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tqdm import tqdm

from minislm.cli.config import EvalConfig, MachineConfig
from minislm.cli.data import measured_text
from minislm.cli.evaluate import run_settings
from minislm.cli.open_model import open_model
from minislm.config import SampleConfig
from minislm.fast.sampler import FastSampler
from minislm.interpret import ablation, activations, page
from minislm.interpret.config import InspectConfig
from minislm.model import Transformer
from minislm.runtime.errors import UserError, log
from minislm.tokenizer import Tokenizer

_STORIES = 12  # on which heads are classified and ablated
_NEURON_STORIES = 200  # in which the largest activations of neurons are searched


def write_page(
    source: str | None, config: InspectConfig, evaluation: EvalConfig, machine: MachineConfig
) -> None:
    """Write the page about a model reading a text, with pictures beside it, and print where.

    Raises:
        UserError: no such model or text; an empty text; a file that cannot be written.
    """
    if not config.inspect.strip():
        raise UserError('--inspect needs a text to read, such as "Once upon a time"')
    name, model, tokenizer = _open(source, machine)
    stories = _stories(name, tokenizer, evaluation, _NEURON_STORIES)
    with ablation.ablated(model, ablation.parse(config.off) if config.off else []):
        text, maps = activations.read(model, tokenizer, config.inspect)
        parts = tqdm(ablation.heads(model), unit="head", disable=None, leave=False)
        heads = activations.classify_heads(model, tokenizer, stories[:_STORIES], parts)
        neurons = activations.neuron_peaks(model, tokenizer, stories)
    path = Path(config.out)
    about = {
        "model": Path(name).name, "off": config.off or "", "parameters": model.n_parameters(),
        "stories": len(stories),
    }  # fmt: skip
    page.write_page(path, about, text, maps, heads, neurons)
    pictures = page.draw(path.parent, path.stem, text, maps, heads)
    if not pictures:
        log("no pictures: they need matplotlib (pip install -e '.[plot]')")
    print(head_table(heads))
    print(f"\npage: {path}" + "".join(f"\npicture: {each}" for each in pictures))


def head_table(heads: list[activations.Head]) -> str:
    """The heads, sorted by what ablating each costs."""
    lines = [f"{'head':<8}{'kind':<10}{'attends to':<26}{'weight':>7}{'cost (nats/token)':>20}"]
    for head in sorted(heads, key=lambda head: -head.cost):
        by_distance = head.kind == "distance"
        target = f"{head.distance} tokens back" if by_distance else f"{head.word_class}s"
        weight = head.at_distance if by_distance else head.on_class
        target = target if target != "others" else "other words"
        place = f"{head.layer}.{head.number}"
        lines.append(f"{place:<8}{head.kind:<10}{target:<26}{weight:>7.0%}{head.cost:>+20.4f}")
    return "\n".join(lines)


def ablate(
    source: str | None, prompts: list[str], config: InspectConfig, evaluation: EvalConfig,
    machine: MachineConfig,
) -> None:  # fmt: skip
    """Print the loss and the continuations of a model with and without some of its parts."""
    parts = ablation.parse(config.off)
    name, model, tokenizer = _open(source, machine)
    stories = _stories(name, tokenizer, evaluation, 4 * _STORIES)
    settings = SampleConfig(max_new_tokens=60, temperature=0.0)
    prompts = prompts or ["Once upon a time"]
    whole = activations.mean_loss(model, tokenizer, stories)
    before = FastSampler(model, tokenizer).generate(prompts, settings)
    with ablation.ablated(model, parts):
        without = activations.mean_loss(model, tokenizer, stories)
        after = FastSampler(model, tokenizer).generate(prompts, settings)
    print(f"{name}, {len(stories)} stories: {whole:.4f} nats per token")
    print(f"without {', '.join(map(str, parts))}: {without:.4f} ({without - whole:+.4f})")
    for prompt, one, other in zip(prompts, before, after):
        print(
            f"\n{prompt}\n  whole:   {' '.join(one.split())}\n  without: {' '.join(other.split())}"
        )


def _open(source: str | None, machine: MachineConfig) -> tuple[str, Transformer, Tokenizer]:
    if machine.dtype == "int8":
        raise UserError("--inspect and --off read the weights as they are; leave --dtype int8 out")
    return open_model(source, machine)


def _stories(name: str, tokenizer: Tokenizer, evaluation: EvalConfig, most: int) -> list[str]:
    """Stories of the text that eval.py would evaluate on, spread over it."""
    text = measured_text(run_settings(name), tokenizer, evaluation)
    every = max(1, len(text) // most)
    return [
        tokenizer.decode([i for i in text.document(k).tolist() if i != tokenizer.eot_id])
        for k in islice(range(0, len(text), every), most)
    ]
