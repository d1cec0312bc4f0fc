"""Which machine the numbers live on: device, precision and threads, chosen once at the start."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from minislm.runtime.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes cuda, then mps, then the cpu. Raises UserError."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, available in there.items() if available), "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; use cpu, cuda, mps or auto") from error
    if not there.get(device.type, device.type == "cpu"):
        raise UserError(f"no {device.type} device on this machine; use --device cpu or auto")
    return device


def name_of(device: torch.device) -> str:
    """What the machine is called that the numbers live on: the GPU, or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    name = re.search(r"(?m)^model name\s*:\s*(.+)$", told.read_text()) if told.is_file() else None
    return name.group(1) if name else platform.processor() or platform.machine()


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of training's products: bfloat16 where hardware multiplies it, else float32."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def finish_work() -> None:
    """Wait for what a GPU was given to do, if one is used."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def best_seconds(work: Callable[[], object], repeats: int = 20) -> float:
    """Seconds that `work` takes at best, after a first time that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        finish_work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """A model built in here has weights of its shapes and without memory (on the "meta" device).

    No number is drawn for them, and tables are made on the CPU: on that device both would have
    torch load its compiler, for 1.5 s.
    """
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.init.normal_:
            return kwargs["tensor"]
        if function is torch.arange:
            kwargs = {"device": "cpu"} | kwargs
        return function(*args, **kwargs)


def keep_freed_memory() -> None:
    """Let the C library keep memory that is freed, for tensors of the next step.

    Else it gives large pieces back to the system and asks for them again, cleared page by page,
    at every step: 30,000 page faults, a tenth of the time of two threads. Where it is not glibc
    nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _ONE_GB)
        mallopt(_M_TRIM_THRESHOLD, _ONE_GB)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _ONE_GB = -1, -3, 1 << 30  # names and numbers: <malloc.h>
