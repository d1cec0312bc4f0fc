"""The token sampler for large vocabularies: maxima are searched in two levels.

A maximum down the columns of a [w, V / w] view is vectorised where the search for its index is not:
only the columns found are searched. Sizes become plain integers, because these functions are traced
and a vocabulary does not change.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from minislm.sampling import BELOW_1, TokenSampler

_ROWS = 64  # of the view in which a maximum is searched
_ROWS_OF_TOP = 8  # fewer, where the k best columns are searched
_SMALL = 1024  # probabilities whose place is found by counting
# The library's topk uses all threads for more rows than 32,768 / numbers in a row.
_SHARED_ROWS, _SHARED_FROM = 64, 32_768 // 64 + 1


class FastTokenSampler(TokenSampler):
    """`TokenSampler` with the same tokens (where no two logits are equal)."""

    def argmax(self, logits_BV: Tensor) -> Tensor:
        logits_BwC = _view(logits_BV, _ROWS, -torch.inf)
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
        C = -(-V // rows)
        logits_BwC = _view(logits_BV, _ROWS_OF_TOP, -torch.inf)
        column_C = torch.arange(C, device=logits_BV.device)
        column_Bk = _topk(logits_BwC.amax(1), column_C.expand(B, -1), k, sorted=False)[1]
        values_Bwk = logits_BwC.gather(2, column_Bk[:, None].expand(-1, rows, k))
        first_w1 = C * torch.arange(rows, device=logits_BV.device)[:, None]
        return _topk(values_Bwk.flatten(1), (first_w1 + column_Bk[:, None]).flatten(1), k)

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
    """A divisor of V near `about`, so that no padding, which copies everything, is needed; `about`
    itself if there is none."""
    near = [rows for rows in range(about // 4, 4 * about) if V % rows == 0]
    return min(near, key=lambda rows: abs(rows - about), default=about)


def _view(x_BV: Tensor, about: int, filling: float) -> Tensor:
    """[B, V] as [B, rows, V / rows], padded where V has no divisor near `about`."""
    V = int(x_BV.shape[1])
    rows = _divisor(V, about)
    if V % rows:
        x_BV = F.pad(x_BV, (0, -V % rows), value=filling)
    return x_BV.unflatten(1, (rows, -1))
