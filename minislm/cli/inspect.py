"""eval.py --inspect and --off: a page of attention and neurons, and the effect of an ablation."""

from __future__ import annotations

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

_HEAD_STORIES = 12  # on which heads are classified and ablated
_NEURON_STORIES = 200  # in which the largest activations of neurons are searched
_ABLATION_STORIES = 48  # on which --off measures the loss


def write_page(
    source: str | None, config: InspectConfig, evaluation: EvalConfig, machine: MachineConfig
) -> None:
    """Write the page about a model and a text, with plots beside it; print the table of heads.

    Raises:
        UserError: no such model or text; an empty text; a file that cannot be written.
    """
    if not config.inspect.strip():
        raise UserError('--inspect needs a text, such as "Once upon a time"')
    name, model, tokenizer = _open(source, machine)
    stories = _stories(name, tokenizer, evaluation, _NEURON_STORIES)
    with ablation.ablated(model, ablation.parse(config.off) if config.off else []):
        text = activations.analyze(model, tokenizer, config.inspect)
        components = tqdm(ablation.all_heads(model), unit="head", disable=None, leave=False)
        heads = activations.classify_heads(model, tokenizer, stories[:_HEAD_STORIES], components)
        neurons = activations.neuron_peaks(model, tokenizer, stories)
    about = {"model": Path(name).name, "ablated": config.off or "",
             "parameters": model.n_parameters(), "stories": len(stories)}  # fmt: skip
    page.write_page(Path(config.out), about, text, heads, neurons)
    plots = page.plot(Path(config.out).with_suffix(""), text, heads)
    if not plots:
        log("no plots: they need matplotlib (pip install -e '.[plot]')")
    print(head_table(heads))
    print(f"\npage: {config.out}" + "".join(f"\nplot: {path}" for path in plots))


def head_table(heads: list[activations.Head]) -> str:
    """The heads as a table, sorted by how much the loss rises when each is ablated."""
    lines = [f"{'head':<8}{'kind':<10}{'attends to':<20}{'weight':>8}{'ablated (nats/token)':>23}"]
    for head in sorted(heads, key=lambda head: -head.loss_increase):
        lines.append(f"{f'{head.layer}.{head.index}':<8}{head.kind:<10}{head.target:<20}"
                     f"{head.weight:>8.0%}{head.loss_increase:>+23.4f}")  # fmt: skip
    return "\n".join(lines)


def ablate(
    source: str | None, prompts: list[str], config: InspectConfig, evaluation: EvalConfig,
    machine: MachineConfig,
) -> None:  # fmt: skip
    """Print loss and continuations of a model with and without some of its components."""
    components = ablation.parse(config.off)
    name, model, tokenizer = _open(source, machine)
    stories = _stories(name, tokenizer, evaluation, _ABLATION_STORIES)
    prompts = prompts or ["Once upon a time"]

    def measure() -> tuple[float, list[str]]:
        settings = SampleConfig(max_new_tokens=60, temperature=0.0)
        texts = FastSampler(model, tokenizer).generate(prompts, settings)
        return activations.mean_loss(model, tokenizer, stories), texts

    loss, texts = measure()
    with ablation.ablated(model, components):
        ablated_loss, ablated_texts = measure()
    print(f"{name}, {len(stories)} stories: {loss:.4f} nats per token")
    print(f"ablated {config.off}: {ablated_loss:.4f} ({ablated_loss - loss:+.4f})")
    for prompt, text, ablated_text in zip(prompts, texts, ablated_texts):
        print(f"\n{prompt}\n  model:   {' '.join(text.split())}")
        print(f"  ablated: {' '.join(ablated_text.split())}")


def _open(source: str | None, machine: MachineConfig) -> tuple[str, Transformer, Tokenizer]:
    if machine.dtype == "int8":
        raise UserError("--inspect and --off need the weights as they are: drop --dtype int8")
    return open_model(source, machine)


def _stories(name: str, tokenizer: Tokenizer, evaluation: EvalConfig, most: int) -> list[str]:
    """At most `most` stories of the text that eval.py would evaluate on, spread over it."""
    text = measured_text(run_settings(name), tokenizer, evaluation)
    every = max(1, len(text) // most)
    return [tokenizer.decode(text.document(k).tolist()) for k in range(0, len(text), every)][:most]
