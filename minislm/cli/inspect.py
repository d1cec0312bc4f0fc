"""eval.py --inspect and --off: a page that runs the model, and the effect of an ablation."""

import json
from dataclasses import replace
from pathlib import Path

from minislm.cli.config import EvalConfig, InspectConfig, MachineConfig
from minislm.cli.data import measured_text
from minislm.cli.open_model import open_model
from minislm.cli.run_settings import Settings
from minislm.fast.sampler import FastSampler
from minislm.interpret import ablation, activations, page
from minislm.runtime.errors import UserError
from minislm.runtime.files import read_text

MEASURED = "inspect.json"  # in a model's folder: what `page.measure` found on its own text
_ABLATION_STORIES = 48  # on which --off measures the loss


def write_page(
    source: str | None, config: InspectConfig, evaluation: EvalConfig, machine: MachineConfig,
    precision: str,
) -> None:  # fmt: skip
    """Write the page that runs the model, and print the table of its heads.
    UserError: a model that is missing or that the page cannot run, or an error of writing."""
    name, model, tokenizer = open_model(source, replace(machine, dtype="float32", device="cpu"))
    off = ablation.parse(config.off) if config.off else []
    for component in off:
        component.check(model)
    file, settings = Path(name) / MEASURED, Settings.read(name)
    if evaluation.data is None and file.is_file():
        measured = json.loads(read_text(file))
    else:
        kind = "validation" if settings or evaluation.data else "generated"
        text = measured_text(settings, tokenizer, evaluation)
        measured = page.measure(model, tokenizer, text) | {"text": f"{kind} stories"}
    about = {"model": Path(name).name, "text": measured["text"], "off": ",".join(map(str, off)),
             "prompt": config.inspect or "Once upon a time"}  # fmt: skip
    page.write_page(Path(config.out), model, tokenizer, measured, about, precision)
    print(f"{'head':<8}{'kind':<10}{'reads most':<20}{'weight':>8}{'even':>8}"
          f"{'ablated (nats/token)':>23}")  # fmt: skip
    for head in sorted(measured["heads"], key=lambda head: -head["loss_increase"]):
        name = f"{head['layer']}.{head['index']}"
        print(f"{name:<8}{head['kind']:<10}{head['target']:<20}{head['weight']:>8.0%}"
              f"{head['even']:>8.0%}{head['loss_increase']:>+23.4f}")  # fmt: skip
    print(f"\npage: {config.out} (open it in a browser; it needs no network)")


def ablate(
    source: str | None, prompts: list[str], config: InspectConfig, evaluation: EvalConfig,
    machine: MachineConfig,
) -> None:  # fmt: skip
    """Print loss and continuations of a model with and without some of its components."""
    if machine.dtype == "int8":
        raise UserError("--off needs the weights as they are: drop --dtype int8")
    components = ablation.parse(config.off)
    name, model, tokenizer = open_model(source, machine)
    text = measured_text(Settings.read(name), tokenizer, evaluation)
    every = range(0, len(text), max(1, len(text) // _ABLATION_STORIES))[:_ABLATION_STORIES]
    stories = [tokenizer.decode(text.document(k).tolist()) for k in every]
    encoded = [activations.encode(model, tokenizer, story)[0] for story in stories]
    means = activations.mean_outputs(model, encoded)
    prompts, losses, texts = prompts or ["Once upon a time"], [], []
    for off in ([], components):
        with ablation.ablated(model, off, means):
            sampler = FastSampler(model, tokenizer)
            texts.append(sampler.generate(prompts, max_new_tokens=60, temperature=0.0))
            losses.append(activations.mean_loss(model, tokenizer, stories))
    print(f"{name}, {len(stories)} stories: {losses[0]:.4f} nats per token")
    print(f"ablated {config.off}: {losses[1]:.4f} ({losses[1] - losses[0]:+.4f})")
    for prompt, *pair in zip(prompts, *texts):
        text, ablated_text = (" ".join(each.split()) for each in pair)
        print(f"\n{prompt}\n  model:   {text}\n  ablated: {ablated_text}")
