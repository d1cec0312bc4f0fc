"""From logits to the next token: temperature, the usual filters, and one uniform number a row.

The inverse of the cumulative distribution turns one uniform number into a token, in a tenth of the
time of `torch.multinomial`, and a row's token is then a function of its own logits and number.
Long rows are searched in two levels: a maximum down the columns of a [w, V / w] view vectorises
where the search for a position does not, and only the columns found are looked into. Sizes are made
plain integers because these functions are recorded: a vocabulary does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from minislm.fast import topk as selection
from minislm.fast.attention import in_loops, made_once
from minislm.config import SampleConfig

_ROWS = 64  # of the view in which a maximum or a sum is looked for
_ROWS_OF_TOP = 8  # fewer, where the k best columns are looked into
# The library's topk is shared by threads if there are more rows than 32,768 / numbers in a row.
_SHARED_ROWS, _SHARED_FROM = 64, 32_768 // 64 + 1


@dataclass(frozen=True)
class Choice:
    """A way to choose tokens: `choice(logits [B, V], u [B]) -> tokens int64 [B]`.

    In this order: temperature (0: the likeliest token, and nothing else counts); the `top_k`
    likeliest; the fewest of those that together have the mass `top_p` ("nucleus", Holtzman et al.
    2020); those at least `min_p` times as likely as the likeliest (Nguyen et al. 2024). The
    likeliest token always stays.
    """

    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @classmethod
    def of(cls, settings: SampleConfig) -> Choice:
        return cls(settings.temperature, settings.top_k, settings.top_p, settings.min_p)

    def __call__(self, logits_BV: Tensor, u_B: Tensor) -> Tensor:
        if self.temperature == 0:
            return likeliest(logits_BV)
        p_Bk, ids_Bk = self.probabilities(logits_BV)
        if ids_Bk is None:
            return draw_of_many(p_Bk, u_B)
        return ids_Bk.gather(1, draw(p_Bk, u_B)[:, None])[:, 0]

    def probabilities(self, logits_BV: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is drawn from: [B, k] and the token ids behind it [B, k] (None: all, in order).

        What is left out has probability 0; the rest need not sum to 1.
        """
        V = int(logits_BV.shape[1])
        k = self.top_k if 0 < self.top_k < V else 0
        if not k and self.top_p == 1.0:
            p_BV = (logits_BV.float() / self.temperature).softmax(-1)
            if self.min_p:
                p_BV = p_BV * (p_BV >= self.min_p * p_BV.amax(-1, keepdim=True))
            return p_BV, None
        values_Bk, ids_Bk = likeliest_k(logits_BV, k) if k else logits_BV.sort(-1, descending=True)
        values_Bk = values_Bk.float() / self.temperature
        p_Bk = values_Bk.softmax(-1)
        before_Bk = p_Bk.cumsum(-1) - p_Bk  # the mass of all likelier tokens
        if self.min_p:
            p_Bk = p_Bk * (p_Bk >= self.min_p * p_Bk[:, :1])
        if self.top_p < 1.0:
            p_Bk = p_Bk * (before_Bk < self.top_p)
        return p_Bk, ids_Bk


def draw(p_Bk: Tensor, u_B: Tensor) -> Tensor:
    """The first place at which the cumulative probability exceeds u times the total: [B]."""
    cdf_Bk = p_Bk.cumsum(-1)
    below_Bk = cdf_Bk <= u_B[:, None] * cdf_Bk[:, -1:]  # never a place of probability 0
    return below_Bk.sum(-1).clamp(max=int(p_Bk.shape[1]) - 1)


def draw_of_many(p_BV: Tensor, u_B: Tensor) -> Tensor:
    """`draw`, in two levels: first a column of a [w, V / w] view, then a place in it.

    The same probabilities, in another order of the tokens.
    """
    p_BwC = _in_rows(p_BV, _ROWS, 0.0)
    cdf_BC = p_BwC.sum(1).cumsum(-1)
    threshold_B1 = u_B[:, None] * cdf_BC[:, -1:]
    rows, columns = map(int, p_BwC.shape[1:])
    column_B1 = (cdf_BC <= threshold_B1).sum(-1, keepdim=True).clamp(max=columns - 1)
    before_B1 = F.pad(cdf_BC, (1, 0)).gather(1, column_B1)
    p_Bw = p_BwC.gather(2, column_B1[:, None].expand(-1, rows, 1))[:, :, 0]
    cdf_Bw = p_Bw.cumsum(-1)
    # Rounding may put the rest beyond the column's own mass: the last token with mass is meant.
    rest_B1 = torch.minimum(threshold_B1 - before_B1, cdf_Bw[:, -1:] * (1 - 2**-23))
    row_B1 = (cdf_Bw <= rest_B1).sum(-1, keepdim=True).clamp(max=rows - 1)
    return (row_B1 * columns + column_B1)[:, 0]


def likeliest(logits_BV: Tensor) -> Tensor:
    """The place of each row's maximum: [B]."""
    logits_BwC = _in_rows(logits_BV, _ROWS, -torch.inf)
    rows, columns = map(int, logits_BwC.shape[1:])
    column_B = logits_BwC.amax(1).argmax(-1)
    index_Bw1 = column_B[:, None, None].expand(-1, rows, 1)
    return logits_BwC.gather(2, index_Bw1).argmax(1)[:, 0] * columns + column_B


def likeliest_k(logits_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their places, the largest first: [B, k] and [B, k].

    They stand in the k columns with the largest maxima.
    """
    B, V = logits_BV.shape[0], int(logits_BV.shape[1])  # other batches are of other sizes
    rows = _rows_of(V, _ROWS_OF_TOP)
    if V < 4 * k * rows:  # no fewer to look through
        return logits_BV.topk(k)
    best, C = _topk, -(-V // rows)
    if in_loops(logits_BV) and selection.pays(B, C, k):
        best, logits_BV = partial(selection.topk, below=C * rows), made_once(logits_BV)  # in rows
    logits_BwC = _in_rows(logits_BV, _ROWS_OF_TOP, -torch.inf)
    column_C = torch.arange(C, device=logits_BV.device)
    column_Bk = best(logits_BwC.amax(1), column_C.expand(B, -1), k, sorted=False)[1]
    values_Bwk = logits_BwC.gather(2, column_Bk[:, None].expand(-1, rows, k))
    first_w1 = C * torch.arange(rows, device=logits_BV.device)[:, None]
    return best(values_Bwk.flatten(1), (first_w1 + column_Bk[:, None]).flatten(1), k)


def _topk(
    x_Bn: Tensor, ids_Bn: Tensor, k: int, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    """`topk`, of many rows by all threads (recordings, one thread's, are made of few rows)."""
    B, n = map(int, x_Bn.shape)
    if n < _SHARED_FROM and B >= _SHARED_ROWS:
        x_Bn = F.pad(x_Bn, (0, _SHARED_FROM - n), value=-torch.inf)
    values_Bk, place_Bk = x_Bn.topk(k, sorted=sorted)
    # What fills up is taken where fewer than k are above -inf.
    return values_Bk, ids_Bn.gather(1, place_Bk.clamp(max=n - 1))


def _rows_of(V: int, about: int) -> int:
    """How many rows V numbers are put into: a divisor of V close to `about`, so that none must be
    filled up, which copies all of them; `about` itself if there is none."""
    near = [rows for rows in range(about // 4, 4 * about) if V % rows == 0]
    return min(near, key=lambda rows: abs(rows - about), default=about)


def _in_rows(x_BV: Tensor, about: int, filling: float) -> Tensor:
    """[B, V] as [B, rows, V / rows], filled up where V has no divisor."""
    V = int(x_BV.shape[1])
    rows = _rows_of(V, about)
    if V % rows:
        x_BV = F.pad(x_BV, (0, -V % rows), value=filling)
    return x_BV.unflatten(1, (rows, -1))


def penalize(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Tokens that were seen become less likely (Keskar et al. 2019): divided by the penalty where
    the logit is positive, multiplied where it is negative."""
    lower_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, lower_BV, logits_BV)
