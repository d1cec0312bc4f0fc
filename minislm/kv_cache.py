"""The keys and values of the tokens read so far: what makes the next token cheap.

The letters behind a tensor's name are those of `model.py`: L blocks, B rows, K key/value heads, S
slots, D the width of a head, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minislm.config import ModelConfig


_BLOCK = 64


def rounded_up(slots: int, most: int) -> int:
    """Slots to keep, or to read, for a text of so many: a multiple of 64, but at most `most`.

    A cache that grows with its text is hardly longer than what is read of it.
    """
    return min(most, -(-slots // _BLOCK) * _BLOCK)


class KVCache:
    """The token at position p of a row is in slot p of that row.

    Rows of different lengths need no padding mask: a query at position p reads slots 0..p alone,
    all of them its own row's, and whatever a shorter row holds beyond is overwritten when the row
    gets there, before anything can see it.

    Args: room for `rows` texts of up to `slots` tokens each, in the dtype and on the device of
        `like`.
    """

    def __init__(self, config: ModelConfig, rows: int, slots: int, like: Tensor):
        if slots > config.context:
            raise ValueError(f"{slots} slots exceed the model's context of {config.context}")
        shape_LBKSD = (config.n_layer, rows, config.kv_heads, slots, config.head_width)
        self.k_LBKSD = torch.zeros(shape_LBKSD, dtype=like.dtype, device=like.device)
        self.v_LBKSD = torch.zeros_like(self.k_LBKSD)

    @classmethod
    def of(cls, k_LBKSD: Tensor, v_LBKSD: Tensor) -> KVCache:
        """A cache over tensors that are there already."""
        cache = cls.__new__(cls)
        cache.k_LBKSD, cache.v_LBKSD = k_LBKSD, v_LBKSD
        return cache

    @property
    def slots(self) -> int:
        return self.k_LBKSD.shape[3]

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor, pos_BT: Tensor) -> None:
        rows_B1 = torch.arange(pos_BT.shape[0], device=pos_BT.device)[:, None]
        # Into the whole tensor: of a part, compiled steps would make a copy first.
        place = (torch.full_like(pos_BT, layer), rows_B1, slice(None), pos_BT)
        self.k_LBKSD[place] = k_BKTD.transpose(1, 2).to(self.k_LBKSD.dtype)
        self.v_LBKSD[place] = v_BKTD.transpose(1, 2).to(self.v_LBKSD.dtype)

    def fill(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        """`write` of texts from their beginning: T tokens into the first T slots."""
        B, _, T, _ = k_BKTD.shape
        self.k_LBKSD[layer, :B, :, :T] = k_BKTD
        self.v_LBKSD[layer, :B, :, :T] = v_BKTD

    def read(self, layer: int, rows: int, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, K, slots, D] of the first slots of the first rows."""
        k_BKSD, v_BKSD = self.k_LBKSD[layer], self.v_LBKSD[layer]
        if k_BKSD.shape[0] == rows and k_BKSD.shape[2] == slots:
            return k_BKSD, v_BKSD  # a recorded step does without the operations below
        return k_BKSD[:rows, :, :slots], v_BKSD[:rows, :, :slots]

    def holds(self, rows: int, slots: int) -> bool:
        return self.k_LBKSD.shape[1] >= rows and self.slots >= slots

    def part(self, rows: int, slots: int) -> KVCache:
        """The first slots of the first rows, without a copy."""
        return KVCache.of(self.k_LBKSD[:, :rows, :, :slots], self.v_LBKSD[:, :rows, :, :slots])

    def copy_rows(self, rows: Sequence[int], source: KVCache, source_rows: Sequence[int]) -> None:
        """Take over rows of another cache (or of this one), as many slots as both have."""
        slots = min(self.slots, source.slots)
        if source is not self:  # within one cache, pieces could overlap
            rows, source_rows = _in_one_piece(rows), _in_one_piece(source_rows)
        self.k_LBKSD[:, rows, :, :slots] = source.k_LBKSD[:, source_rows, :, :slots]
        self.v_LBKSD[:, rows, :, :slots] = source.v_LBKSD[:, source_rows, :, :slots]


def _in_one_piece(rows: Sequence[int] | slice) -> Sequence[int] | slice:
    """Rows that follow one another as a slice, which is copied faster than a list of them."""
    if isinstance(rows, slice) or list(rows) != list(range(rows[0], rows[0] + len(rows))):
        return rows
    return slice(rows[0], rows[0] + len(rows))
