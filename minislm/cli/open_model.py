"""Opens the model that --model names, for the commands that sample from or evaluate it."""

from __future__ import annotations

from minislm.cli.config import MachineConfig
from minislm.cli.run_folder import newest_run
from minislm.fast.sampler import FastSampler
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.runtime.device import select_device, set_threads
from minislm.runtime.errors import UserError
from minislm.tokenizer import Tokenizer


def open_model(source: str | None, machine: MachineConfig) -> tuple[str, Transformer, Tokenizer]:
    """The name of a model (default: the newest run), the model and its tokenizer.

    With --dtype int8 the weights are those of the file: `prepack` or a FastSampler quantizes them.

    Raises:
        UserError: there is no such model, or int8 is asked for elsewhere than on a CPU.
    """
    set_threads(machine.threads)
    device = select_device(machine.device)
    source = source if source is not None else str(newest_run())
    if machine.dtype == "int8" and device.type != "cpu":
        raise UserError("--dtype int8 is for the CPU; use --device cpu or --dtype bfloat16")
    dtype = "float32" if machine.dtype == "int8" else machine.dtype
    return (source, *load(source, dtype=dtype, device=str(device)))


def open_sampler(
    source: str | None, machine: MachineConfig, compiled: bool = False
) -> tuple[str, FastSampler]:
    """The name of a model, and a sampler for it; see `open_model`."""
    name, model, tokenizer = open_model(source, machine)
    precision = "int8" if machine.dtype == "int8" else None  # None: the model's own
    return name, FastSampler(model, tokenizer, precision=precision, compiled=compiled)
