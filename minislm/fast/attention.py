"""Who reads whom: masks, and softmax(q k^T scale) v (Vaswani et al. 2017, equation 1) in five ways.

    attention_weights   the obvious way, for those who want to look at the weights
    attend              the library's, for everything but:
    attend_in_pieces    training on a CPU in bfloat16
    attend_alone        one query a row, as when sampling
    attend_in_loops     the same for the compiler of steps

The letters behind a tensor's name are those of model.py; N is B K, G is H // K: the queries that
share a key head are the rows of one product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_PIECE = 128  # queries


def visible(query_BT: Tensor, slots: int, window: int) -> Tensor:
    """Which stored tokens each query may read: bool [B, T, S], or [T, S] for queries [T].

    A token reads itself and what stands before it; with a window, only the last `window` of
    those, itself included (the local attention of GPT-Neo).
    """
    slot_S = torch.arange(slots, device=query_BT.device)
    distance = query_BT[..., None] - slot_S
    return (distance >= 0) & (distance < window) if window else distance >= 0


def hide(visible_BTS: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of all heads: 0 where visible, else -inf; [B, 1, T, S]."""
    zero = torch.zeros((), dtype=dtype, device=visible_BTS.device)
    return torch.where(visible_BTS, zero, -torch.inf).unsqueeze(-3)


def attention_weights(q_BHTD: Tensor, k_BHSD: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) over the tokens where `mask` is true, in float32: [B, H, T, S]."""
    scores_BHTS = (q_BHTD.float() @ k_BHSD.float().transpose(-1, -2)) * scale
    return scores_BHTS.masked_fill(~mask, -torch.inf).softmax(dim=-1)


def attend(
    q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """What each query reads, [B, H, T, D]; `mask` is added to the scores (None: the triangle)."""
    if mask is None and torch.is_autocast_enabled("cpu"):
        return attend_in_pieces(q_BHTD, k_BKSD, v_BKSD, scale)
    return F.scaled_dot_product_attention(
        q_BHTD, k_BKSD, v_BKSD, attn_mask=mask, is_causal=mask is None, scale=scale,
        enable_gqa=int(q_BHTD.shape[1]) != int(k_BKSD.shape[1]),  # plain numbers, to be recorded
    )  # fmt: skip


def attend_in_pieces(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scale: float) -> Tensor:
    """The triangle, some queries at a time: what no query of a piece sees is not multiplied.

    In bfloat16 on a CPU, forward and backward, twice as fast as the library's.
    """
    B, H, T, D = q_BHTD.shape
    K = k_BKTD.shape[1]
    q_NGTD = (q_BHTD * scale).reshape(B * K, H // K, T, D)
    k_NTD, v_NTD, pieces = k_BKTD.flatten(0, 1), v_BKTD.flatten(0, 1), []
    for begin in range(0, T, _PIECE):
        q_NGPD = q_NGTD[:, :, begin : begin + _PIECE]
        end = begin + q_NGPD.shape[2]
        query_P = torch.arange(begin, end, device=q_BHTD.device)
        mask_GPS = hide(visible(query_P, end, 0), q_BHTD.dtype).expand(H // K, -1, -1)
        scores = torch.baddbmm(
            mask_GPS.flatten(0, 1), q_NGPD.flatten(1, 2), k_NTD[:, :end].transpose(1, 2)
        )
        pieces.append((scores.softmax(-1) @ v_NTD[:, :end]).view(q_NGPD.shape))
    return torch.cat(pieces, 2).view(q_BHTD.shape)


def attend_alone(
    q_BH1D: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """One query a row, [B, H, 1, D]: two small products.

    Faster than the library's, which cuts a long query into blocks that are not there; except on a
    GPU in 16 bits.
    """
    if q_BH1D.is_cuda and q_BH1D.dtype != torch.float32 and q_BH1D.shape[1] == k_BKSD.shape[1]:
        return attend(q_BH1D, k_BKSD, v_BKSD, mask, scale)
    if in_loops(q_BH1D):
        return attend_in_loops(q_BH1D, k_BKSD, v_BKSD, mask, scale)
    H, K, D = q_BH1D.shape[1], k_BKSD.shape[1], q_BH1D.shape[3]
    q_NGD = (q_BH1D * scale).reshape(-1, H // K, D)
    scores_NGS = q_NGD.to(k_BKSD.dtype) @ k_BKSD.flatten(0, 1).transpose(1, 2)
    p_BHS = (scores_NGS.view(-1, H, mask.shape[-1]).float() + mask[:, 0]).softmax(-1)
    y_NGD = p_BHS.to(v_BKSD.dtype).view(scores_NGS.shape) @ v_BKSD.flatten(0, 1)
    return y_NGD.view(-1, H, 1, D).to(q_BH1D.dtype)


def in_loops(x: Tensor) -> bool:
    """Whether this is for compiled steps of a CPU, where operations become loops."""
    return x.device.type == "cpu" and torch.compiler.is_compiling()


def made_once(x: Tensor) -> Tensor:
    """The same numbers, which the compiler would else make anew wherever they are read."""
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


def attend_in_loops(
    q_BH1D: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """`attend_alone` in products and sums of single numbers, all in float32.

    Each sum becomes a loop that reads keys or values once, in their own dtype; nothing of the size
    of the cache is ever written.
    """
    H, K, D, S = q_BH1D.shape[1], k_BKSD.shape[1], q_BH1D.shape[3], mask.shape[-1]
    q_NG1D = made_once((q_BH1D.float() * scale).reshape(-1, H // K, 1, D))
    k_N1SD, v_N1SD = k_BKSD.flatten(0, 1)[:, None], v_BKSD.flatten(0, 1)[:, None]
    scores_NGS = (q_NG1D * k_N1SD.float()).sum(-1)
    p_BHS = (scores_NGS.view(-1, H, S) + mask[:, 0]).softmax(-1)
    y_NGD = (p_BHS.view(-1, H // K, S, 1) * v_N1SD.float()).sum(-2)
    return y_NGD.view(-1, H, 1, D).to(q_BH1D.dtype)
