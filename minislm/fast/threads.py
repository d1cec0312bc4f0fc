"""Lanes: threads that each have work of their own, and the processor's threads shared among them.

Threads that share one product wait for each other after every operation; threads with rows of
their own do not, and one that is held up holds up nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")


def in_lanes(
    works: Sequence[Callable[[], Result]], threads: int | None = None
) -> list[Result]:
    """Call each of `works` in a thread of its own: what they give, in their order.

    Each lane's operations have `threads` threads (None: an equal share of torch's; a single lane
    is then the caller's own thread). What is set for the caller's thread alone, such as inference
    mode, does not hold in a lane.

    Raises:
        what the first lane that failed raised, when all have ended.
    """
    if len(works) == 1 and threads is None:
        return [works[0]()]
    before = torch.get_num_threads()
    threads = threads or max(1, before // max(1, len(works)))
    results: list = [None] * len(works)
    failures: list[BaseException] = []

    def lane(number: int) -> None:
        torch.set_num_threads(threads)  # of this thread
        try:
            results[number] = works[number]()
        except BaseException as error:  # told to the caller, in its own thread
            failures.append(error)

    running = [threading.Thread(target=lane, args=(n,), daemon=True) for n in range(len(works))]
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
