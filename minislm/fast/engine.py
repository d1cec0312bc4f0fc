"""What the sampler drives: prompts are read into rows of a cache, and rows go on token by token.

An `Engine` has the cache; a `Decoder` has the model, laid out for the machine, and may be shared
by several engines in several threads. `Uncached` does the same for any module that has nothing
but `forward(tokens) -> logits`: slow, obvious, and what the fast one is tested against.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from minislm.kv_cache import KVCache, rounded_up
from minislm.fast.cuda_graphs import STEPS, CapturedSteps, padded_rows
from minislm.fast.compiled import compile_steps
from minislm.fast.compiled_linear import lay_out_for
from minislm.model import Transformer
from minislm.fast.linear import PRECISIONS, pack
from minislm.fast.traced import Choose, Reading, Step, Steps, record_reading, record_steps

_RECORDED = 8  # blocks run through in one recording: with one block, eight tokens a row


def _side_by_side(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Texts as tokens [B, T], filled up on the right, where no token of theirs can see it; and
    where the last token of each stands [B]."""
    T = max(map(len, texts))
    tokens_BT = torch.tensor([[*ids, *[0] * (T - len(ids))] for ids in texts])
    return tokens_BT, torch.tensor([len(ids) - 1 for ids in texts])


class Decoder:
    """A model ready to decode about `rows` rows at a time.

    On a CPU its matrices are packed in `precision` (float32, bfloat16 or int8; None: the model's
    own) and its steps are recorded; on a GPU (CUDA) its steps are captured; elsewhere the model
    runs as it is.

    Args:
        compiled: steps are compiled where that is faster: on a CPU instead of recorded, for all
            rows together; on a GPU those of a single row, before they are captured.
    """

    def __init__(
        self, model: Transformer, rows: int, precision: str | None = None, compiled: bool = False
    ):
        weight = model.embedding.weight
        precision = precision or str(weight.dtype).removeprefix("torch.")
        self.recorded = (
            weight.device.type == "cpu"
            and torch.backends.mkldnn.is_available()
            and sys.version_info < (3, 14)  # beyond it torch.jit is not supported
        )
        packed = self.recorded and precision in PRECISIONS
        self.model = pack(model, precision, rows) if packed else model
        self.captured = weight.device.type == "cuda"
        self.compiled = compiled and self.captured and rows == 1
        self.shared, self.rows = None, rows  # the model for compiled steps of so many rows
        if compiled and not self.captured:
            # Of no use to read prompts with, or to go on with other numbers of rows.
            own = precision if packed else str(weight.dtype).removeprefix("torch.")
            self.model, self.shared = lay_out_for(rows, model, own, self.model)
        self.config, self.like = model.config, self.model.embedding.weight
        # Steps taken at once.
        self.stride = STEPS if self.captured else max(1, _RECORDED // model.config.n_layer)
        self._reading, self._recorded_reading, self._read = Reading(self.model), None, 0
        self._spare: list[KVCache] = []  # a graph serves one cache: it is used again
        self._steps: dict[tuple[Choose, bool], Callable[..., Tensor]] = {}
        self._lock = threading.RLock()  # an engine may be collected, and end, at any time

    def reading(self, length: int) -> Callable[..., Tensor]:
        """What reads prompts of up to this length: a recording where there can be one, but not the
        first time (to make one takes as long as it saves in some hundred readings)."""
        if not self.recorded or any(0 < window < length for window in self.config.windows):
            return self._reading
        with self._lock:
            self._read += 1
            if self._read == 2:
                self._recorded_reading = record_reading(self._reading)
            return self._recorded_reading or self._reading

    def compiles(self, rows: int, count: int) -> bool:
        """Whether `count` steps of `rows` rows are compiled ones: not if most rows are free."""
        return self.shared is not None and count == self.stride and 2 * rows > self.rows

    def steps(self, choose: Choose, compiled: bool) -> Callable[..., Tensor]:
        """`Steps` with one way to choose tokens, made once."""
        key = (choose, compiled)
        with self._lock:
            if key not in self._steps:
                self._steps[key] = self._make(*key)
            return self._steps[key]

    def _make(self, choose: Choose, compiled: bool) -> Callable[..., Tensor]:
        if compiled:
            return compile_steps(self.rows, self.shared, choose)
        step = Step(self.model, choose)
        if self.captured:
            return CapturedSteps(torch.compile(step, dynamic=True) if self.compiled else step)
        return record_steps(step) if self.recorded else Steps(step)

    def cache(self, rows: int, slots: int) -> KVCache:
        """A cache for an engine; for recorded steps, which read all of it, it begins small and
        grows with the text."""
        if self.shared is not None:
            return KVCache(self.config, self.rows, slots, self.like)
        if not self.captured:
            return KVCache(self.config, rows, rounded_up(1, slots), self.like)
        rows, slots = padded_rows(rows), rounded_up(slots, self.config.context)
        with self._lock:
            spare = self._spare.pop() if self._spare else None
        if spare is not None and spare.holds(rows, slots):
            return spare
        return KVCache(self.config, rows, slots, self.like)

    def take_back(self, cache: KVCache) -> None:
        """What `cache` gave is free again: one is kept for the next engine."""
        with self._lock:
            self._spare = [cache]


class Engine:
    """A cache of `rows` rows, and what fills it and goes on from it.

    Rows 0 to B-1 are the ones alive: the tensors given to `step` and `steps` have B rows.
    """

    def __init__(self, decoder: Decoder, rows: int, slots: int):
        self.decoder, self.most, self.device = decoder, slots, decoder.like.device
        self.stride = decoder.stride
        self.cache = decoder.cache(rows, slots)
        if decoder.captured:
            weakref.finalize(self, decoder.take_back, self.cache)

    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts into `rows` of the cache; the logits after each one's last token [n, V].

        Prompts of about the same length are read together: at most a quarter is padding.
        """
        places, read = [], []
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        begin = 0
        while begin < len(by_length):
            end, tokens = begin + 1, len(prompts[by_length[begin]])
            while end < len(by_length):
                longest = len(prompts[by_length[end]])
                if (tokens + longest) * 4 < longest * (end + 1 - begin) * 3:
                    break
                tokens, end = tokens + longest, end + 1
            chosen = by_length[begin:end]
            read.append(self._read([rows[i] for i in chosen], [prompts[i] for i in chosen]))
            places += chosen
            begin = end
        logits_nV = torch.cat(read)
        return torch.empty_like(logits_nV).index_copy_(
            0, torch.tensor(places, device=self.device), logits_nV
        )

    def _read(self, rows: list[int], prompts: list[Sequence[int]]) -> Tensor:
        tokens_BT, last_B = (tensor.to(self.device) for tensor in _side_by_side(prompts))
        B, T = tokens_BT.shape
        own = KVCache(self.decoder.config, B, T, self.decoder.like)
        logits_BV = self.decoder.reading(T)(tokens_BT, last_B, own.k_LBKSD, own.v_LBKSD)
        self._grow(T)
        self.cache.copy_rows(rows, own, range(B))
        return logits_BV

    def _grow(self, slots: int) -> None:
        if slots > self.cache.slots:
            rows = self.cache.k_LBKSD.shape[1]
            slots = rounded_up(slots, self.most)
            larger = KVCache(self.decoder.config, rows, slots, self.decoder.like)
            larger.copy_rows(slice(None), self.cache, slice(None))
            self.cache = larger

    def copy(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Rows of the cache become copies of other rows."""
        self.cache.copy_rows(targets, self.cache, sources)

    def step(self, tokens_B: Tensor, pos_B: Tensor) -> Tensor:
        """Put each row's last token at its position; the logits of the next one [B, V]."""
        end = int(pos_B.max()) + 1
        self._grow(end)
        alive = self.cache.part(len(tokens_B), rounded_up(end, self.cache.slots))
        model = self.decoder.model
        return model(tokens_B[:, None], alive, pos_B[:, None], alive.slots)[:, 0]

    def steps(
        self, tokens_B: Tensor, pos_B: Tensor, u_Bn: Tensor, choose: Choose, end: int
    ) -> Tensor:
        """As many steps as there are columns of uniform numbers: the new tokens [B, n].

        `end`: the length that the longest row will have.

        Raises:
            ValueError: a row would get longer than the engine's slots.
        """
        if end > self.most:
            raise ValueError(f"{end} tokens exceed the {self.most} slots of this engine")
        self._grow(end)
        rows, count = u_Bn.shape
        compiled, slots = self.decoder.compiles(rows, count), rounded_up(end, self.cache.slots)
        if self.decoder.captured:
            rows = padded_rows(rows)
        elif compiled:
            rows, slots = self.decoder.rows, end
        part = self.cache.part(rows, slots)
        run = self.decoder.steps(choose, compiled)
        return run(tokens_B, pos_B, part.k_LBKSD, part.v_LBKSD, u_Bn)


class Uncached:
    """An engine's four calls for a module that has only `forward`: every text anew for each token.
    """

    def __init__(self, model: nn.Module):
        self.model, self.device, self.stride = model, torch.device("cpu"), 1
        self.texts: dict[int, list[int]] = {}

    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        for row, ids in zip(rows, prompts):
            self.texts[row] = list(ids)
        return self._logits(rows)

    def copy(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        copies = [list(self.texts[source]) for source in sources]
        self.texts |= zip(targets, copies)

    def step(self, tokens_B: Tensor, pos_B: Tensor) -> Tensor:
        for row, (token, pos) in enumerate(zip(tokens_B.tolist(), pos_B.tolist())):
            self.texts[row] = self.texts[row][:pos] + [token]
        return self._logits(range(len(tokens_B)))

    def steps(
        self, tokens_B: Tensor, pos_B: Tensor, u_Bn: Tensor, choose: Choose, end: int
    ) -> Tensor:
        chosen = []
        for step in range(u_Bn.shape[1]):
            tokens_B = choose(self.step(tokens_B, pos_B + step), u_Bn[:, step])
            chosen.append(tokens_B)
        return torch.stack(chosen, dim=1)

    def _logits(self, rows: Sequence[int]) -> Tensor:
        tokens_BT, last_B = _side_by_side([self.texts[row] for row in rows])
        return self.model(tokens_BT)[torch.arange(len(rows)), last_B].cpu()
