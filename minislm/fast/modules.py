"""Drop-in modules: the same results as those of model.py, computed faster in one situation each.
N is B K; G is H // K: the query heads that share a key head are the rows of one product."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minislm.model import Attention, RMSNorm, Transformer

_BLOCK = 128  # queries
Mask = Tensor | None  # what each query may attend to; None: the causal mask of a whole text


class SingleQueryAttention(Attention):
    """Decoding: one query per row in two small products. Faster than the library's attention, which
    divides a long query into blocks; except on a GPU in 16 bits."""

    def attend(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_B1TS: Mask) -> Tensor:
        half_on_gpu = q_BHTD.is_cuda and q_BHTD.dtype != torch.float32 and self.H == self.K
        if mask_B1TS is None or q_BHTD.shape[2] != 1 or half_on_gpu:
            return super().attend(q_BHTD, k_BKSD, v_BKSD, mask_B1TS)
        q_NGD = (q_BHTD * self.scale).reshape(-1, self.H // self.K, self.D)
        scores_NGS = q_NGD @ k_BKSD.flatten(0, 1).transpose(1, 2)
        scores_BHS = scores_NGS.view(-1, self.H, mask_B1TS.shape[-1]).float()
        p_BHS = torch.where(mask_B1TS[:, 0], scores_BHS, -torch.inf).softmax(-1)
        y_NGD = p_BHS.to(v_BKSD.dtype).view(scores_NGS.shape) @ v_BKSD.flatten(0, 1)
        return y_NGD.view(-1, self.H, 1, self.D)


class LoopAttention(Attention):
    """Compiled steps on a CPU: one query per row in products and sums of single float32 numbers.
    Each sum becomes a loop of machine code that reads keys or values once, in their own dtype;
    nothing of the size of the cache is written."""

    def attend(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_B1TS: Mask) -> Tensor:
        H, K, D, S = self.H, self.K, self.D, k_BKSD.shape[2]
        q_NG1D = computed_once((q_BHTD.float() * self.scale).reshape(-1, H // K, 1, D))
        k_N1SD, v_N1SD = k_BKSD.flatten(0, 1)[:, None], v_BKSD.flatten(0, 1)[:, None]
        scores_NGS = (q_NG1D * k_N1SD.float()).sum(-1)
        mask_B1S = computed_once(torch.where(mask_B1TS[:, 0], 0.0, -torch.inf))  # for all heads
        p_BHS = (scores_NGS.view(-1, H, S) + mask_B1S).softmax(-1)
        y_NGD = (p_BHS.view(-1, H // K, S, 1) * v_N1SD.float()).sum(-2)
        return y_NGD.view(-1, H, 1, D).to(q_BHTD.dtype)


class BlockedAttention(Attention):
    """Training on a CPU in bfloat16: the causal mask, some queries at a time. What no query of a
    block attends to is not computed: twice as fast as the library's attention."""

    def attend(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_B1TS: Mask) -> Tensor:
        if mask_B1TS is not None or not torch.is_autocast_enabled("cpu"):
            return super().attend(q_BHTD, k_BKSD, v_BKSD, mask_B1TS)
        B, H, T, D = q_BHTD.shape
        q_NGTD = (q_BHTD * self.scale).reshape(B * self.K, H // self.K, T, D)
        k_NTD, v_NTD, blocks = k_BKSD.flatten(0, 1), v_BKSD.flatten(0, 1), []
        for begin in range(0, T, _BLOCK):
            q_NGQD = q_NGTD[:, :, begin : begin + _BLOCK]
            end = begin + q_NGQD.shape[2]
            hidden_QS = q_BHTD.new_full((end - begin, end), -torch.inf).triu(begin + 1)
            hidden = hidden_QS.repeat(H // self.K, 1)
            scores = torch.baddbmm(hidden, q_NGQD.flatten(1, 2), k_NTD[:, :end].mT)
            blocks.append((scores.softmax(-1) @ v_NTD[:, :end]).view(q_NGQD.shape))
        return torch.cat(blocks, 2).view(q_BHTD.shape)


class FusedRMSNorm(RMSNorm):
    """In training and on a GPU: one operation, which a trace cannot contain."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def computed_once(x: Tensor) -> Tensor:
    """The same numbers, which the compiler would else compute again wherever they are read."""
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


def copy_with(
    model: Transformer, classes: dict[type[nn.Module], type[nn.Module]], *, frozen: bool = False
) -> Transformer:
    """A copy of the model that shares its parameters and buffers; modules of a type in `classes`
    have the class given for it. frozen: its parameters have the same numbers and no gradient."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    if frozen:
        shared |= {id(w): nn.Parameter(w.detach(), requires_grad=False) for w in model.parameters()}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        module.__class__ = classes.get(type(module), type(module))
    return twin
