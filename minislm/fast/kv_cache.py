"""The KV cache of the fast engines: the same contents, written in ways that suit a trace."""

from collections.abc import Sequence

import torch
from torch import Tensor

from minislm.kv_cache import KVCache

_MULTIPLE = 64


def rounded_up(length: int, largest: int) -> int:
    """Positions to allocate or read for a text of this length: a multiple of 64, or `largest`."""
    return min(largest, -(-length // _MULTIPLE) * _MULTIPLE)


class FastKVCache(KVCache):
    def update(
        self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor, pos_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        if k_BKTD.shape[2] == self.length:  # whole texts, as long as the cache
            self.k_LBKSD[layer], self.v_LBKSD[layer] = k_BKTD, v_BKTD
            return k_BKTD, v_BKTD
        rows_B1 = torch.arange(k_BKTD.shape[0], device=pos_BT.device)[:, None]
        # Into the whole tensor: of a part, compiled steps would make a copy first.
        place = (torch.full_like(pos_BT, layer), rows_B1, slice(None), pos_BT)
        self.k_LBKSD[place] = k_BKTD.transpose(1, 2)
        self.v_LBKSD[place] = v_BKTD.transpose(1, 2)
        return self.k_LBKSD[layer], self.v_LBKSD[layer]

    def copy_rows(
        self, rows: Sequence[int] | slice, source: KVCache, source_rows: Sequence[int] | slice
    ) -> None:
        """Copy rows of another cache (or of this one), as many positions as both have."""
        length = min(self.length, source.length)
        if source is not self:  # within one cache, two slices could overlap
            rows, source_rows = _as_slice(rows), _as_slice(source_rows)
        self.k_LBKSD[:, rows, :, :length] = source.k_LBKSD[:, source_rows, :, :length]
        self.v_LBKSD[:, rows, :, :length] = source.v_LBKSD[:, source_rows, :, :length]


def _as_slice(rows: Sequence[int] | slice) -> Sequence[int] | slice:
    """Consecutive rows as a slice, which is copied faster than a list of them."""
    if isinstance(rows, slice) or list(rows) != list(range(rows[0], rows[0] + len(rows))):
        return rows
    return slice(rows[0], rows[0] + len(rows))
