"""Which stories were seen before, to the letter or nearly so, in a few bytes a story."""

from __future__ import annotations

import hashlib
import random
import zlib
from array import array

import numpy as np


class Signatures:
    """The stories seen so far, as 64-bit keys in open-addressing tables (not their texts).

    A story has a key of its exact text, and BANDS keys of the sets of three words in a row that
    it holds: each joins ROWS MinHash minima, so two stories whose sets overlap by J (Jaccard)
    share one with probability 1 - (1 - J^ROWS)^BANDS (Broder 1997; Leskovec et al., "Mining of
    Massive Datasets", ch. 3): 0.97 for J = 0.9, 0.02 for J = 0.5, 10^-6 for J = 0.15. One word
    changed in a story of 100 gives J = 0.94; two different TinyStories have 0.01, rarely 0.1.

    A key's first bits choose its table. Each table doubles when it fills up, holding the old and
    the new for a moment; many small ones do so in turn, so that no doubling shows in the memory.
    """

    SHINGLE, BANDS, ROWS = 3, 6, 8
    _TABLE_BITS = 6

    def __init__(self) -> None:
        draw = random.Random(0).getrandbits
        rows = self.BANDS * self.ROWS
        odd = np.array([draw(64) | 1 for _ in range(self.SHINGLE + 2 * rows)], np.uint64)
        self._join_words, odd = odd[: self.SHINGLE], odd[self.SHINGLE :]
        self._permute, self._join_rows = odd[:rows, None], odd[rows:].reshape(self.BANDS, -1)
        self._tables = [_Table() for _ in range(1 << self._TABLE_BITS)]

    def keys(self, text: str) -> list[int]:
        """The exact key and the BANDS near keys of a normalised story."""
        exact = hashlib.blake2b(text.encode(), digest_size=8).digest()
        words = text.lower().encode().split()
        words += [b""] * (self.SHINGLE - len(words))
        codes = np.fromiter(map(zlib.crc32, words), np.uint64, len(words))
        last = len(codes) - self.SHINGLE + 1
        shingles = sum(codes[i : last + i] * self._join_words[i] for i in range(self.SHINGLE))
        shingles ^= shingles >> np.uint64(31)  # else all of it would be linear in the words
        minima = (self._permute * shingles).min(axis=1).reshape(self.BANDS, self.ROWS)
        return [int.from_bytes(exact, "little"), *(minima * self._join_rows).sum(axis=1).tolist()]

    def match(self, keys: list[int]) -> str | None:
        """ "exact" or "near" if such a story was added before, else None."""
        exact, *near = (key in self._tables[key >> 64 - self._TABLE_BITS] for key in keys)
        return "exact" if exact else "near" if any(near) else None

    def add(self, keys: list[int]) -> None:
        """Remember a story by its keys."""
        for key in keys:
            self._tables[key >> 64 - self._TABLE_BITS].add(key)


class _Table:
    """A set of 64-bit numbers in 12 to 24 bytes each; a Python set takes 60 to 100."""

    def __init__(self) -> None:
        self._slots, self._used = array("Q", bytes(1 << 10)), 0

    def __contains__(self, key: int) -> bool:
        return self._slots[self._slot(key or 1)] != 0  # 0 marks a free slot

    def add(self, key: int) -> None:
        if 3 * self._used >= 2 * len(self._slots):
            old, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
            for each in filter(None, old):
                self._slots[self._slot(each)] = each
        slot = self._slot(key or 1)
        self._used += self._slots[slot] == 0
        self._slots[slot] = key or 1

    def _slot(self, key: int) -> int:
        slots, mask = self._slots, len(self._slots) - 1
        slot = key & mask
        while slots[slot] and slots[slot] != key:
            slot = (slot + 1) & mask
        return slot
