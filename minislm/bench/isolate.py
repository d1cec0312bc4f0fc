"""Isolated processes, in which engines and training loops are measured, and their figures."""

import multiprocessing
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minislm.runtime.device import synchronize


class IsolatedProcess:
    """A process that calls `make(*arguments)`, which returns the engine, and then the engine. In
    one process, idle threads of a library would spin on the cores that another is measured on."""

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

    def measure(self, *request: Any) -> tuple[float, float] | str:
        """Seconds that the engine takes for a request and its peak memory in MB; or the error."""
        return self.failure or self._answer(request)

    def _answer(self, *requests: tuple) -> Any:
        try:
            for request in requests:
                self.pipe.send(request)
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
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            request = pipe.recv()
            try:
                begin = time.perf_counter()
                engine(*request)
                synchronize()
                pipe.send((time.perf_counter() - begin, _peak_memory()))
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


@dataclass
class Measurement:
    """Speed and memory of one engine or training loop, or why it failed."""

    case: Any  # what is measured, a named tuple
    process: IsolatedProcess | None = None
    requests: Sequence[tuple] = ()
    tokens: int = 0  # of the first request
    rates: list[float] = field(default_factory=list)  # tokens per second, of each round
    first: list[float] = field(default_factory=list)  # seconds of the first token or step
    memory_mb: float = 0.0  # the largest of its process so far
    failure: str | None = None

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(self.rates) if self.rates else 0.0

    def seconds(self, *request: Any) -> float:
        """Seconds that the process takes for a request; 0 after a failure."""
        answer = self.failure or self.process.measure(*request)
        if isinstance(answer, str):
            self.failure = answer
            return 0.0
        seconds, self.memory_mb = answer
        return seconds


def measure_in_turn(rows: list[Measurement], rounds: int, title: str) -> None:
    """Measure all rows, round after round: a slow machine slows all. The first one is a warm-up."""
    for turn in tqdm(range(rounds + 1), title, disable=None, leave=False):
        for row in rows:
            seconds = [row.seconds(*request) for request in row.requests]
            if turn and not row.failure:
                row.rates.append(row.tokens / seconds[0])
                row.first += seconds[1:]


def text_table(
    columns: dict[str, str], rows: list[Measurement], figures: Callable[[Measurement], list[str]]
) -> str:
    """A line per row: its case, then its figures or failure; `columns`: a format for each name."""
    lines = [list(columns)]
    lines += [[*row.case, *([f"  {row.failure}"] if row.failure else figures(row))] for row in rows]
    return "\n".join("".join(map(format, line, columns.values())).rstrip() for line in lines)
