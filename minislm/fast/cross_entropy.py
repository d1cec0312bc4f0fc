"""How far the model's guesses are from what the text says next: cross-entropy, in nats.

The logits of a batch are its largest tensor by far (8,192 tokens x 4,096 words are 134 MB), and
the plain way writes and reads it five times. Here a thousand tokens at a time go from features
to loss and gradient while their logits are in the processor's cache. The result is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 1024  # tokens whose logits are alive at a time
_CHUNK_OF_GPU = 16384  # where memory is fast, and many small products are slow
_MULTIPLE = 128  # the tokens of a batch that count are filled up to this: few shapes of matrices,
# because the CPU's matrix library compiles a kernel for every new one


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `features @ weight.T` against `targets`, and both gradients at once.

    features [N, C], in the dtype the products are to be made in; weight [V, C]; targets int64 [N],
    of which the negative ones do not count; count: what the sum over the others is divided by.
    """

    @staticmethod
    def forward(
        ctx, features_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, count: int
    ) -> Tensor:
        weight = weight_VC.to(features_NC.dtype)
        total = torch.zeros((), device=features_NC.device)
        d_features, d_weight = torch.empty_like(features_NC), torch.zeros_like(weight_VC)
        size = _CHUNK if total.device.type == "cpu" else _CHUNK_OF_GPU
        # Memory that is used again need not be asked for, and cleared by the system, again.
        logits_NV, p_NV = features_NC.new_empty(
            (2, min(size, len(targets_N)), len(weight))
        )
        for begin in range(0, len(targets_N), size):
            part = slice(begin, begin + size)
            features, target_N = features_NC[part], targets_N[part]
            logits, p = logits_NV[: len(features)], p_NV[: len(features)]
            counts_N, row_N = target_N >= 0, torch.arange(len(features), device=total.device)
            torch.mm(features, weight.t(), out=logits)
            torch.softmax(logits, -1, out=p)
            p_of_target_N = p[row_N, target_N].float().clamp(min=torch.finfo().tiny)
            total -= (p_of_target_N.log() * counts_N).sum()
            # The gradient of the logits is softmax minus one-hot, over the count: the count is
            # left to the features, which are fewer numbers.
            p[row_N, target_N] -= 1
            share_N1 = (counts_N / count).to(p.dtype)[:, None]
            torch.mm(p, weight, out=d_features[part])
            d_features[part] *= share_N1
            d_weight += p.t() @ (features * share_N1)
        ctx.save_for_backward(d_features, d_weight)
        return total / count

    @staticmethod
    def backward(ctx, d_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_features, d_weight = ctx.saved_tensors
        return d_features * d_loss, d_weight * d_loss, None, None


def training_loss(
    model, inputs_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype, count: int
) -> Tensor:
    """Loss of the targets that count (not negative), summed and divided by `count`."""
    device, targets_N = inputs_BT.device.type, targets_BT.flatten()
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        features_NC = model.features(inputs_BT).flatten(0, 1)
    if device == "cpu":  # a GPU would have to be waited for, to know how many there are
        (chosen_N,) = torch.nonzero(targets_N >= 0, as_tuple=True)
        filling = -len(chosen_N) % _MULTIPLE
        targets_N = F.pad(targets_N[chosen_N], (0, filling), value=-1)
        features_NC = features_NC[F.pad(chosen_N, (0, filling))]
    return LinearCrossEntropy.apply(features_NC.to(dtype), model.head.weight, targets_N, count)


def token_losses(model, inputs_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Loss of every token in float32 [B, T], 0 where the target does not count; no gradient."""
    counts = targets_BT >= 0
    losses_BT = torch.zeros(targets_BT.shape, device=inputs_BT.device)
    with torch.no_grad(), torch.autocast(
        inputs_BT.device.type, dtype, enabled=dtype != torch.float32
    ):
        features_NC, targets_N = model.features(inputs_BT)[counts], targets_BT[counts]
        losses = [
            F.cross_entropy(model.head(part).float(), target, reduction="none")
            for part, target in zip(features_NC.split(_CHUNK), targets_N.split(_CHUNK))
        ]
    losses_BT[counts] = torch.cat(losses) if losses else losses_BT.new_zeros(0)
    return losses_BT
