"""Worker threads that each have work of their own: one that is preempted stalls no other."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")


def run_threads(works: Sequence[Callable[[], Result]], cores: int | None = None) -> list[Result]:
    """Call each of `works` in a worker thread: the results, in their order.
    A worker uses `cores` cores (None: an equal part of PyTorch's; a single worker is then the
    caller's own thread), without the settings of the caller's thread, such as inference mode. When
    all have ended, the exception of the first worker that failed is raised."""
    if len(works) == 1 and cores is None:
        return [works[0]()]
    before = torch.get_num_threads()
    cores = cores or max(1, before // max(1, len(works)))
    results: list = [None] * len(works)
    failures: list[BaseException] = []

    def worker(number: int) -> None:
        torch.set_num_threads(cores)  # of this thread
        try:
            results[number] = works[number]()
        except BaseException as error:  # raised again in the caller's thread
            failures.append(error)

    running = [threading.Thread(target=worker, args=(n,), daemon=True) for n in range(len(works))]
    try:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        torch.set_num_threads(before)
    if failures:
        raise failures[0]
    return results
