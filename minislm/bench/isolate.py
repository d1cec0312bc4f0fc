"""Measured apart: each engine alone in a process, and what the machine can do at best.

A process of its own gives every engine its own threads and its own memory: idle threads of one
library would otherwise spin on the cores that another is measured on.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from minislm.runtime.device import best_seconds, finish_work


class Apart:
    """An engine in a process of its own; `measure` waits for its answer.

    Args:
        make: called there with `arguments`, gives the engine: something to be called.
    """

    def __init__(self, make: Callable[..., Callable], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self.process.start()
        theirs.close()

    @cached_property
    def failure(self) -> str | None:
        """Why the engine cannot be made; waits until it is. Others may start meanwhile."""
        return self._answer()

    def measure(self, *request: Any) -> dict[str, float] | str:
        """Seconds that the engine takes for a request, and its memory in MB so far; or what went
        wrong."""
        if self.failure:
            return self.failure
        try:
            self.pipe.send(request)
        except OSError:
            return "its process died"
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return "its process died"

    def close(self) -> None:
        self.pipe.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()


def _serve(pipe: Connection, make: Callable[..., Callable], arguments: tuple) -> None:
    """Make the engine, say None or what failed, then answer requests until the pipe closes."""
    warnings.simplefilter("ignore")
    try:
        engine = make(*arguments)
    except Exception as error:  # whatever a library raises: it is told in the table
        return pipe.send(_short(error))
    pipe.send(None)
    while True:
        try:
            request = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return None
        try:
            begin = time.perf_counter()
            engine(*request)
            finish_work()
            seconds = time.perf_counter() - begin
            pipe.send({"seconds": seconds, "memory_mb": _peak_memory()})
        except Exception as error:
            pipe.send(_short(error))


def _peak_memory() -> float:
    """The most memory this process has held, in MB: the GPU's, if it uses one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")  # getrusage would count what the parent held
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, others in KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]


def machine_limits(threads: int, device: torch.device) -> dict[str, float]:
    """What the device can do at best: GFLOP/s of matrix products, GB/s from memory."""
    return _gpu_limits(device) if device.type == "cuda" else _cpu_limits(threads)


def _gpu_limits(device: torch.device) -> dict[str, float]:
    limits, n = {}, 8192
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        x = torch.randn(n, n, dtype=dtype, device=device)
        limits[f"gflops_{name}"] = 2 * n**3 / best_seconds(lambda x=x: x @ x) / 1e9
    numbers = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    for name, size in (("memory", 1 << 30), ("cache", 16 << 20)):
        there, copy = numbers[: size // 2], numbers[size // 2 : size]
        seconds = best_seconds(lambda a=copy, b=there: [a.copy_(b) for _ in range(50)]) / 50
        limits[f"{name}_gb_s"] = size / seconds / 1e9
    return limits


def _cpu_limits(threads: int) -> dict[str, float]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    limits = {}
    with torch.inference_mode():
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            x, weight = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, 512)
            arguments = (x, packed, None, "none", [], "")
            seconds = best_seconds(lambda a=arguments: torch.ops.mkldnn._linear_pointwise(*a))
            limits[f"gflops_{name}"] = 2 * 512 * 1024 * 1024 / seconds / 1e9
        numbers = torch.ones(64 << 20)  # 256 MB: beyond every cache
        limits["memory_gb_s"] = numbers.numel() * 4 / best_seconds(lambda: numbers.sum(), 5) / 1e9
        few = torch.ones(512 << 10)  # 2 MB: what a small model's weights are read from
        limits["cache_gb_s"] = few.numel() * 4 / best_seconds(lambda: few.sum(), 50) / 1e9
    torch.set_num_threads(before)
    return limits


def limits_shown(limits: dict[str, float]) -> str:
    return (
        f"{limits['gflops_float32']:.0f} GFLOP/s in float32, {limits['gflops_bfloat16']:.0f} in "
        f"bfloat16; {limits['memory_gb_s']:.0f} GB/s from memory, {limits['cache_gb_s']:.0f} GB/s "
        "from the caches"
    )
