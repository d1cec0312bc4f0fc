"""Documents as tokens, and batches of whole documents: no row mixes two of them.

A document is a story, or the prompt and completion of a pair. Rows of similar length make a batch,
so little is padding. A document longer than the context becomes several rows. In every other epoch
a document starts with the end-of-text token, else with its own first token: a model learns to start
from nothing and to continue a prompt. A pair never starts with the end of text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minislm.runtime.errors import UserError
from minislm.runtime.files import read_text
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import Tokenizer

IGNORED = -100  # a masked target: padding, or the prompt of a pair (F.cross_entropy's default)
_POOL = 4096  # rows that are sorted by length together
_MULTIPLE = 16  # row lengths are padded to a multiple of this: few shapes, aligned in memory


@dataclass(frozen=True)
class TokenDataset:
    """Documents as token ids: number i is `tokens[starts[i] : starts[i + 1]]`, with its end."""

    tokens: np.ndarray  # uint16 or uint32 [n], possibly memory-mapped
    starts: np.ndarray  # int64 [documents + 1]
    sizes: np.ndarray  # int64 [documents]: bytes of the text in UTF-8

    @classmethod
    def from_ids(
        cls, documents: Sequence[Sequence[int]], sizes: Sequence[int] | np.ndarray | None = None
    ) -> "TokenDataset":
        """From ids, each document with its end of text; bits per byte need the `sizes`."""
        starts = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        tokens = np.array([token for ids in documents for token in ids], np.uint32)
        sizes = [0] * len(documents) if sizes is None else sizes
        return cls(tokens, starts, np.array(sizes, np.int64))

    @classmethod
    def from_texts(cls, texts: Iterable[str], tokenizer: Tokenizer) -> "TokenDataset":
        texts = list(texts)
        ids = [each + [tokenizer.eot_id] for each in tokenizer.encode_batch(texts)]
        return cls.from_ids(ids, [len(text.encode()) for text in texts])

    @property
    def n_tokens(self) -> int:
        return int(self.starts[-1] - self.starts[0])

    @property
    def bytes(self) -> int:
        return int(self.sizes.sum())

    def __len__(self) -> int:
        return len(self.starts) - 1

    def document(self, i: int) -> np.ndarray:
        return self.tokens[self.starts[i] : self.starts[i + 1]]

    def window(self, i: int, begin: int, end: int, eot_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of predictions `begin` to `end` of document i: prediction p reads an
        end of text and p tokens, and its target is token p."""
        text = np.concatenate(([eot_id], self.document(i).astype(np.int64)))
        return text[begin:end], text[begin + 1 : end + 1].copy()

    def subset(self, chosen: Sequence[int]) -> "TokenDataset":
        """The chosen documents, copied."""
        return self.from_ids([self.document(i).tolist() for i in chosen], self.sizes[list(chosen)])


def read_documents(path: str | Path) -> list[str]:
    """The documents of a UTF-8 text file, separated by END_OF_TEXT; raises UserError if none."""
    documents = [text.strip() for text in read_text(Path(path)).split(END_OF_TEXT)]
    documents = [text for text in documents if text]
    if not documents:
        raise UserError(f"{path} has no text; give a file with text in it")
    return documents


def hold_out(dataset: TokenDataset) -> tuple[TokenDataset, TokenDataset]:
    """Training and validation documents: the last twentieth (1 to 2,000) is held out."""
    if len(dataset) < 2:
        raise UserError("one document is too few to hold one out; give more text, or --valid FILE")
    at, d = len(dataset) - min(2000, max(1, len(dataset) // 20)), dataset
    first = TokenDataset(d.tokens, d.starts[: at + 1], d.sizes[:at])
    return first, TokenDataset(d.tokens, d.starts[at:], d.sizes[at:])


def batches_of(lengths: Sequence[int], tokens: int) -> Iterator[slice]:
    """Batches of rows with these increasing lengths, of at most `tokens` with their padding (but
    one row at least)."""
    begin = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] * (end + 1 - begin) > tokens:
            yield slice(begin, end)
            begin = end


def collate(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], width: int, eot_id: int
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of rows, padded on the right: int64 [B, width] each."""
    inputs_BT = np.full((len(rows), width), eot_id, np.int64)
    targets_BT = np.full((len(rows), width), IGNORED, np.int64)
    for b, (inputs, targets) in enumerate(rows):
        inputs_BT[b, : len(inputs)] = inputs
        targets_BT[b, : len(targets)] = targets
    return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)


class Batches:
    """An endless stream of (inputs [B, T], targets [B, T]) in epochs over all documents.

    The order depends on the seed alone. `state` is the position in the stream: another `Batches`
    with the same documents and that state continues with the next batch.

    Args:
        examples: pairs as `encode_pair` gives them; an epoch has each `repeats` times.
        context: longest row; a longer example raises ValueError.
        batch_tokens: largest number of rows times row length in a batch (but one row at least).
        loss_on: "completion", or "all": the prompt of a pair has targets too.
        rank, world_size: of each batch this process takes every `world_size`-th row from `rank` on.
            A process left without a row takes the first one with all targets IGNORED."""

    def __init__(
        self, documents: TokenDataset, examples: Sequence[tuple[list[int], list[int]]] = (), *,
        context: int, batch_tokens: int, eot_id: int, repeats: int = 1, seed: int = 0,
        loss_on: str = "completion", rank: int = 0, world_size: int = 1,
    ):  # fmt: skip
        self.documents, self.examples = documents, examples
        self.context, self.batch_tokens = context, batch_tokens
        self.eot_id, self.loss_on, self.seed = eot_id, loss_on, seed
        self.rank, self.world_size = rank, world_size
        sizes = np.array([len(prompt) + len(end) - 1 for prompt, end in examples], np.int64)
        if sizes.max(initial=0) > context:
            raise ValueError(f"an example of {sizes.max() + 1} tokens exceeds context {context}")
        # Row r is part of document `document[r]`, from token `offset[r]` on; examples are numbered
        # after the documents.
        lengths = np.diff(documents.starts)
        parts = np.maximum(1, -(-lengths // context))
        document = np.repeat(np.arange(len(documents)), parts)
        offset = (np.arange(len(document)) - np.repeat(np.cumsum(parts) - parts, parts)) * context
        length = np.minimum(lengths[document] - offset, context)
        numbers = np.arange(len(examples)) + len(documents)
        self.document = np.concatenate([document, np.tile(numbers, repeats)])
        self.offset = np.concatenate([offset, np.zeros(len(examples) * repeats, np.int64)])
        self.length = np.concatenate([length, np.tile(sizes, repeats)])
        self.state = {"epoch": 0, "pool": 0, "batch": 0}

    def row(self, r: int, from_end_of_text: bool) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of row r, equally long."""
        number, offset = int(self.document[r]), int(self.offset[r])
        if number >= len(self.documents):
            prompt, completion = self.examples[number - len(self.documents)]
            ids = np.array(prompt + completion, np.int64)
            targets = ids[1:].copy()
            if self.loss_on == "completion":
                targets[: len(prompt) - 1] = IGNORED
            return ids[:-1], targets
        begin = offset if offset or from_end_of_text else 1
        return self.documents.window(number, begin, offset + int(self.length[r]), self.eot_id)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            plan = self._plan(self.state["epoch"], self.state["pool"])
            if plan is None:
                self.state |= {"epoch": self.state["epoch"] + 1, "pool": 0, "batch": 0}
                continue
            while self.state["batch"] < len(plan):
                rows = plan[self.state["batch"]]
                self.state["batch"] += 1  # before it is yielded: a saved state never repeats it
                own = rows[self.rank :: self.world_size]
                inputs_BT, targets_BT = self._collate(own if len(own) else rows[:1])
                yield inputs_BT, targets_BT if len(own) else torch.full_like(targets_BT, IGNORED)
            self.state |= {"pool": self.state["pool"] + 1, "batch": 0}

    def _plan(self, epoch: int, pool: int) -> list[np.ndarray] | None:
        """The batches of one pool as row numbers, or None after the last pool of the epoch."""
        if pool * _POOL >= len(self.document):
            return None
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.document))
        rows = shuffled[pool * _POOL : (pool + 1) * _POOL]
        rows = rows[np.argsort(self.length[rows], kind="stable")]
        lengths = [self._padded(length) for length in self.length[rows].tolist()]
        batches = [rows[part] for part in batches_of(lengths, self.batch_tokens)]
        order = np.random.default_rng([self.seed, epoch, pool]).permutation(len(batches))
        return [batches[i] for i in order]

    def _collate(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        pairs = [self.row(r, bool((r + self.state["epoch"]) % 2)) for r in rows.tolist()]
        return collate(pairs, self._padded(max(len(inputs) for inputs, _ in pairs)), self.eot_id)

    def _padded(self, length: int) -> int:
        return min(self.context, max(1, -(-length // _MULTIPLE)) * _MULTIPLE)
