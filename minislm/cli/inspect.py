"""eval.py --inspect and --off: a page of attention and neurons, and the effect of an ablation."""

from pathlib import Path

from tqdm import tqdm

from minislm.cli.config import EvalConfig, MachineConfig
from minislm.cli.data import measured_text
from minislm.cli.open_model import open_model
from minislm.cli.run_settings import Settings
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
    UserError: a model that is missing, an empty text, or a file that cannot be written."""
    if not config.inspect.strip():
        raise UserError('--inspect needs a text, such as "Once upon a time"')
    name, model, tokenizer, stories = _open(source, evaluation, machine, _NEURON_STORIES)
    with ablation.ablated(model, ablation.parse(config.off) if config.off else []):
        text = activations.analyze(model, tokenizer, config.inspect)
        components = tqdm(ablation.all_heads(model), unit="head", disable=None, leave=False)
        heads = activations.classify_heads(model, tokenizer, stories[:_HEAD_STORIES], components)
        neurons = activations.neuron_peaks(model, tokenizer, stories)
    about = {"model": Path(name).name, "ablated": config.off or "",
             "parameters": model.n_parameters(), "stories": len(stories)}  # fmt: skip
    out = Path(config.out)
    page.write_page(out, about, text, heads, neurons)
    plots = page.plot(out.with_suffix(""), text, heads)
    if not plots:
        log("no plots: they need matplotlib (pip install -e '.[plot]')")
    print(f"{'head':<8}{'kind':<10}{'attends to':<20}{'weight':>8}{'ablated (nats/token)':>23}")
    for head in sorted(heads, key=lambda head: -head.loss_increase):
        print(f"{f'{head.layer}.{head.index}':<8}{head.kind:<10}{head.target:<20}"
              f"{head.weight:>8.0%}{head.loss_increase:>+23.4f}")  # fmt: skip
    print(f"\npage: {config.out}" + "".join(f"\nplot: {path}" for path in plots))


def ablate(
    source: str | None, prompts: list[str], config: InspectConfig, evaluation: EvalConfig,
    machine: MachineConfig,
) -> None:  # fmt: skip
    """Print loss and continuations of a model with and without some of its components."""
    components = ablation.parse(config.off)
    name, model, tokenizer, stories = _open(source, evaluation, machine, _ABLATION_STORIES)
    prompts, losses, texts = prompts or ["Once upon a time"], [], []
    for off in ([], components):
        with ablation.ablated(model, off):
            sampler = FastSampler(model, tokenizer)
            texts.append(sampler.generate(prompts, max_new_tokens=60, temperature=0.0))
            losses.append(activations.mean_loss(model, tokenizer, stories))
    print(f"{name}, {len(stories)} stories: {losses[0]:.4f} nats per token")
    print(f"ablated {config.off}: {losses[1]:.4f} ({losses[1] - losses[0]:+.4f})")
    for prompt, *pair in zip(prompts, *texts):
        text, ablated_text = (" ".join(each.split()) for each in pair)
        print(f"\n{prompt}\n  model:   {text}\n  ablated: {ablated_text}")


def _open(
    source: str | None, evaluation: EvalConfig, machine: MachineConfig, most: int
) -> tuple[str, Transformer, Tokenizer, list[str]]:
    """The name of a model, the model, its tokenizer, and at most `most` stories, spread evenly over
    the text that eval.py would evaluate it on."""
    if machine.dtype == "int8":
        raise UserError("--inspect and --off need the weights as they are: drop --dtype int8")
    name, model, tokenizer = open_model(source, machine)
    text = measured_text(Settings.read(name), tokenizer, evaluation)
    every = range(0, len(text), max(1, len(text) // most))
    stories = [tokenizer.decode(text.document(k).tolist()) for k in every[:most]]
    return name, model, tokenizer, stories
