"""The model that --model names, and the prompts that --prompt and --prompt-file name."""

import os
from pathlib import Path

import torch

from minislm.cli.config import MachineConfig
from minislm.cli.run_settings import Settings, newest_run
from minislm.fast.sampler import FastSampler
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.runtime.device import select_device
from minislm.runtime.errors import UserError, log
from minislm.runtime.unicode import nfc, to_ascii
from minislm.tokenizer import Tokenizer

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "stories"  # see its README.md


def open_model(source: str | None, machine: MachineConfig) -> tuple[str, Transformer, Tokenizer]:
    """The name of a model (default: the newest run), the model and its tokenizer.
    With --dtype int8 the weights are those of the file: `prepack` or a FastSampler quantizes them.
    UserError: there is no such model, or int8 elsewhere than on a CPU."""
    if machine.threads:
        torch.set_num_threads(machine.threads)
    device, int8 = select_device(machine.device), machine.dtype == "int8"
    source = _default_model() if source is None else source
    if int8 and device.type != "cpu":
        raise UserError("--dtype int8 is for the CPU; use --device cpu or --dtype bfloat16")
    dtype = "float32" if int8 else machine.dtype
    model, tokenizer = load(source, dtype=dtype, device=str(device))
    if Settings.read(source) or Path(source).resolve() == SHIPPED:  # its text was cleaned
        tokenizer.prepare = lambda prompt: to_ascii(nfc(prompt))
    return source, model, tokenizer


def _default_model() -> str:
    """The newest run, or the model that comes with the project where there is no run yet."""
    try:
        return str(newest_run())
    except UserError:
        if not SHIPPED.is_dir():
            raise
        source = os.path.relpath(SHIPPED)
        log(f"no run yet: this is {source}, trained on TinyStories (eval.py measures it on such a "
            "text with --data FILE); train your own: python train.py")  # fmt: skip
        return source


def open_sampler(
    source: str | None, machine: MachineConfig, compiled: bool = False
) -> tuple[str, FastSampler]:
    """The name of a model, and a sampler for it; see `open_model`."""
    name, model, tokenizer = open_model(source, machine)
    precision = "int8" if machine.dtype == "int8" else None  # None: the model's own
    return name, FastSampler(model, tokenizer, precision=precision, compiled=compiled)


def read_prompts(prompts: list[str], path: str | None) -> tuple[list[str], list[str]]:
    """The prompts, and those of a UTF-8 file if one is named ("-" is stdin), one per line; an empty
    one if there is none. And the place of each, for messages. UserError: it cannot be read."""
    found, places, place = [*prompts], [""] * len(prompts), str(path)
    try:
        source = 0 if path == "-" else path or os.devnull
        with open(source, encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                place = f"line {number} of {path}"
                if line.strip():
                    found.append(line.encode(errors="surrogateescape").decode().rstrip("\r\n"))
                    places.append(f"{place}: ")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read prompts from {place}: {error}") from error
    return found or [""], places or [""]
