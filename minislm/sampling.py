"""From logits to the next token: temperature, top-k, top-p, min-p, and one uniform number per row.

The inverse of the cumulative distribution turns a uniform number into a token. So the token of a
row is a function of its own logits and its own number, whatever else is in the batch; and it is
faster than `torch.multinomial`."""

from dataclasses import dataclass

import torch
from torch import Tensor

BELOW_1 = 1 - 2**-23  # a threshold stays below the total probability, whatever the rounding


@dataclass(frozen=True)
class TokenSampler:
    """`sample(logits [B, V], uniforms [B]) -> tokens int64 [B]`.

    In this order: temperature (0 is greedy decoding); the `top_k` most probable tokens; the
    smallest set with cumulative probability `top_p` (nucleus sampling, Holtzman et al. 2020); the
    tokens at least `min_p` times as probable as the most probable one (Nguyen et al. 2024). The
    most probable token always stays."""

    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    size: int = 1 << 62  # larger ids have no token: they are never sampled

    def __call__(self, logits_BV: Tensor, u_B: Tensor) -> Tensor:
        if self.size < logits_BV.shape[1]:
            logits_BV = logits_BV[:, : self.size]
        if self.temperature < 1e-5:  # logits divided by 1e-40 would be infinite
            return self.argmax(logits_BV)
        if self.top_k == 0 and self.top_p == 1.0:  # nothing that needs an order
            p_BV = (logits_BV.float() / self.temperature).softmax(-1)
            if self.min_p:
                p_BV = p_BV * (p_BV >= self.min_p * p_BV.amax(-1, keepdim=True))
            return self.inverse_cdf(p_BV, u_B)
        values_Bk, ids_Bk = self.largest(logits_BV, self.top_k or logits_BV.shape[1])
        p_Bk = (values_Bk.float() / self.temperature).softmax(-1)
        before_Bk = p_Bk.cumsum(-1) - p_Bk  # cumulative probability of the more probable tokens
        if self.min_p:
            p_Bk = p_Bk * (p_Bk >= self.min_p * p_Bk[:, :1])
        if self.top_p < 1.0:
            p_Bk = p_Bk * (before_Bk < max(self.top_p, 1e-30))
        return ids_Bk.gather(1, self.inverse_cdf(p_Bk, u_B)[:, None])[:, 0]

    # What takes time on a large vocabulary; a subclass may do it faster.

    def argmax(self, logits_BV: Tensor) -> Tensor:
        return logits_BV.argmax(-1)

    def largest(self, logits_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest logits and their token ids, largest first: [B, k] each."""
        values_BV, ids_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
        return values_BV[:, :k], ids_BV[:, :k]

    def inverse_cdf(self, p_Bn: Tensor, u_B: Tensor) -> Tensor:
        """The first index whose cumulative probability exceeds u times the total: [B].

        Probabilities need not sum to 1; one of 0 is never chosen."""
        cdf_Bn = p_Bn.cumsum(-1)
        threshold_B1 = u_B[:, None] * cdf_Bn[:, -1:] * BELOW_1
        index_B1 = torch.searchsorted(cdf_Bn, threshold_B1, right=True)
        return index_B1.clamp(max=p_Bn.shape[1] - 1)[:, 0]  # NaN has no place in the order


def penalize(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Repetition penalty (Keskar et al. 2019): logits of seen tokens are divided by `penalty` where
    positive, and multiplied where negative."""
    lower_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, lower_BV, logits_BV)
