"""eval.py --inspect and --off: a page about a model's inside, and a model without some parts."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tqdm import tqdm

from minislm.interpret import ablation, activations as interpret
from minislm.cli.evaluate import measured_text, open_model
from minislm.config import EvalConfig, InspectConfig, MachineConfig, SampleConfig
from minislm.runtime.errors import UserError, say
from minislm.model import Transformer
from minislm.interpret.page import draw, write_page
from minislm.sampler import Sampler
from minislm.tokenizer import Tokenizer

_STORIES = 12  # that heads are sorted by and switched off on
_EXCITING = 200  # stories whose tokens excite neurons


def look_inside(
    source: str | None, config: InspectConfig, evaluated: EvalConfig, machine: MachineConfig
) -> None:
    """Write the page about a model reading a text, with pictures beside it, and say where.

    Raises:
        UserError: no such model or text; nothing to read; a file that cannot be written.
    """
    if not config.inspect.strip():
        raise UserError('--inspect takes a text to read, such as "Once upon a time"')
    name, model, tokenizer = _open(source, machine)
    stories = _stories(name, tokenizer, evaluated, _EXCITING)
    with ablation.switched_off(model, ablation.parse(config.off) if config.off else []):
        text, maps = interpret.read(model, tokenizer, config.inspect)
        parts = tqdm(ablation.heads(model), unit="head", disable=None, leave=False)
        heads = interpret.sort_heads(model, tokenizer, stories[:_STORIES], parts)
        neurons = interpret.excite(model, tokenizer, stories)
    path = Path(config.page)
    about = {
        "model": Path(name).name, "off": config.off or "", "parameters": model.n_parameters(),
        "stories": len(stories),
    }  # fmt: skip
    write_page(path, about, text, maps, heads, neurons)
    drawn = draw(path.parent, path.stem, text, maps, heads)
    if not drawn:
        say("no pictures: they need matplotlib (pip install -e '.[plot]')")
    print(table(heads))
    print(f"\npage: {path}" + "".join(f"\npicture: {each}" for each in drawn))


def table(heads: list[interpret.Head]) -> str:
    """The heads by what switching each off costs."""
    lines = [f"{'head':<8}{'kind':<10}{'looks at':<26}{'share':>7}{'cost (nats/token)':>20}"]
    for head in sorted(heads, key=lambda head: -head.cost):
        by_distance = head.kind == "distance"
        looks = f"{head.distance} tokens back" if by_distance else f"{head.word_class}s"
        share = head.at_distance if by_distance else head.on_class
        looks = looks if looks != "others" else "other words"
        place = f"{head.layer}.{head.number}"
        lines.append(f"{place:<8}{head.kind:<10}{looks:<26}{share:>7.0%}{head.cost:>+20.4f}")
    return "\n".join(lines)


def switch_off(
    source: str | None, prompts: list[str], config: InspectConfig, evaluated: EvalConfig,
    machine: MachineConfig,
) -> None:  # fmt: skip
    """Print the loss and the continuations of a model with and without some of its parts."""
    parts = ablation.parse(config.off)
    name, model, tokenizer = _open(source, machine)
    stories = _stories(name, tokenizer, evaluated, 4 * _STORIES)
    told = SampleConfig(max_new_tokens=60, temperature=0.0)
    prompts = prompts or ["Once upon a time"]
    whole = interpret.mean_loss(model, tokenizer, stories)
    before = Sampler(model, tokenizer).generate(prompts, told)
    with ablation.switched_off(model, parts):
        without = interpret.mean_loss(model, tokenizer, stories)
        after = Sampler(model, tokenizer).generate(prompts, told)
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


def _stories(name: str, tokenizer: Tokenizer, evaluated: EvalConfig, most: int) -> list[str]:
    """Stories of the text that eval.py would measure on, spread over it."""
    text = measured_text(name, tokenizer, evaluated)
    every = max(1, len(text) // most)
    chosen = islice(range(0, len(text), every), most)
    return [tokenizer.decode([i for i in text.story(k).tolist() if i != tokenizer.eot_id])
            for k in chosen]  # fmt: skip
