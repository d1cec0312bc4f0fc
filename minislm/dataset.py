"""From token files to batches: one row is one document, and no row mixes two.

A document is a story, or a pair's prompt and completion. Rows of about the same length make a
batch, so hardly anything is padding and a short text does not pay for a long one; nothing is
packed, so no attention crosses from one story into the next. A story longer than the context
becomes several rows, each starting afresh. A story starts from the end-of-text token in every
other row, and from its own first word in the others: so a model can begin a story from nothing,
and go on from a bare prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minislm.corpus.prepare import TokenFile

IGNORED = -100  # a target that is not to be predicted: padding, or a pair's prompt
_POOL = 4096  # rows sorted by length together; batches are drawn from one pool after another
_MULTIPLE = 16  # rows are padded to a multiple of this: few shapes, and aligned ones


@dataclass(frozen=True)
class Example:
    """A pair as tokens: prompt, completion (with its end of text)."""

    prompt: list[int]
    completion: list[int]


class Batches:
    """An endless stream of (inputs [B, T], targets [B, T]) in epochs over all documents.

    Which batch comes k-th depends on the seed alone. `state` says where the stream stands, and a
    stream made with the same documents and that state goes on with the very next batch.

    Args:
        stories: shown once an epoch each.
        examples: pairs, shown `repeats` times an epoch each.
        context: longest row; a longer example raises ValueError (the caller leaves it out and
            says so), a longer story becomes several rows.
        batch_tokens: rows times row length of a batch, at most (one row at least).
        loss_on: "completion", or "all" to learn a pair's prompt too.
        rank, world: of each batch this process takes every `world`-th row, from `rank` on; where
            a batch has too few rows, its first one without a target.
    """

    def __init__(
        self,
        stories: TokenFile,
        examples: Sequence[Example],
        *,
        context: int,
        batch_tokens: int,
        eot_id: int,
        repeats: int = 1,
        loss_on: str = "completion",
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        self.stories, self.context, self.batch_tokens = stories, context, batch_tokens
        self.eot_id, self.loss_on, self.seed = eot_id, loss_on, seed
        self.rank, self.world = rank, world
        self.examples = examples
        longest = max((len(e.prompt) + len(e.completion) for e in examples), default=0)
        if longest > context + 1:
            raise ValueError(f"an example of {longest} tokens exceeds the context of {context}")
        # Row r is (document, offset): stories first, then the examples, numbered on.
        lengths = np.diff(stories.starts)
        windows = np.maximum(1, -(-lengths // context))
        document = np.repeat(np.arange(len(stories)), windows)
        first = np.cumsum(windows) - windows
        offset = (np.arange(len(document)) - np.repeat(first, windows)) * context
        length = np.minimum(lengths[document] - offset, context)
        numbers = np.arange(len(examples)) + len(stories)
        sizes = np.array([len(e.prompt) + len(e.completion) - 1 for e in examples], np.int64)
        self.document = np.concatenate([document, np.tile(numbers, repeats)])
        self.offset = np.concatenate([offset, np.zeros(len(examples) * repeats, np.int64)])
        self.length = np.concatenate([length, np.tile(sizes, repeats)])
        self.state = {"epoch": 0, "pool": 0, "batch": 0}

    def row(self, r: int, from_end_of_text: bool) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of row r, equally long."""
        document, offset = int(self.document[r]), int(self.offset[r])
        if document >= len(self.stories):
            example = self.examples[document - len(self.stories)]
            ids = np.array(example.prompt + example.completion, np.int64)
            targets = ids[1:].copy()
            if self.loss_on == "completion":
                targets[: len(example.prompt) - 1] = IGNORED
            return ids[:-1], targets
        story = self.stories.story(document)[offset : offset + self.context].astype(np.int64)
        if offset or not from_end_of_text:
            return story[:-1], story[1:]
        return np.concatenate([[self.eot_id], story[:-1]]), story

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            plan = self._plan(self.state["epoch"], self.state["pool"])
            if plan is None:
                self.state |= {"epoch": self.state["epoch"] + 1, "pool": 0, "batch": 0}
                continue
            while self.state["batch"] < len(plan):
                rows = plan[self.state["batch"]]
                self.state["batch"] += 1  # before it is handed out: a saved state never repeats it
                own = rows[self.rank :: self.world]
                yield self._collate(own) if len(own) else self._nothing(rows[:1])
            self.state |= {"pool": self.state["pool"] + 1, "batch": 0}

    def _plan(self, epoch: int, pool: int) -> list[np.ndarray] | None:
        """The batches of one pool as row numbers, or None after the epoch's last pool."""
        if pool * _POOL >= len(self.document):
            return None
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.document))
        rows = shuffled[pool * _POOL : (pool + 1) * _POOL]
        rows = rows[np.argsort(self.length[rows], kind="stable")]
        batches, begin = [], 0
        for end in range(1, len(rows) + 1):
            padded = _padded(self.length[rows[end]]) if end < len(rows) else np.inf
            if padded * (end + 1 - begin) > self.batch_tokens:  # one more would not fit
                batches.append(rows[begin:end])
                begin = end
        order = np.random.default_rng([self.seed, epoch, pool]).permutation(len(batches))
        return [batches[i] for i in order]

    def _collate(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        pairs = [self.row(r, bool((r + self.state["epoch"]) % 2)) for r in rows.tolist()]
        width = _padded(max(len(inputs) for inputs, _ in pairs))
        inputs_BT = np.full((len(rows), width), self.eot_id, np.int64)
        targets_BT = np.full((len(rows), width), IGNORED, np.int64)
        for b, (inputs, targets) in enumerate(pairs):
            inputs_BT[b, : len(inputs)] = inputs
            targets_BT[b, : len(targets)] = targets
        return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)

    def _nothing(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        inputs_BT, targets_BT = self._collate(rows)
        return inputs_BT, torch.full_like(targets_BT, IGNORED)


def _padded(length: int) -> int:
    return -(-int(length) // _MULTIPLE) * _MULTIPLE
