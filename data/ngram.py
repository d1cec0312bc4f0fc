"""How far counting goes: bits per byte of an n-gram model with Kneser-Ney smoothing.

    python data/ngram.py v2-train.txt --valid v2-valid.txt

The tokens are those of train.py, and so is the score: each document alone, with its end of text.
"""

import argparse
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minislm.cli.config import DataConfig
from minislm.corpus.prepare import prepare, train_tokenizer
from minislm.corpus.read import validation_files
from minislm.dataset import TokenDataset, hold_out
from minislm.runtime.errors import UserError, run_script


class Order(NamedTuple):
    """The n-grams of one length. A key is the number whose digits, in base V, are the tokens."""

    grams: np.ndarray  # int64 [n], sorted keys
    counts: np.ndarray  # int64 [n]
    contexts: np.ndarray  # int64 [m], sorted keys of the tokens before the last
    totals: np.ndarray  # int64 [m]: sum of the counts that follow
    weights: np.ndarray  # float64 [m]: what the discounts leave to the next shorter context
    discounts: np.ndarray  # float64 [4]: of a count of 0, 1, 2, and of 3 or more


class NGrams:
    """An interpolated n-gram model with modified Kneser-Ney smoothing (Chen & Goodman 1999, section
    3): counts are discounted, and a shorter n-gram counts the different tokens before it.

    ValueError: V^n does not fit in 63 bits."""

    def __init__(self, documents: TokenDataset, vocab_size: int, n: int, eot_id: int):
        if vocab_size**n >= 1 << 63:
            raise ValueError(f"{n}-grams of {vocab_size} tokens do not fit in 63 bits")
        self.vocab_size, self.n, self.eot_id = vocab_size, n, eot_id
        self.orders: list[Order] = []  # the longest first
        grams, counts = np.unique(self._keys(documents, n), return_counts=True)
        for length in range(n, 0, -1):
            self.orders.append(self._order(grams, counts))
            # A shorter n-gram counts once for each longer one that ends with it.
            grams, counts = np.unique(grams % vocab_size ** (length - 1), return_counts=True)

    def _keys(self, documents: TokenDataset, length: int) -> np.ndarray:
        """The n-gram that ends at each token, int64 [tokens]; ends of text precede a document."""
        before = [self.eot_id] * (self.n - 1)
        keys = []
        for i in range(len(documents)):
            text = np.concatenate((before, documents.document(i))).astype(np.int64)
            parts = np.lib.stride_tricks.sliding_window_view(text[self.n - length :], length)
            keys.append(parts @ self.vocab_size ** np.arange(length - 1, -1, -1))
        return np.concatenate(keys)

    def _order(self, grams: np.ndarray, counts: np.ndarray) -> Order:
        ones, twos, threes, fours = ((counts == c).sum() for c in (1, 2, 3, 4))
        share = ones / max(1, ones + 2 * twos)
        ratios = [0, twos / max(1, ones), threes / max(1, twos), fours / max(1, threes)]
        discounts = np.clip([c - (c + 1) * share * ratios[c] for c in range(4)], 0, None)
        contexts, first = np.unique(grams // self.vocab_size, return_index=True)
        totals = np.add.reduceat(counts, first)
        left = np.add.reduceat(discounts[np.minimum(counts, 3)], first)
        return Order(grams, counts, contexts, totals, left / totals, discounts)

    def probabilities(self, keys: np.ndarray) -> np.ndarray:
        """Of the last token of each n-gram after those before it: float64, as `keys`."""
        p = np.full(keys.shape, 1 / self.vocab_size)
        for length, order in zip(range(1, self.n + 1), reversed(self.orders)):
            short = keys % self.vocab_size**length
            at, known = _find(order.contexts, short // self.vocab_size)
            gram, found = _find(order.grams, short)
            counts = np.where(found, order.counts[gram], 0)
            counts = counts - order.discounts[np.minimum(counts, 3)]
            p = np.where(known, counts / order.totals[at] + order.weights[at] * p, p)
        return p

    def bits_per_byte(self, documents: TokenDataset) -> float:
        nats = -np.log(self.probabilities(self._keys(documents, self.n))).sum()
        return float(nats / math.log(2) / documents.bytes)


def _find(values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in the sorted values each wanted one is (any place if it is not), and if it is."""
    at = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return at, values[at] == wanted


def texts(data: str, valid: str | None, vocab: int) -> tuple[TokenDataset, TokenDataset, int, int]:
    """Training and validation text as train.py has them, vocabulary size and end of text."""
    cache = DataConfig().cache
    valid = valid or validation_files(data)
    tokenizer = train_tokenizer(data, (), vocab, DataConfig().digits, cache)
    train = prepare(data, tokenizer, cache, exclude=valid)
    parts = (train, prepare(valid, tokenizer, cache)) if valid else hold_out(train)
    return *parts, tokenizer.vocab_size, tokenizer.eot_id


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", help="stories: a file or a folder, as --data of train.py")
    parser.add_argument("--valid", help="validation text (default: the last part of the text)")
    parser.add_argument("--vocab", type=int, default=4096, help="vocabulary size")
    parser.add_argument("--n", type=int, default=5, help="largest n")
    given = parser.parse_args(arguments)
    train, valid, vocab_size, eot_id = texts(given.text, given.valid, given.vocab)
    if given.n < 1 or vocab_size**given.n >= 1 << 63:
        raise UserError(f"--n must be from 1 to {int(63 / math.log2(vocab_size))}, not {given.n}")
    for n in range(1, given.n + 1):
        loss = NGrams(train, vocab_size, n, eot_id).bits_per_byte(valid)
        print(f"{n}-grams, Kneser-Ney: {loss:.3f} bits per byte")


if __name__ == "__main__":
    run_script(main)
