"""The model that --model names, and the prompts that --prompt and --prompt-file name."""

import os

import torch

from minislm.cli.config import MachineConfig
from minislm.cli.run_settings import Settings, newest_run
from minislm.fast.sampler import FastSampler
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.runtime.device import select_device
from minislm.runtime.errors import UserError
from minislm.runtime.unicode import nfc, to_ascii
from minislm.tokenizer import Tokenizer


def open_model(source: str | None, machine: MachineConfig) -> tuple[str, Transformer, Tokenizer]:
    """The name of a model (default: the newest run), the model and its tokenizer.
    With --dtype int8 the weights are those of the file: `prepack` or a FastSampler quantizes them.
    UserError: there is no such model, or int8 elsewhere than on a CPU."""
    if machine.threads:
        torch.set_num_threads(machine.threads)
    device, int8 = select_device(machine.device), machine.dtype == "int8"
    source = str(newest_run()) if source is None else source
    if int8 and device.type != "cpu":
        raise UserError("--dtype int8 is for the CPU; use --device cpu or --dtype bfloat16")
    dtype = "float32" if int8 else machine.dtype
    model, tokenizer = load(source, dtype=dtype, device=str(device))
    if Settings.read(source):  # a run of ours: its text was cleaned
        tokenizer.prepare = lambda prompt: to_ascii(nfc(prompt))
    return source, model, tokenizer


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
