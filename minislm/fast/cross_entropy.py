"""Cross-entropy fused with the head, so that the logits stay in the processor's cache: they are a
batch's largest tensor by far, and the plain loss writes and reads it five times."""

import torch
from torch import Tensor
from torch.nn import functional as F

from minislm.dataset import IGNORED
from minislm.model import Transformer

_CHUNK = 1024  # tokens whose logits are in memory at a time
_CHUNK_OF_GPU = 16384  # where memory is fast, and many small products are slow
_MULTIPLE = 128  # the number of targets is padded to a multiple of this: few shapes of matrices,
# because the CPU's matrix library compiles a kernel for every new one


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `x @ weight.T` against `targets`, and both gradients at once.
    x [N, C]: features in the dtype of the products; weight [V, C]; targets int64 [N], without a
    loss where IGNORED; count: the sum of the losses is divided by it."""

    @staticmethod
    def forward(ctx, x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, count: int) -> Tensor:
        weight = weight_VC.to(x_NC.dtype)
        total = torch.zeros((), device=x_NC.device)
        d_features, d_weight = torch.empty_like(x_NC), torch.zeros_like(weight_VC)
        size = _CHUNK if total.device.type == "cpu" else _CHUNK_OF_GPU
        # Memory that is used again need not be allocated, and cleared by the system, again.
        logits_NV, p_NV = x_NC.new_empty((2, min(size, len(targets_N)), len(weight)))
        for begin in range(0, len(targets_N), size):
            chunk = slice(begin, begin + size)
            features, counted_N = x_NC[chunk], targets_N[chunk] != IGNORED
            target_N = targets_N[chunk].clamp(min=0)
            logits, p = logits_NV[: len(features)], p_NV[: len(features)]
            row_N = torch.arange(len(features), device=total.device)
            torch.mm(features, weight.t(), out=logits)
            torch.softmax(logits, -1, out=p)
            p_of_target_N = p[row_N, target_N].float().clamp(min=torch.finfo().tiny)
            total -= (p_of_target_N.log() * counted_N).sum()
            # The gradient of the logits is (softmax - one-hot) / count; the division is done on the
            # features, which are fewer numbers.
            p[row_N, target_N] -= 1
            weight_N1 = (counted_N / count).to(p.dtype)[:, None]
            torch.mm(p, weight, out=d_features[chunk])
            d_features[chunk] *= weight_N1
            d_weight += p.t() @ (features * weight_N1)
        ctx.save_for_backward(d_features, d_weight)
        return total / count

    @staticmethod
    def backward(ctx, d_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_features, d_weight = ctx.saved_tensors
        return d_features * d_loss, d_weight * d_loss, None, None


def fused_loss(
    model: Transformer, inputs_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype, count: int
) -> Tensor:
    """Cross-entropy of a batch, summed over its targets and divided by `count`."""
    device, targets_N = inputs_BT.device.type, targets_BT.flatten()
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        features_NC = model.features(inputs_BT).flatten(0, 1)
    if device == "cpu":  # on a GPU, their number would have to be waited for
        (counted_N,) = torch.nonzero(targets_N != IGNORED, as_tuple=True)
        padding = -len(counted_N) % _MULTIPLE
        targets_N = F.pad(targets_N[counted_N], (0, padding), value=IGNORED)
        features_NC = features_NC[F.pad(counted_N, (0, padding))]
    return LinearCrossEntropy.apply(features_NC.to(dtype), model.head.weight, targets_N, count)
