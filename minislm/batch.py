"""The rows of a batch while it is decoded: who is in it, what each may still say, who has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from minislm.sampling import Choice, penalize
from minislm.config import SampleConfig
from minislm.fast.engine import STEPS, Engine, Uncached
from minislm.tokenizer import StreamDecoder, Tokenizer


class StopStrings:
    """Finds the first stop string in a text that comes in pieces, and holds back what may be one.

    Args: the strings; with none, every piece goes through as it is.
    """

    def __init__(self, stops: Sequence[str]):
        self.stops, self.held, self.found = stops, "", False

    def push(self, piece: str) -> str:
        """What of the text so far can be shown, beyond what was shown before."""
        if self.found:
            return ""
        text = self.held + piece
        places = [place for place in map(text.find, self.stops) if place >= 0]
        if places:
            self.found, self.held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What is still held when the text ends."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)


@dataclass
class Job:
    """What is to be done: prompts that wait, and one way to go on with all of them.

    Several batches may take from the same `waiting`, each in its own thread.
    """

    waiting: deque[tuple[int, Sequence[int], int]]  # which prompt, its ids, its seed
    settings: SampleConfig
    slots: int  # tokens a row can have
    stop_id: int | None
    tokenizer: Tokenizer | None
    compiled: bool = False  # whether steps may be

    @property
    def stepwise(self) -> bool:
        """Whether what may be said next depends on what was said before."""
        s = self.settings
        return s.repetition_penalty != 1 or s.min_new_tokens > 0 or s.logprobs


@dataclass
class Row:
    """A prompt in the batch."""

    index: int  # of the prompt
    left: int  # tokens it may still add
    watch: tuple[StreamDecoder, StopStrings] | None  # where there are stop strings

    def take(self, tokens: list[int], stop_id: int | None) -> list[int]:
        """Those of the next tokens that the row says; `left` becomes 0 where it ends."""
        tokens = tokens[: self.left]
        if stop_id in tokens:
            tokens = tokens[: tokens.index(stop_id) + 1]
            self.left = len(tokens)
        if self.watch is not None:
            decoder, stops = self.watch
            for count, token in enumerate(tokens, 1):
                stops.push(decoder.push(token))
                if stops.found:
                    tokens = tokens[:count]
                    self.left = count
                    break
        self.left -= len(tokens)
        return tokens


Said = tuple[list[Row], list[list[int]], list[list[float]]]  # rows, tokens, log-probabilities


@dataclass
class Batch:
    """Up to `capacity` rows in an engine."""

    engine: Engine | Uncached
    job: Job
    capacity: int
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.choose = Choice.of(self.job.settings)
        device = self.engine.device
        nothing = torch.empty(0, dtype=torch.int64, device=device)
        self.tokens_B, self.pos_B, self.done_B = nothing, nothing, nothing
        self.uniforms_BN = torch.empty(0, self.job.settings.max_new_tokens + STEPS, device=device)
        self.seen_BV: Tensor | None = None  # tokens of prompt and answer, for the penalty
        self.longest = 0  # of the rows' positions, known without asking the device

    def admit(self, free: int) -> Said:
        """Take waiting prompts into the free rows, and choose the first token of each.

        A prompt that is there several times is read once and copied.
        """
        taken = []
        while len(taken) < free and self.job.waiting:
            try:
                taken.append(self.job.waiting.popleft())
            except IndexError:  # another thread took the last one
                break
        begin = len(self.rows)
        rows = [self._row(index, len(ids)) for index, ids, _ in taken]
        first: dict[tuple[int, ...], int] = {}
        sources = [first.setdefault(tuple(ids), b) for b, (_, ids, _) in enumerate(taken)]
        read = sorted(set(sources))
        if not taken:
            return [], [], []
        logits_BV = self.engine.prefill([begin + b for b in read], [taken[b][1] for b in read])
        copied = [b for b in range(len(taken)) if sources[b] != b]
        if copied:
            self.engine.copy([begin + b for b in copied], [begin + sources[b] for b in copied])
            place = {source: place for place, source in enumerate(read)}
            logits_BV = logits_BV[[place[source] for source in sources]]
        uniforms_BN = self._uniforms([seed for _, _, seed in taken]).to(logits_BV.device)
        lengths_B = torch.tensor([len(ids) for _, ids, _ in taken], device=self.engine.device)
        self.rows += rows
        self.longest = max(self.longest, *(len(ids) for _, ids, _ in taken))
        self.pos_B = torch.cat((self.pos_B, lengths_B))
        self.done_B = torch.cat((self.done_B, torch.zeros_like(lengths_B)))
        self.uniforms_BN = torch.cat((self.uniforms_BN, uniforms_BN))
        if self.job.settings.repetition_penalty != 1:
            seen_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
            for b, (_, ids, _) in enumerate(taken):
                seen_BV[b, list(ids)] = True
            old = self.seen_BV if self.seen_BV is not None else seen_BV[:0]
            self.seen_BV = torch.cat((old, seen_BV))
        part = slice(begin, None)
        tokens_B, logprobs_B = self._choose(logits_BV, part)
        self.tokens_B = torch.cat((self.tokens_B, tokens_B))
        self.done_B[part] += 1
        return self._said(rows, tokens_B[:, None], logprobs_B)

    def advance(self) -> Said:
        """The next tokens of all rows: as many steps at once as the settings and the slots allow.

        A row that ends on the way is cut later; what it said too much is a few steps.
        """
        count = self.engine.stride
        if self.job.stepwise or self.longest + count > self.job.slots:
            count = 1
        self.longest += count
        if self.job.stepwise:
            logits_BV = self.engine.step(self.tokens_B, self.pos_B)
            tokens_B, logprobs_B = self._choose(logits_BV, slice(None))
            tokens_Bn = tokens_B[:, None]
        else:
            columns_Bn = self.done_B[:, None] + torch.arange(count, device=self.engine.device)
            u_Bn = self.uniforms_BN.gather(1, columns_Bn)
            tokens_Bn = self.engine.steps(
                self.tokens_B, self.pos_B, u_Bn, self.choose, self.longest
            )
            logprobs_B = None
        self.tokens_B = tokens_Bn[:, -1].contiguous()
        self.pos_B, self.done_B = self.pos_B + count, self.done_B + count
        return self._said(self.rows, tokens_Bn, logprobs_B)

    def settle(self) -> None:
        """Rows that have ended leave; the last rows fill the holes."""
        ended = [b for b, row in enumerate(self.rows) if row.left == 0]
        if not ended:
            return
        kept = len(self.rows) - len(ended)
        holes = [b for b in ended if b < kept]
        gone = set(ended)
        movers = [b for b in range(kept, len(self.rows)) if b not in gone]
        order = list(range(kept))
        for hole, mover in zip(holes, movers):
            order[hole] = mover
        if holes:
            self.engine.copy(holes, movers)
        self.rows = [self.rows[b] for b in order]
        for name in ("tokens_B", "pos_B", "done_B", "uniforms_BN"):
            setattr(self, name, getattr(self, name)[order])
        self.longest = int(self.pos_B.max()) if kept else 0
        if self.seen_BV is not None:
            self.seen_BV = self.seen_BV[order]

    def _row(self, index: int, length: int) -> Row:
        settings = self.job.settings
        watch = None
        if settings.stop_strings:
            watch = (StreamDecoder(self.job.tokenizer), StopStrings(settings.stop_strings))
        return Row(index, min(settings.max_new_tokens, self.job.slots - length), watch)

    def _uniforms(self, seeds: Sequence[int]) -> Tensor:
        """A row of numbers for each seed; where nothing is drawn, none of them counts."""
        N = self.uniforms_BN.shape[1]
        if self.job.settings.temperature == 0:
            return torch.zeros(len(seeds), N)
        rows = {seed: np.random.default_rng(seed).random(N, np.float32) for seed in set(seeds)}
        return torch.from_numpy(np.stack([rows[seed] for seed in seeds]))

    def _choose(self, logits_BV: Tensor, part: slice) -> tuple[Tensor, Tensor | None]:
        """One token for the rows of `part`, and what its log-probability was if that is asked."""
        settings, done_B = self.job.settings, self.done_B[part]
        allowed_BV = logits_BV.float()
        if self.seen_BV is not None:
            allowed_BV = penalize(allowed_BV, self.seen_BV[part], settings.repetition_penalty)
        if settings.min_new_tokens and self.job.stop_id is not None:
            allowed_BV = allowed_BV.clone()
            allowed_BV[done_B < settings.min_new_tokens, self.job.stop_id] = -torch.inf
        u_B = self.uniforms_BN[part].gather(1, done_B[:, None])[:, 0]
        tokens_B = self.choose(allowed_BV, u_B)
        if self.seen_BV is not None:
            self.seen_BV[part].scatter_(1, tokens_B[:, None], True)
        if not settings.logprobs:
            return tokens_B, None
        return tokens_B, logits_BV.float().log_softmax(-1).gather(1, tokens_B[:, None])[:, 0]

    def _said(self, rows: list[Row], tokens_Bn: Tensor, logprobs_B: Tensor | None) -> Said:
        tokens = [row.take(new, self.job.stop_id) for row, new in zip(rows, tokens_Bn.tolist())]
        if logprobs_B is None:
            return list(rows), tokens, [[]] * len(rows)
        return list(rows), tokens, [[value] for value in logprobs_B.tolist()]
