"""The model that --model names, and the prompts that --prompt and --prompt-file name."""

import sys

import torch

from minislm.cli.config import MachineConfig
from minislm.cli.run_settings import newest_run
from minislm.fast.sampler import FastSampler
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.runtime.device import select_device
from minislm.runtime.errors import UserError
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
    return source, *load(source, dtype="float32" if int8 else machine.dtype, device=str(device))


def open_sampler(
    source: str | None, machine: MachineConfig, compiled: bool = False
) -> tuple[str, FastSampler]:
    """The name of a model, and a sampler for it; see `open_model`."""
    name, model, tokenizer = open_model(source, machine)
    precision = "int8" if machine.dtype == "int8" else None  # None: the model's own
    return name, FastSampler(model, tokenizer, precision=precision, compiled=compiled)


def read_prompts(prompts: list[str], path: str | None) -> list[str]:
    """The prompts, and those of a file if one is named: one per line; "-" is stdin. One empty
    prompt if there is none. UserError: the file cannot be read."""
    if path is None:
        return prompts or [""]
    try:
        with sys.stdin if path == "-" else open(path, encoding="utf-8") as file:
            return [*prompts, *(line.rstrip("\r\n") for line in file if line.strip())] or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read prompts from {path}: {error}") from error
