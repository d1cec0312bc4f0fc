"""Keys and values of the tokens so far, so that a new token costs one forward pass of one token.

The token at position p of a sequence is at cache position p of its row. Rows of different lengths
need no padding mask: a query at position p attends to cache positions 0..p, which are its own
sequence's. What a shorter row holds beyond is overwritten before any query can attend to it.
"""

import torch
from torch import Tensor

from minislm.config import ModelConfig


class KVCache:
    """Keys and values [L, B, K, S, D] of B sequences of up to S tokens."""

    def __init__(self, k_LBKSD: Tensor, v_LBKSD: Tensor):
        self.k_LBKSD, self.v_LBKSD = k_LBKSD, v_LBKSD

    @classmethod
    def empty(cls, config: ModelConfig, rows: int, length: int, like: Tensor) -> "KVCache":
        """A cache for `rows` sequences of up to `length` tokens; dtype and device of `like`."""
        if length > config.context:
            raise ValueError(f"{length} positions exceed the model's context of {config.context}")
        shape_LBKSD = (config.n_layer, rows, config.kv_heads, length, config.head_width)
        return cls(like.new_zeros(shape_LBKSD), like.new_zeros(shape_LBKSD))

    @property
    def length(self) -> int:
        return self.k_LBKSD.shape[3]

    def view(self, rows: slice, length: int) -> "KVCache":
        """Some rows and the first `length` positions, without a copy."""
        return type(self)(self.k_LBKSD[:, rows, :, :length], self.v_LBKSD[:, rows, :, :length])

    def update(
        self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor, pos_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write T new tokens at their positions; return all keys and values [B, K, S, D]."""
        rows_B1 = torch.arange(k_BKTD.shape[0], device=pos_BT.device)[:, None]
        k_BKSD, v_BKSD = self.k_LBKSD[layer], self.v_LBKSD[layer]
        k_BKSD[rows_B1, :, pos_BT] = k_BKTD.transpose(1, 2)
        v_BKSD[rows_B1, :, pos_BT] = v_BKTD.transpose(1, 2)
        return k_BKSD, v_BKSD

    def move(self, source: int, target: int) -> None:
        """Row `target` becomes a copy of row `source`."""
        self.k_LBKSD[:, target] = self.k_LBKSD[:, source]
        self.v_LBKSD[:, target] = self.v_LBKSD[:, source]
