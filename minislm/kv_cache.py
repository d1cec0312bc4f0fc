"""Keys and values of the tokens so far, so that a new token costs one forward pass of one token.

The token at position p of a sequence is at cache position p of its row. Rows of different lengths
need no padding mask: a query at position p attends to cache positions 0..p, which are its own
sequence's. What a shorter row holds beyond is overwritten before any query can attend to it."""

from typing import Any

import torch
from torch import Tensor

from minislm.config import ModelConfig


class KVCache:
    """Keys and values [L, B, K, S, D] of B sequences of up to S tokens."""

    def __init__(self, k_LBKSD: Tensor, v_LBKSD: Tensor, tokens_BS: Any = None):
        self.k_LBKSD, self.v_LBKSD = k_LBKSD, v_LBKSD
        self.tokens_BS = tokens_BS  # the ids, which places in a run depend on

    @classmethod
    def empty(cls, config: ModelConfig, rows: int, length: int, like: Tensor) -> "KVCache":
        """A cache for `rows` sequences of up to `length` tokens; dtype and device of `like`."""
        if length > config.context:
            raise ValueError(f"{length} positions exceed the model's context of {config.context}")
        shape_LBKSD = (config.n_layer, rows, config.kv_heads, length, config.head_width)
        tokens_BS = like.new_zeros((rows, length), dtype=torch.int64)
        return cls(like.new_zeros(shape_LBKSD), like.new_zeros(shape_LBKSD), tokens_BS)

    @property
    def length(self) -> int:
        return self.k_LBKSD.shape[3]

    def view(self, rows: slice, length: int) -> "KVCache":
        """Some rows and the first `length` positions, without a copy."""
        k_LBKSD, v_LBKSD = self.k_LBKSD[:, rows, :, :length], self.v_LBKSD[:, rows, :, :length]
        return type(self)(k_LBKSD, v_LBKSD, self.tokens_BS[rows, :length])

    def update(
        self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor, pos_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write T new tokens at their positions; return all keys and values [B, K, S, D]."""
        rows_B1 = torch.arange(k_BKTD.shape[0], device=pos_BT.device)[:, None]
        k_BKSD, v_BKSD = self.k_LBKSD[layer], self.v_LBKSD[layer]
        k_BKSD[rows_B1, :, pos_BT] = k_BKTD.transpose(1, 2)
        v_BKSD[rows_B1, :, pos_BT] = v_BKTD.transpose(1, 2)
        return k_BKSD, v_BKSD

    def update_tokens(self, tokens_BT: Tensor, pos_BT: Tensor) -> Tensor:
        """Write the ids of T new tokens at their positions; return all ids [B, S]."""
        rows_B1 = torch.arange(len(tokens_BT), device=pos_BT.device)[:, None]
        self.tokens_BS[rows_B1, pos_BT] = tokens_BT
        return self.tokens_BS

    def move(self, source: int, target: int) -> None:
        """Row `target` becomes a copy of row `source`."""
        self.k_LBKSD[:, target] = self.k_LBKSD[:, source]
        self.v_LBKSD[:, target] = self.v_LBKSD[:, source]
        self.tokens_BS[target] = self.tokens_BS[source]
