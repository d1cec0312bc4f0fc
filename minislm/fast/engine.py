"""The fast engine: batched prefill; several steps per call, traced, compiled or as CUDA graphs.
Engines in several threads, each with a cache of its own, share one `PreparedModel`."""

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from minislm.fast.compiled import can_compile, compile_steps
from minislm.fast.cuda_graphs import STEPS, CUDAGraphSteps, padded_rows
from minislm.fast.kv_cache import FastKVCache, rounded_up
from minislm.fast.linear import PRECISIONS, for_compiled_steps, prepack
from minislm.fast.modules import FusedRMSNorm, SingleQueryAttention, copy_with
from minislm.fast.traced import Prefill, Step, Steps, can_trace, trace_prefill, trace_steps
from minislm.model import Attention, RMSNorm, Transformer
from minislm.sampler import Pick
from minislm.sampling import TokenSampler

_BLOCKS = 8  # computed in one call: with one block, eight tokens per row


class PreparedModel:
    """A model ready to decode about `rows` rows at a time.
    On a CPU its matrices are prepacked in `precision` (float32, bfloat16 or int8; None: the model's
    own), and its steps are traced where PyTorch can trace. On a GPU its steps are CUDA graphs.
    Elsewhere it runs as it is. compiled: compile the steps where that is faster: on a CPU instead
    of traces, for all rows together; on a GPU those of a single row, before they become a graph."""

    def __init__(
        self, model: Transformer, rows: int, precision: str | None = None, compiled: bool = False
    ):
        weight = model.embedding.weight
        precision = precision or str(weight.dtype).removeprefix("torch.")
        device = weight.device.type
        self.rows, self.cuda = rows, device == "cuda"
        self.traced = device == "cpu" and can_trace()
        if device == "cpu" and precision in PRECISIONS:
            self.model = prepack(model, precision, rows)
        else:
            fused = {RMSNorm: FusedRMSNorm} if self.cuda else {}
            self.model = copy_with(model, {Attention: SingleQueryAttention} | fused, frozen=True)
        self.compiled = compiled and self.cuda and rows == 1
        self.for_compiled: Transformer | None = None  # the model of compiled steps
        if compiled and not self.cuda and can_compile(precision):
            # Of no use for prefill, or for other numbers of rows.
            self.model, self.for_compiled = for_compiled_steps(rows, model, precision, self.model)
        self.config, self.like = model.config, self.model.embedding.weight
        self.steps = STEPS if self.cuda else max(1, _BLOCKS // model.config.n_layer)
        self._prefill, self._traced_prefill, self._prefills = Prefill(self.model), None, 0
        self._spare: list[FastKVCache] = []  # a CUDA graph serves one cache: it is used again
        self._runs: dict[tuple[TokenSampler, bool], Callable[..., Tensor]] = {}
        self._lock = threading.RLock()  # an engine may be garbage collected at any time

    def prefill(self, length: int) -> Callable[..., Tensor]:
        """`Prefill` of prompts of up to this length: traced where that is possible, but not the
        first time (a trace takes as long as it saves in some hundred calls)."""
        if not self.traced or any(0 < window < length for window in self.config.windows):
            return self._prefill
        with self._lock:
            self._prefills += 1
            if self._prefills == 2:
                self._traced_prefill = trace_prefill(self._prefill)
            return self._traced_prefill or self._prefill

    def uses_compiled(self, rows: int, steps: int) -> bool:
        """Whether `steps` steps of `rows` rows are compiled: not if most rows are free."""
        return self.for_compiled is not None and steps == self.steps and 2 * rows > self.rows

    def decode(self, sample: TokenSampler, compiled: bool) -> Callable[..., Tensor]:
        """`Steps` with one way to sample tokens, made once."""
        key = (sample, compiled)
        with self._lock:
            if key not in self._runs:
                self._runs[key] = self._make(sample, compiled)
            return self._runs[key]

    def _make(self, sample: TokenSampler, compiled: bool) -> Callable[..., Tensor]:
        if compiled:
            return compile_steps(self.rows, self.for_compiled, sample)
        step = Step(self.model, sample)
        if self.cuda:
            return CUDAGraphSteps(torch.compile(step, dynamic=True) if self.compiled else step)
        return trace_steps(step) if self.traced else Steps(step)

    def cache(self, rows: int, length: int) -> FastKVCache:
        """A cache for an engine. For traced steps, which attend to all of it, it begins short."""
        if self.for_compiled is not None:
            return self.empty(self.rows, length)
        if not self.cuda:
            return self.empty(rows, rounded_up(1, length))
        rows, length = padded_rows(rows), rounded_up(length, self.config.context)
        with self._lock:
            spare = self._spare.pop() if self._spare else None
        if spare is not None and spare.k_LBKSD.shape[1] >= rows and spare.length >= length:
            return spare
        return self.empty(rows, length)

    def empty(self, rows: int, length: int) -> FastKVCache:
        return FastKVCache.empty(self.config, rows, length, like=self.like)

    def release(self, cache: FastKVCache) -> None:
        """An engine's cache is free again; one is kept for the next engine."""
        with self._lock:
            self._spare = [cache]


class FastEngine:
    """An `Engine` of the sampler. `length`: the longest that a sequence can become."""

    def __init__(self, prepared: PreparedModel, rows: int, length: int):
        self.prepared, self.device, self.steps = prepared, prepared.like.device, prepared.steps
        self.length = min(prepared.config.context, length + prepared.steps)
        self.cache = prepared.cache(rows, self.length)
        if prepared.cuda:
            weakref.finalize(self, prepared.release, self.cache)

    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts; the logits after the last token of each [n, V]. Equal prompts are read
        once, those of similar length together: at most a quarter is padding."""
        first: dict[tuple[int, ...], int] = {}
        source = [first.setdefault(tuple(prompt), n) for n, prompt in enumerate(prompts)]
        order = sorted(first.values(), key=lambda n: len(prompts[n]))
        logits = []
        for _, alike in groupby(order, lambda n: int(math.log(len(prompts[n]), 4 / 3))):
            group = list(alike)
            logits.append(self._read([rows[n] for n in group], [prompts[n] for n in group]))
        if copies := [(row, rows[n]) for row, n in zip(rows, source) if row != rows[n]]:
            targets, originals = zip(*copies)
            self.cache.copy_rows(list(targets), self.cache, list(originals))
        place = {n: place for place, n in enumerate(order)}
        return torch.cat(logits)[[place[n] for n in source]]

    def _read(self, rows: list[int], prompts: list[Sequence[int]]) -> Tensor:
        T = max(map(len, prompts))
        padded = [[*ids, *[0] * (T - len(ids))] for ids in prompts]
        tokens_BT = torch.tensor(padded, device=self.device)
        last_B = torch.tensor([len(ids) - 1 for ids in prompts], device=self.device)
        own = self.prepared.empty(len(rows), T)
        logits_BV = self.prepared.prefill(T)(tokens_BT, last_B, own.k_LBKSD, own.v_LBKSD)
        self._grow(T)
        self.cache.copy_rows(rows, own, range(len(rows)))
        return logits_BV

    def decode(self, tokens_B: Tensor, pos_B: Tensor, u_Bn: Tensor, pick: Pick) -> Tensor:
        """As many steps as there are columns of uniform numbers: the new tokens [B, n].
        ValueError: a sequence would exceed the length of this engine."""
        (B, n), end = u_Bn.shape, int(pos_B.max()) + u_Bn.shape[1]
        if end > self.length:
            raise ValueError(f"{end} tokens exceed the length of {self.length} of this engine")
        self._grow(end)
        compiled, length = self.prepared.uses_compiled(B, n), rounded_up(end, self.cache.length)
        rows = padded_rows(B) if self.prepared.cuda else B
        if compiled:
            rows, length = self.prepared.rows, end
        cache = self.cache.view(slice(rows), length)
        inputs = (each.to(self.device, non_blocking=True) for each in (tokens_B, pos_B, u_Bn))
        tokens_B, pos_B, u_Bn = inputs
        run = self.prepared.decode(pick, compiled)
        return run(tokens_B, pos_B, cache.k_LBKSD, cache.v_LBKSD, u_Bn)

    def move(self, source: int, target: int) -> None:
        self.cache.move(source, target)

    def _grow(self, length: int) -> None:
        if length > self.cache.length:
            rows = self.cache.k_LBKSD.shape[1]
            larger = self.prepared.empty(rows, rounded_up(length, self.length))
            larger.copy_rows(slice(None), self.cache, slice(None))
            self.cache = larger
