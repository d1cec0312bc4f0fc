"""Decode steps as CUDA graphs: launching small kernels one by one takes longer than running them.
A graph contains the addresses of what it reads and writes, so it serves one cache, and one number
of its rows and positions: both are padded to a few sizes."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minislm.fast.traced import Steps

STEPS = 16  # in one graph; after it the host reads the tokens
_MOST = 256  # graphs that are kept
_WARM_UP = 2  # runs before the capture: libraries initialise, a compiler compiles


def padded_rows(rows: int) -> int:
    """Rows that a graph is made for: a power of two up to 64, then a multiple of 64."""
    return 1 << (rows - 1).bit_length() if rows <= 64 else -(-rows // 64) * 64


class CUDAGraphSteps:
    """`Steps`, as one graph for each part of a cache: same call, same output.
    Rows of the cache beyond the tokens given are overwritten, so they must be free. step: a `Step`,
    as it is or compiled; capture: makes a `Capture`, for tests without a GPU."""

    def __init__(self, step: nn.Module, capture: Callable[[], Callable] | None = None):
        self.steps, self.make = Steps(step), capture or Capture
        self._graphs: dict[tuple, Callable[..., Tensor]] = {}
        self._capture = self.make()
        self._lock = threading.Lock()  # two threads would overwrite each other's inputs

    def __call__(
        self, tokens_B: Tensor, pos_B: Tensor, k_LBKSD: Tensor, v_LBKSD: Tensor, u_Bn: Tensor
    ) -> Tensor:
        cache, count = (k_LBKSD, v_LBKSD), u_Bn.shape[1]
        key = (count, *((each.data_ptr(), each.shape, each.stride()) for each in cache))
        with self._lock:
            if key not in self._graphs:
                if len(self._graphs) >= _MOST:
                    self._graphs, self._capture = {}, self.make()
                self._graphs[key] = self._graph(count, cache)
            return self._graphs[key](tokens_B, pos_B, u_Bn)

    def _graph(self, count: int, cache: tuple[Tensor, Tensor]) -> Callable[..., Tensor]:
        """One graph with the tensors that it reads and writes."""
        rows, device = cache[0].shape[1], cache[0].device
        inputs = (*torch.zeros(2, rows, dtype=torch.int64, device=device),
                  torch.zeros(rows, count, device=device))  # fmt: skip
        replay: Callable[[], Tensor] | None = None

        def run(tokens_B: Tensor, pos_B: Tensor, u_Bn: Tensor) -> Tensor:
            nonlocal replay
            B = len(tokens_B)
            for own, given in zip(inputs, (tokens_B, pos_B, u_Bn)):
                own.zero_()[:B].copy_(given)
            if replay is None:  # the warm-up writes into the cache what belongs there
                replay = self._capture(lambda: self.steps(*inputs[:2], *cache, inputs[2]))
            return replay()[:B].clone()  # the next replay overwrites it

        return run


class Capture:
    """`capture(work)` makes a CUDA graph of `work`; a call of the result runs it again, into the
    same tensor. Its graphs share their memory: one runs at a time, and its result is copied."""

    def __init__(self) -> None:
        self.pool: Any = None  # of the graphs so far

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        stream = torch.cuda.Stream()  # CUDA wants the warm-up on another stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = work()
        self.pool = graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
