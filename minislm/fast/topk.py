"""The k largest numbers of many rows in compiled steps: numpy's partition looks at 8 or 16 numbers
at once, torch's topk at one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from minislm.runtime.device import best_seconds
from minislm.fast.threads import in_lanes

_MANY = 16  # rows; with fewer the call costs what it saves


def _k_smallest(keys_Bn: Tensor, k: int, sorted: bool) -> Tensor:
    rows = keys_Bn.numpy()
    rows.partition(k - 1, axis=1)
    smallest = rows[:, :k]
    return torch.from_numpy(np.sort(smallest, axis=1) if sorted else smallest.copy())


# An operator, because compiled steps can call nothing else; the rows are put into another order.
_library = torch.library.Library("minislm", "DEF")
_library.define("k_smallest(Tensor(a!) keys, int k, bool sorted) -> Tensor")
_library.impl("k_smallest", _k_smallest, "CPU")
_library.impl("k_smallest", lambda keys_Bn, k, sorted: keys_Bn.new_empty(len(keys_Bn), k), "Meta")


def topk(
    x_Bn: Tensor, ids_Bn: Tensor, k: int, sorted: bool = True, *, below: int
) -> tuple[Tensor, Tensor]:
    """The k largest numbers of each row, the largest first, and their ids: [B, k] and [B, k].

    Each becomes one integer with its id: the larger the number, the smaller this. Of equal ones
    those with the lowest ids are taken.

    Args:
        below: all ids are; at most 2^32.
    """
    small = x_Bn.dtype == torch.bfloat16 and below <= 1 << 16  # its lower 16 bits tell nothing
    id_bits = 0xFFFF if small else 0xFFFFFFFF
    keys_Bn = ~_ordered(x_Bn.float().view(torch.int32))
    keys_Bn = keys_Bn & ~id_bits if small else keys_Bn.long() << 32
    keys_Bn = keys_Bn | ids_Bn.to(keys_Bn.dtype)
    keys_Bk = torch.ops.minislm.k_smallest(keys_Bn, k, sorted)
    bits_Bk = _ordered(~keys_Bk) & ~id_bits if small else _ordered(~(keys_Bk >> 32).int())
    return bits_Bk.view(torch.float32), (keys_Bk & id_bits).long()


def _ordered(bits: Tensor) -> Tensor:
    """The bits of float32 as integers in the order of the numbers, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def pays(rows: int, n: int, k: int) -> bool:
    """Whether `topk` of so many rows takes less time here than torch's, by a short trial."""
    return rows >= _MANY and _sooner(rows, n, k, torch.get_num_threads())


@lru_cache
def _sooner(rows: int, n: int, k: int, threads: int) -> bool:
    def trial() -> bool:
        x_Bn = torch.randn(rows, n, generator=torch.Generator().manual_seed(0))
        ours = best_seconds(lambda: _k_smallest(x_Bn.double().view(torch.int64), k, True), 5)
        return ours < best_seconds(lambda: x_Bn.topk(k), 5)

    # In a thread of its own: in this one, while steps are exported, tensors have no numbers.
    return in_lanes([trial], threads)[0]
