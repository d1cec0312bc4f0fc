"""From prompts to text: batched, cached, and the same text for a prompt whatever its neighbours.

A row of the batch is a prompt being continued; a row that ends leaves, and a waiting prompt takes
its place. Every row has a stream of uniform numbers of its own, one number a token, so its text is
a function of its prompt, its seed and the settings: not of the batch size, its place, its
neighbours or when it was admitted. What that holds up to: a matrix product of another number of
rows may differ in its last bit, so where two tokens are as likely as each other to seven digits,
or a uniform number falls that close to a border, another one of the two may be said.

On a CPU the batch is dealt out to lanes, one thread each with a cache of its own: threads that
never wait for each other decode faster than ones that share every product. Compiled steps, where
asked for, have so few places to wait at that all threads share them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from minislm import beam
from minislm.batch import Batch, Job, Row, StopStrings
from minislm.config import SampleConfig
from minislm.fast.engine import STEPS, Decoder, Engine, Uncached
from minislm.runtime.errors import UserError
from minislm.fast.threads import in_lanes
from minislm.fast.linear import PRECISIONS
from minislm.tokenizer import StreamDecoder, Tokenizer

# A lane reads all weights for its own rows alone. Those of a small model are in the processor's
# cache, so few rows are enough; those of a large one come from memory.
_SMALL = 4_000_000  # parameters
_LANE_ROWS, _LANE_ROWS_OF_LARGE = 4, 64


@dataclass
class Continuation:
    """What a prompt went on with: token ids (an end of text included, if it came to one) and,
    where asked for, the log-probability of each under the model itself, before any setting."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Sampler:
    """Continues prompts with a model.

    Args:
        model: a Transformer, or any module whose `forward(tokens [B, T])` gives logits [B, T, V]
            (read without a cache then, if it has no `features`); it is put into eval mode.
        tokenizer: needed for text, and for stopping at the end of text.
        batch_size: rows decoded together; more prompts wait for a free row.
        precision: "float32", "bfloat16" or "int8" weights while decoding on a CPU; None: the
            model's own.
        compiled: steps are compiled where that is faster, once for each number of rows.

    Raises:
        UserError: fewer rows than one, or `compiled` where it cannot be had.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer | None = None,
        batch_size: int = 64,
        *,
        precision: str | None = None,
        compiled: bool = False,
    ):
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} rows says nothing; give at least 1")
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.precision, self.compiled = precision, compiled
        if compiled and not self._compilable():
            raise UserError("--compile is for a GPU (CUDA), or a CPU with weights in float32, "
                            "bfloat16 or int8; leave it out")  # fmt: skip
        # By rows, for which matrices are packed, and whether steps may be compiled.
        self._decoders: dict[tuple[int, bool], Decoder] = {}
        self._packed: list[tuple[int, int]] = []  # the state of the weights they were made from
        self._lock = threading.Lock()

    def generate(
        self,
        prompts: Sequence[str],
        settings: SampleConfig | None = None,
        seeds: Sequence[int] | None = None,
        progress: bool = False,
        **changes: Any,
    ) -> list[str]:
        """The continuation of each prompt, without the prompt and without the end of text.

        Settings are a SampleConfig, or its fields by name (max_new_tokens, temperature, top_k,
        top_p, min_p, seed, stop, ...). `seeds` gives every prompt a seed of its own; else all have
        the same, so the same prompt twice gives the same text twice. A prompt that is there
        several times is read once. `progress` shows a bar.

        Raises:
            UserError: a prompt as long as the context, or longer.
        """
        settings = settings or SampleConfig(**changes)
        id_lists = [self._tokenizer().prompt_ids(prompt) for prompt in prompts]
        found = self.continuations(id_lists, settings, seeds, progress)
        return [self.text(ids, new.ids, settings) for ids, new in zip(id_lists, found)]

    def text(self, prompt: Sequence[int], ids: Sequence[int], settings: SampleConfig) -> str:
        """The text that `ids` add to a prompt, cut before the first stop string."""
        stops = StopStrings(settings.stop_strings)
        return stops.push(self._tokenizer().continuation(prompt, ids)) + stops.flush()

    def generate_ids(
        self,
        id_lists: Sequence[Sequence[int]],
        settings: SampleConfig | None = None,
        seeds: Sequence[int] | None = None,
        **changes: Any,
    ) -> list[list[int]]:
        """The new token ids of each prompt, an end of text included if it came to one."""
        settings = settings or SampleConfig(**changes)
        return [found.ids for found in self.continuations(id_lists, settings, seeds)]

    @torch.inference_mode()
    def continuations(
        self,
        id_lists: Sequence[Sequence[int]],
        settings: SampleConfig,
        seeds: Sequence[int] | None = None,
        progress: bool = False,
    ) -> list[Continuation]:
        """The new tokens of each prompt, with their log-probabilities if the settings say so."""
        self._check(id_lists)
        found = [Continuation() for _ in id_lists]
        if settings.beams > 1:
            for new, ids in zip(found, tqdm(id_lists, disable=None if progress else True)):
                limit = min(settings.max_new_tokens, self._context() - len(ids))
                engine = self._engine(settings.beams, len(ids) + limit, False)
                new.ids = beam.search(engine, ids, limit, settings, self._stop_id(settings))
            return found
        job = self._job(id_lists, settings, seeds)
        with tqdm(total=len(id_lists), unit=" texts", disable=None if progress else True) as bar:

            def work(capacity: int) -> None:
                for rows, tokens_Bn, logprobs_Bn in self._decode(job, capacity):
                    for row, tokens, logprobs in zip(rows, tokens_Bn, logprobs_Bn):
                        found[row.index].ids += tokens
                        found[row.index].logprobs += logprobs
                    bar.update(sum(row.left == 0 for row in rows))

            self._in_lanes(job, work, min(self.batch_size, len(id_lists)))
        return found

    def stream(
        self, prompt: str, settings: SampleConfig | None = None, **changes: Any
    ) -> Iterator[str]:
        """The continuation of one prompt piece by piece, each piece whole characters.

        What may become a stop string is held back until it is clear that it does not.
        """
        settings = settings or SampleConfig(**changes)
        ids = self._tokenizer().prompt_ids(prompt)
        decoder = StreamDecoder(self._tokenizer(), ids)
        stops = StopStrings(settings.stop_strings)
        for _, token in self.stream_ids([ids], settings):
            yield stops.push(decoder.push(token))
        yield stops.push(decoder.flush()) + stops.flush()

    @torch.inference_mode()
    def stream_ids(
        self,
        id_lists: Sequence[Sequence[int]],
        settings: SampleConfig | None = None,
        seeds: Sequence[int] | None = None,
        **changes: Any,
    ) -> Iterator[tuple[int, int]]:
        """Events (which prompt, its next token): of each row in order, a few tokens at a time."""
        settings = settings or SampleConfig(**changes)
        self._check(id_lists)
        if settings.beams > 1:
            raise UserError("beams are not known before the end: no streaming with --beams")
        job = self._job(id_lists, settings, seeds)
        for rows, tokens_Bn, _ in self._decode(job, min(self.batch_size, len(id_lists))):
            for row, tokens in zip(rows, tokens_Bn):
                yield from ((row.index, token) for token in tokens)

    def _in_lanes(self, job: Job, work: Any, rows: int) -> None:
        """Call `work(rows of the lane)` in as many threads as pay, and wait for all of them."""
        threads = torch.get_num_threads()
        if self._cached() != "cpu" or threads == 1:
            return work(rows)
        if job.compiled and self._decoder(rows, True).shared is not None:
            return work(rows)  # the threads share the compiled code
        job.compiled = False
        small = self.model.n_parameters() <= _SMALL
        lanes = min(threads, rows // (_LANE_ROWS if small else _LANE_ROWS_OF_LARGE))
        if lanes <= 1 and not small:
            return work(rows)  # the threads share every product
        lanes = max(1, lanes)  # a small product is over before a second thread wakes up

        def lane() -> None:
            try:
                with torch.inference_mode():
                    work(-(-rows // lanes))
            except BaseException:
                job.waiting.clear()  # the other lanes take no more
                raise

        try:
            in_lanes([lane] * lanes, threads=1)
        finally:
            job.waiting.clear()  # Ctrl-C leaves lanes behind: they end with the rows they have

    def _decode(self, job: Job, capacity: int) -> Iterator[tuple[list[Row], list, list]]:
        """Go on with waiting prompts until none is left: rows, their new tokens [B][up to n] and
        log-probabilities (empty lists where not asked for), some steps at a time."""
        batch = Batch(self._engine(capacity, job.slots, job.compiled), job, capacity)
        while batch.rows or job.waiting:
            # Admitting a few at a time keeps the batch full without a prefill at every step.
            free = capacity - len(batch.rows)
            if job.waiting and (not batch.rows or free >= max(1, capacity // 8)):
                rows, tokens_Bn, logprobs_Bn = batch.admit(free)
            else:
                rows, tokens_Bn, logprobs_Bn = batch.advance()
            yield rows, tokens_Bn, logprobs_Bn
            batch.settle()

    def _job(
        self,
        id_lists: Sequence[Sequence[int]],
        settings: SampleConfig,
        seeds: Sequence[int] | None,
    ) -> Job:
        seeds = [settings.seed] * len(id_lists) if seeds is None else list(seeds)
        if len(seeds) != len(id_lists):
            raise UserError(f"{len(seeds)} seeds for {len(id_lists)} prompts; give each prompt one")
        if settings.stop_strings:
            self._tokenizer()  # without it no text can be searched
        longest = max(map(len, id_lists), default=0) + settings.max_new_tokens + STEPS
        slots = min(self._context(), longest)
        settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, slots))
        waiting = deque(zip(range(len(id_lists)), id_lists, seeds))
        job = Job(waiting, settings, slots, self._stop_id(settings), self.tokenizer)
        job.compiled = self.compiled and not job.stepwise
        return job

    def _engine(self, rows: int, slots: int, compiled: bool) -> Engine | Uncached:
        if self._cached() is None:
            return Uncached(self.model)
        return Engine(self._decoder(rows, compiled), rows, slots)

    def _decoder(self, rows: int, compiled: bool) -> Decoder:
        rows = 1 << (rows - 1).bit_length()  # the next power of two: few ways to pack
        weights = [
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for weight in self.model.parameters()
        ]
        with self._lock:
            if weights != self._packed:  # trained on since, or loaded anew: packed ones are copies
                self._decoders, self._packed = {}, weights
            key = (rows, compiled)
            if key not in self._decoders:
                self._decoders[key] = Decoder(self.model, rows, self.precision, compiled)
            return self._decoders[key]

    def _cached(self) -> str | None:
        """The device of a model that has a cache, None for one that has none."""
        return self.model.embedding.weight.device.type if hasattr(self.model, "features") else None

    def _compilable(self) -> bool:
        if self._cached() != "cpu":
            return self._cached() == "cuda"
        own = str(self.model.embedding.weight.dtype).removeprefix("torch.")
        return (self.precision or own) in PRECISIONS

    def _context(self) -> int:
        return self.model.config.context if hasattr(self.model, "config") else 1 << 30

    def _stop_id(self, settings: SampleConfig) -> int | None:
        return self.tokenizer.eot_id if self.tokenizer and settings.stop else None

    def _check(self, id_lists: Sequence[Sequence[int]]) -> None:
        context = self._context()
        size = self.model.config.vocab_size if hasattr(self.model, "config") else 1 << 62
        for ids in id_lists:
            if not len(ids):
                raise UserError("an empty prompt; give at least one token (the end of text)")
            if len(ids) >= context:
                raise UserError(
                    f"the prompt has {len(ids)} tokens and the model's context is {context}; "
                    "shorten the prompt"
                )
            if not 0 <= min(ids) <= max(ids) < size:
                raise UserError(f"a token id is outside the vocabulary of {size}")

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("Sampler(model, tokenizer) is needed for text")
        return self.tokenizer
