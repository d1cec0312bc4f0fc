"""Device, precision and threads, selected once at the start."""

import ctypes
import platform
import re
import sys
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from minislm.runtime.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _ONE_GB = -1, -3, 1 << 30  # names and numbers: <malloc.h>


def select_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes cuda, then mps, then the cpu. Raises UserError."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["cpu"] = True
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; use cpu, cuda, mps or auto") from error
    if not there.get(device.type):
        raise UserError(f"no {device.type} device on this machine; use --device cpu or auto")
    return device


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    file = Path("/proc/cpuinfo")
    name = re.search(r"(?m)^model name\s*:\s*(.+)$", file.read_text()) if file.is_file() else None
    return name.group(1) if name else platform.processor() or platform.machine()


def select_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of matrix products in training: bfloat16 where the hardware has it."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # private
        fast = device.type == "cpu" and supported()
    return torch.bfloat16 if fast else torch.float32


def synchronize() -> None:
    """Wait until a GPU, if one is used, has completed its work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def best_seconds(work: Callable[[], object], repeats: int = 20) -> float:
    """The shortest time of `work` in seconds, without its first call."""
    times = timeit.repeat(lambda: (work(), synchronize()), number=1, repeat=1 + repeats)
    return min(times[1:])


@contextmanager
def on_meta_device() -> Iterator[None]:
    """A model built in this context has shapes and no memory (on the "meta" device). No weight is
    initialised, and buffers are on the CPU: else PyTorch would load its compiler."""
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.init.normal_:
            return kwargs["tensor"]
        if function is torch.arange:
            kwargs = {"device": "cpu"} | kwargs
        return function(*args, **kwargs)


def keep_freed_memory() -> None:
    """Make the C library (glibc alone has this setting) keep freed memory for the next step's
    tensors: else every step has page faults for new memory, cleared by the system."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if mallopt := getattr(library, "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _ONE_GB)
        mallopt(_M_TRIM_THRESHOLD, _ONE_GB)
