"""Isolated processes: each engine is measured in a process of its own.

Every engine then has its own threads and memory: idle threads of one library would otherwise spin
on the cores that another one is measured on.
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

from minislm.runtime.device import synchronize


class IsolatedProcess:
    """An engine in a process of its own.

    Args:
        make: called there with `arguments`, returns the engine: something that can be called.
    """

    def __init__(self, make: Callable[..., Callable], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self.process.start()
        theirs.close()

    @cached_property
    def failure(self) -> str | None:
        """Why the engine could not be made; waits until it is. Others may start meanwhile."""
        return self._answer()

    def measure(self, *request: Any) -> dict[str, float] | str:
        """Seconds that the engine takes for a request and its largest memory in MB; or the error."""
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
    """Make the engine, send None or the error, then answer requests until the pipe closes."""
    warnings.simplefilter("ignore")
    try:
        engine = make(*arguments)
    except Exception as error:  # whatever a library raises: it is shown in the table
        return pipe.send(_one_line(error))
    pipe.send(None)
    while True:
        try:
            request = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return None
        try:
            begin = time.perf_counter()
            engine(*request)
            synchronize()
            seconds = time.perf_counter() - begin
            pipe.send({"seconds": seconds, "memory_mb": _peak_memory()})
        except Exception as error:
            pipe.send(_one_line(error))


def _peak_memory() -> float:
    """The largest memory of this process so far, in MB: the GPU's, if it uses one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")  # getrusage would include the parent's
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]
