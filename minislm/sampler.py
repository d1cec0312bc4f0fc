"""From prompts to text: batched, cached, and the same text for a prompt whatever its neighbours.

Prompts of different lengths share a batch because the cache keeps the token at position p in slot
p (see `KVCache`): no padding mask. A row that ends leaves the batch and a waiting prompt takes its
place. Every row draws one uniform number a step from a stream of its own, so what it says depends
on its prompt, its seed and the settings alone, up to floating-point ties: the same products in
another batch size may differ in their last bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minislm.config import SampleConfig
from minislm.errors import UserError
from minislm.model import KVCache, Transformer
from minislm.tokenizer import StreamDecoder, Tokenizer


def probabilities(logits_BV: Tensor, settings: SampleConfig) -> tuple[Tensor, Tensor | None]:
    """What is drawn from: probabilities [B, k] and the token ids behind them [B, k] (None: all).

    In this order: temperature, then the k likeliest, then the fewest of those that together have
    the mass `top_p` ("nucleus", Holtzman et al. 2020; the likeliest always stays). What is left
    out has probability 0; the rest need not sum to 1.
    """
    logits_BV = logits_BV.float() / settings.temperature
    k = settings.top_k if 0 < settings.top_k < logits_BV.shape[-1] else None
    if settings.top_p == 1.0:
        if k is None:
            return logits_BV.softmax(-1), None
        top = logits_BV.topk(k)
        return top.values.softmax(-1), top.indices
    top = logits_BV.topk(k or logits_BV.shape[-1])  # sorted: the likeliest first
    p_Bk = top.values.softmax(-1)
    before_Bk = p_Bk.cumsum(-1) - p_Bk  # the mass of all likelier tokens
    return p_Bk.masked_fill(before_Bk >= settings.top_p, 0.0), top.indices


def pick(logits_BV: Tensor, u_B: Tensor, settings: SampleConfig) -> Tensor:
    """The next token of every row: int64 [B].

    Temperature 0 takes the likeliest. Else the inverse of the cumulative distribution turns one
    uniform number a row, u in [0, 1), into a token: a tenth of the time of `torch.multinomial`.
    """
    if settings.temperature == 0:
        return logits_BV.argmax(-1)
    p_Bk, ids_Bk = probabilities(logits_BV, settings)
    cdf_Bk = p_Bk.cumsum(-1)
    threshold_B1 = u_B[:, None] * cdf_Bk[:, -1:]
    # right=True: the first token whose cdf exceeds the threshold, so never one of probability 0.
    choice_B1 = torch.searchsorted(cdf_Bk, threshold_B1, right=True).clamp_(max=p_Bk.shape[-1] - 1)
    return (choice_B1 if ids_Bk is None else ids_Bk.gather(1, choice_B1)).squeeze(1)


@dataclass
class _Row:
    """A prompt in the batch: which one, how many tokens it may add, and its random numbers."""

    index: int
    left: int
    uniforms: Iterator[float]


class Sampler:
    """Continues prompts with a model that has `features`, `head` and a KV cache.

    Args:
        model: a Transformer; it is put into eval mode.
        tokenizer: needed by `generate` and for stopping at the end of text.
        batch_size: rows decoded together; more prompts wait for a free row.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer | None = None, batch_size: int = 64
    ):
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.device = model.embedding.weight.device

    def generate(
        self,
        prompts: Sequence[str],
        settings: SampleConfig | None = None,
        seeds: Sequence[int] | None = None,
        **changes: Any,
    ) -> list[str]:
        """The continuation of each prompt, without the prompt and without the end of text.

        Settings are a SampleConfig, or its fields by name (max_new_tokens, temperature, top_k,
        top_p, seed, stop). `seeds` gives every prompt a seed of its own; else all have the same,
        so the same prompt twice gives the same text twice.

        Raises:
            UserError: a prompt as long as the context, or longer.
        """
        id_lists = [self._tokenizer().prompt_ids(prompt) for prompt in prompts]
        new_ids = self.generate_ids(id_lists, settings, seeds, **changes)
        return list(map(self._tokenizer().continuation, id_lists, new_ids))

    def generate_ids(
        self,
        id_lists: Sequence[Sequence[int]],
        settings: SampleConfig | None = None,
        seeds: Sequence[int] | None = None,
        **changes: Any,
    ) -> list[list[int]]:
        """The new token ids of each prompt, an end of text included if it came to one."""
        new_ids: list[list[int]] = [[] for _ in id_lists]
        for index, token in self.stream_ids(id_lists, settings, seeds, **changes):
            new_ids[index].append(token)
        return new_ids

    def stream(
        self, prompt: str, settings: SampleConfig | None = None, **changes: Any
    ) -> Iterator[str]:
        """The continuation of one prompt piece by piece, each piece whole characters."""
        ids = self._tokenizer().prompt_ids(prompt)
        decoder = StreamDecoder(self._tokenizer(), ids)
        for _, token in self.stream_ids([ids], settings, **changes):
            yield decoder.push(token)
        yield decoder.flush()

    @torch.inference_mode()
    def stream_ids(
        self,
        id_lists: Sequence[Sequence[int]],
        settings: SampleConfig | None = None,
        seeds: Sequence[int] | None = None,
        **changes: Any,
    ) -> Iterator[tuple[int, int]]:
        """Events (which prompt, its next token), in the order they are made."""
        settings = settings or SampleConfig(**changes)
        seeds = [settings.seed] * len(id_lists) if seeds is None else seeds
        waiting = deque(enumerate(self._checked(id_lists)))
        if not waiting:
            return
        context = self.model.config.context
        longest = max(len(ids) for ids in id_lists)
        capacity = min(self.batch_size, len(id_lists))
        slots = min(context, longest + settings.max_new_tokens)
        cache = KVCache(self.model.config, capacity, slots, self.model.embedding.weight)
        stop_id = self.tokenizer.eot_id if self.tokenizer and settings.stop else None
        rows: list[_Row] = []
        tokens_B = torch.empty(0, dtype=torch.int64, device=self.device)
        pos_B = tokens_B.clone()
        while rows or waiting:
            # Admitting a few at a time keeps the batch full without a prefill at every step.
            if waiting and (not rows or capacity - len(rows) >= max(1, capacity // 8)):
                free = range(len(rows), min(capacity, len(rows) + len(waiting)))
                admitted = [waiting.popleft() for _ in free]
                prompts = [ids for _, ids in admitted]
                logits_BV, lengths_B = self._prefill(cache, list(free), prompts)
                fresh = [
                    self._row(index, len(ids), settings.max_new_tokens, seeds[index])
                    for index, ids in admitted
                ]
                first_B = pick(logits_BV, self._draw(fresh), settings)
                yield from self._events(fresh, first_B)
                rows += fresh
                tokens_B, pos_B = torch.cat((tokens_B, first_B)), torch.cat((pos_B, lengths_B))
                # The new rows' first tokens may be their last: settle that before the next step.
                tokens_B, pos_B = self._settle(rows, tokens_B, pos_B, cache, stop_id, len(fresh))
                continue
            logits_BV = self.model(tokens_B[:, None], cache, pos_B[:, None])[:, -1]
            tokens_B, pos_B = pick(logits_BV, self._draw(rows), settings), pos_B + 1
            yield from self._events(rows, tokens_B)
            tokens_B, pos_B = self._settle(rows, tokens_B, pos_B, cache, stop_id, len(rows))

    def _prefill(
        self, cache: KVCache, rows: list[int], prompts: list[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Read prompts into the cache's `rows`: next-token logits [B, V], lengths [B]."""
        lengths_B = torch.tensor([len(ids) for ids in prompts], device=self.device)
        T = int(lengths_B.max())
        tokens_BT = torch.zeros(len(prompts), T, dtype=torch.int64)
        for b, ids in enumerate(prompts):
            tokens_BT[b, : len(ids)] = torch.tensor(ids)
        own = KVCache(self.model.config, len(prompts), T, self.model.embedding.weight)
        pos_BT = torch.arange(T, device=self.device).expand(len(prompts), T)
        features_BTC = self.model.features(tokens_BT.to(self.device), own, pos_BT)
        cache.copy_rows(rows, own, list(range(len(prompts))))
        last_BC = features_BTC[torch.arange(len(prompts), device=self.device), lengths_B - 1]
        return self.model.head(last_BC), lengths_B  # the head at the last token of each row alone

    def _row(self, index: int, length: int, max_new_tokens: int, seed: int) -> _Row:
        left = min(max_new_tokens, self.model.config.context - length)
        uniforms = np.random.default_rng(seed).random(left, dtype=np.float32)
        return _Row(index, left, iter(uniforms.tolist()))

    def _draw(self, rows: list[_Row]) -> Tensor:
        return torch.tensor([next(row.uniforms) for row in rows], device=self.device)

    @staticmethod
    def _events(rows: list[_Row], tokens_B: Tensor) -> Iterator[tuple[int, int]]:
        for row, token in zip(rows, tokens_B.tolist()):
            row.left -= 1
            yield row.index, token

    def _settle(
        self,
        rows: list[_Row],
        tokens_B: Tensor,
        pos_B: Tensor,
        cache: KVCache,
        stop_id: int | None,
        fresh: int,
    ) -> tuple[Tensor, Tensor]:
        """Drop the rows that have ended among the last `fresh`; the last rows fill the holes."""
        begin = len(rows) - fresh
        ended = [
            b
            for b, token in enumerate(tokens_B[begin:].tolist(), begin)
            if rows[b].left == 0 or token == stop_id
        ]
        if not ended:
            return tokens_B, pos_B
        kept = len(rows) - len(ended)
        gone = set(ended)
        holes = [b for b in ended if b < kept]
        movers = [b for b in range(kept, len(rows)) if b not in gone]
        if holes:
            slots = int(pos_B[movers].max())
            cache.k_LBKSD[:, holes, :, :slots] = cache.k_LBKSD[:, movers, :, :slots]
            cache.v_LBKSD[:, holes, :, :slots] = cache.v_LBKSD[:, movers, :, :slots]
            tokens_B[holes], pos_B[holes] = tokens_B[movers], pos_B[movers]
            for hole, mover in zip(holes, movers):
                rows[hole] = rows[mover]
        del rows[kept:]
        return tokens_B[:kept], pos_B[:kept]

    def _checked(self, id_lists: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        context, size = self.model.config.context, self.model.config.vocab_size
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
        return id_lists

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("Sampler(model, tokenizer) is needed for text")
        return self.tokenizer
