"""What the paths of a one-block model add to the loss, whether its heads copy, and what a count of
the same text has beside it. web/circuits.js computes what needs the weights alone. The model is on
the CPU. Axes beside those of model.py: W words, R factors."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minislm.interpret.activations import inputs_of
from minislm.model import Block, Transformer
from minislm.runtime.errors import UserError


def _block(model: Transformer) -> Block:
    c = model.config
    if c.n_layer != 1 or c.position != "rotary":
        raise UserError("the analysis of weights is exact for one block with rotary positions only")
    return model.blocks[0]


def _centred(x: Tensor, norm: nn.Module) -> Tensor:
    return x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x


@torch.no_grad()
def copying_scores(model: Transformer) -> list[float]:
    """sum(lambda) / sum(|lambda|) of the eigenvalues of each head's OV circuit [V, V], from token
    read to logits (Elhage et al. 2021). 1: raises the token that it reads; -1: lowers it."""
    block, H = _block(model), model.config.n_head
    weight_KDC = block.attention.qkv.weight.unflatten(0, (-1, block.attention.D))
    value_HDC = weight_KDC[-block.attention.K :].repeat_interleave(H // block.attention.K, 0)
    v_HVD = block.attention_norm(model.embedding.weight) @ value_HDC.mT
    readout_VC = _centred(model.head.weight * model.norm.weight, model.norm)
    out_HDV = (readout_VC @ block.attention.out.weight).unflatten(1, (H, -1)).permute(1, 2, 0)
    # X Y has the eigenvalues of Y X, and zeros.
    eigenvalues_HD = torch.linalg.eigvals(out_HDV.double() @ v_HVD.double())
    return (eigenvalues_HD.real.sum(1) / eigenvalues_HD.abs().sum(1)).tolist()


@torch.no_grad()
def loss_by_path(model: Transformer, ids: Sequence[Sequence[int]]) -> dict[str, float]:
    """Mean nats per target of texts, each an end of text and at least one token.
    "unigram" is the entropy of the targets. "direct", "heads" and "whole" are paths that add up, at
    the whole model's factors of the final norm: the embedding with attention and MLP at their mean
    outputs, then the attention, then the MLP. "token" is the MLP on the embedding with attention at
    its mean. "scale" is the mean factor."""
    block, norm, n = _block(model), model.norm, sum(len(text) - 1 for text in ids)
    nats = dict.fromkeys(("direct", "heads", "whole", "token"), 0.0)

    def positions() -> Iterator[tuple[Tensor, ...]]:
        """The residual stream at first, behind the attention and at last; factor and targets."""
        for text in ids:
            _, ((middle_1TC,), (last_1TC,)) = inputs_of([block.mlp_norm, norm], model, text[:-1])
            square_T1 = _centred(last_1TC[0], norm).square().mean(-1, keepdim=True)
            x_TC, targets = model.embedding(torch.tensor(text[:-1])), torch.tensor(text[1:])
            yield x_TC, middle_1TC[0], last_1TC[0], (square_T1 + norm.eps).rsqrt(), targets

    sums = [[y.sum(0, dtype=torch.float64) for y in row[:4]] for row in positions()]
    x_C, middle_C, last_C, scale_1 = (sum(column) / n for column in zip(*sums))
    attention_C, mlp_C = (middle_C - x_C).float(), (last_C - middle_C).float()
    head, bias = model.head, norm.bias if isinstance(norm, nn.LayerNorm) else 0.0
    for x, middle, last, factor, targets in positions():
        alone = x + attention_C
        rows = {"direct": alone + mlp_C, "heads": middle + mlp_C, "whole": last}
        logits = {k: head(_centred(y, norm) * factor * norm.weight + bias) for k, y in rows.items()}
        logits["token"] = head(norm(alone + block.mlp(block.mlp_norm(alone))))
        for name, y in logits.items():
            nats[name] += float(F.cross_entropy(y, targets, reduction="sum")) / n
    p = np.unique(np.concatenate([text[1:] for text in ids]), return_counts=True)[1] / n
    return nats | {"unigram": -float((p * np.log(p)).sum()), "scale": float(scale_1)}


def followers(
    tokens: np.ndarray, V: int, words: Sequence[int], top: int = 5
) -> tuple[list[list[tuple[int, float]]], float]:
    """The most frequent next tokens of each word with their rates, as counted in documents joined
    by end of text; and the entropy of the next token, given the last, in nats."""
    pairs, counts = np.unique(tokens[:-1].astype(np.int64) * V + tokens[1:], return_counts=True)
    last, following = pairs // V, pairs % V
    rates, found = counts / np.bincount(last, counts, V)[last], []
    for begin, end in zip(np.searchsorted(last, words), np.searchsorted(last, words, "right")):
        best = begin + np.argsort(-counts[begin:end], kind="stable")[:top]
        found.append([*zip(following[best].tolist(), rates[best].tolist())])
    return found, -float((counts * np.log(rates)).sum() / counts.sum())


def ppmi_neighbours(
    tokens: np.ndarray, V: int, words: Sequence[int], window: int = 5, rank: int = 64, top: int = 5
) -> np.ndarray:
    """Nearest of `words` to each [W, top], by the tokens around it: positive PMI, contexts to the
    power 0.75, and SVD (Levy & Goldberg 2014; Levy, Goldberg & Dagan 2015)."""
    W, tokens = len(words), tokens.astype(np.int64)
    row_V, counts = np.full(V, W), np.zeros((W + 1) * V)  # the last row: all other tokens
    row_V[words] = np.arange(W)
    for d in range(1, window + 1):
        for word, context in ((tokens[d:], tokens[:-d]), (tokens[:-d], tokens[d:])):
            counts += np.bincount(row_V[word] * V + context, minlength=len(counts))
    counts_WV = torch.from_numpy(counts).float().view(-1, V)[:W]
    context_V = torch.from_numpy(np.bincount(tokens, minlength=V)).float().clamp(min=1) ** 0.75
    p_WV = counts_WV / counts_WV.sum(1, keepdim=True).clamp(min=1)
    ppmi_WV = (p_WV / (context_V / context_V.sum())).log().clamp(min=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u_WR, s_R, _ = torch.svd_lowrank(ppmi_WV, q=min(rank + 16, *ppmi_WV.shape), niter=20)
    unit_WR = F.normalize((u_WR * s_R.sqrt())[:, :rank], dim=-1)
    cosine_WW = (unit_WR @ unit_WR.T).fill_diagonal_(-math.inf)
    return np.asarray(words)[cosine_WW.topk(top).indices.numpy()]
