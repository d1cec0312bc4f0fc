"""The token sampler for large vocabularies: maxima are searched in two levels.
A maximum down the columns of a [w, V / w] view is vectorised where the search for its index is not:
only the columns found are searched. Sizes are plain integers: they are constants of a trace."""

from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minislm.fast.modules import computed_once
from minislm.sampling import BELOW_1, TokenSampler

_ROWS = 64  # of the view in which a maximum is searched
_ROWS_OF_TOP = 8  # fewer, where the k best columns are searched
_SMALL = 1024  # probabilities whose place is found by counting
# The library's topk uses all threads for more rows than 32,768 / numbers in a row.
_SHARED_ROWS, _SHARED_FROM = 64, 32_768 // 64 + 1
_MANY = 16  # rows; with fewer, a call of numpy costs what it saves


class FastTokenSampler(TokenSampler):
    """`TokenSampler` with the same tokens (where no two logits are equal)."""

    def argmax(self, logits_BV: Tensor) -> Tensor:
        logits_BwC = _view(logits_BV, _ROWS)
        rows, columns = map(int, logits_BwC.shape[1:])
        column_B = logits_BwC.amax(1).argmax(-1)
        index_Bw1 = column_B[:, None, None].expand(-1, rows, 1)
        return logits_BwC.gather(2, index_Bw1).argmax(1)[:, 0] * columns + column_B

    def largest(self, logits_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest are in the k columns with the largest maxima."""
        B, V = logits_BV.shape[0], int(logits_BV.shape[1])  # B differs from trace to call
        k = min(k, V)
        if k == V:
            return logits_BV.sort(dim=-1, descending=True, stable=True)
        rows = _divisor(V, _ROWS_OF_TOP)
        if V < 4 * k * rows:  # no fewer to search
            return logits_BV.topk(k)
        best, C = _topk, -(-V // rows)
        if torch.compiler.is_compiling() and logits_BV.device.type == "cpu" and B >= _MANY:
            best, logits_BV = partial(partition_topk, below=C * rows), computed_once(logits_BV)
        logits_BwC = _view(logits_BV, _ROWS_OF_TOP)
        column_C = torch.arange(C, device=logits_BV.device)
        column_Bk = best(logits_BwC.amax(1), column_C.expand(B, -1), k, sorted=False)[1]
        values_Bwk = logits_BwC.gather(2, column_Bk[:, None].expand(-1, rows, k))
        first_w1 = C * torch.arange(rows, device=logits_BV.device)[:, None]
        return best(values_Bwk.flatten(1), (first_w1 + column_Bk[:, None]).flatten(1), k)

    def inverse_cdf(self, p_Bn: Tensor, u_B: Tensor) -> Tensor:
        if int(p_Bn.shape[1]) > _SMALL:
            return super().inverse_cdf(p_Bn, u_B)
        # Counting is fused with other operations in compiled steps, a binary search is not.
        cdf_Bn = p_Bn.cumsum(-1)
        threshold_B1 = u_B[:, None] * cdf_Bn[:, -1:] * BELOW_1
        return (cdf_Bn <= threshold_B1).sum(-1).clamp(max=int(p_Bn.shape[1]) - 1)


def _topk(x_Bn: Tensor, ids_Bn: Tensor, k: int, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """`topk`, with all threads for many rows (traces, which have one thread, are of few rows)."""
    B, n = map(int, x_Bn.shape)
    if n < _SHARED_FROM and B >= _SHARED_ROWS:
        x_Bn = F.pad(x_Bn, (0, _SHARED_FROM - n), value=-torch.inf)
    values_Bk, place_Bk = x_Bn.topk(k, sorted=sorted)
    # Padding is among the k where fewer than k numbers are above -inf.
    return values_Bk, ids_Bn.gather(1, place_Bk.clamp(max=n - 1))


def _divisor(V: int, about: int) -> int:
    """A divisor of V near `about`, so that no padding (a copy) is needed; else `about` itself."""
    near = [rows for rows in range(about // 4, 4 * about) if V % rows == 0]
    return min(near, key=lambda rows: abs(rows - about), default=about)


def _view(x_BV: Tensor, about: int) -> Tensor:
    """[B, V] as [B, rows, V / rows], padded with -inf where V has no divisor near `about`."""
    V = int(x_BV.shape[1])
    rows = _divisor(V, about)
    if V % rows:
        x_BV = F.pad(x_BV, (0, -V % rows), value=-torch.inf)
    return x_BV.unflatten(1, (rows, -1))


def partition_topk(
    x_Bn: Tensor, ids_Bn: Tensor, k: int, sorted: bool = True, *, below: int
) -> tuple[Tensor, Tensor]:
    """The k largest numbers of each row, largest first, and their ids: [B, k] and [B, k].
    For compiled steps: numpy's partition compares 8 or 16 numbers at once. Each number and its id
    become one integer, the smaller the larger the number is; of equal numbers those with the lowest
    ids are taken. All ids are less than `below`, at most 2^32."""
    _register()
    small = x_Bn.dtype == torch.bfloat16 and below <= 1 << 16  # its lower 16 bits are 0
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


@lru_cache(maxsize=1)
def _register() -> torch.library.Library:
    """An operator, because compiled steps can call nothing else; it reorders the rows in place."""

    def k_smallest(keys_Bn: Tensor, k: int, sorted: bool) -> Tensor:
        rows = keys_Bn.numpy()
        rows.partition(k - 1, axis=1)
        smallest = rows[:, :k]
        return torch.from_numpy(np.sort(smallest, axis=1) if sorted else smallest.copy())

    library = torch.library.Library("minislm", "DEF")
    library.define("k_smallest(Tensor(a!) keys, int k, bool sorted) -> Tensor")
    library.impl("k_smallest", k_smallest, "CPU")
    library.impl("k_smallest", lambda keys, k, sorted: keys.new_empty(len(keys), k), "Meta")
    return library
