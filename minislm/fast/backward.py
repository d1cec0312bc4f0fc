"""The gradients of a batch, some rows at a time.

The gradient of a sum is the sum of the gradients, so rows can be learned from in pieces: on a CPU
one piece's activations are still in the cache when the next operation reads them, and every thread
has pieces of its own. Pieces are added up in a fixed order, whichever is done first: a run can be
repeated to the bit with the same number of threads.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from minislm.fast.threads import in_lanes
from minislm.fast.cross_entropy import training_loss
from minislm.model import Transformer

_PIECE = 2048  # tokens, about


def backward(
    model: Transformer, inputs_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype,
    count: int | None = None,
) -> Tensor:  # fmt: skip
    """Add the gradients of a batch's loss to the `.grad` of every weight that learns; the loss,
    on the batch's device: a GPU is not waited for.

    The loss is the sum over the targets that count (not negative), divided by `count` (None: by
    how many they are, for their mean).
    """
    count = int((targets_BT >= 0).sum()) if count is None else count
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    lanes, pieces = _cut(model, inputs_BT, targets_BT)
    works = [
        partial(_lane, model, weights, pieces[lane::lanes], dtype, count) for lane in range(lanes)
    ]
    found = in_lanes(works)
    for _, grads in found:
        for weight, grad in zip(weights, grads):
            weight.grad = grad if weight.grad is None else weight.grad.add_(grad)
    return sum(loss for loss, _ in found)


def with_compiled_blocks(model: Transformer) -> Transformer:
    """A twin of the model, with the very same weights, to learn with: its blocks are compiled for
    any shape of batch when they first run. All blocks are one piece of code."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared).train()
    for block in twin.blocks:
        block.compile(dynamic=True)
    return twin


Piece = tuple[Tensor, Tensor]  # inputs and targets of some rows


def _cut(model: Transformer, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[int, list[Piece]]:
    """How many lanes, and the pieces, which are dealt out to them in turn."""
    (B, T), lanes = inputs_BT.shape, 1
    if inputs_BT.device.type != "cpu":
        return lanes, [(inputs_BT, targets_BT)]
    if not model.config.dropout:  # lanes would draw random numbers in any order
        lanes = max(1, min(torch.get_num_threads(), B * T // _PIECE, B))
    pieces = min(B, lanes * -(-B * T // (_PIECE * lanes)))
    return lanes, list(zip(inputs_BT.tensor_split(pieces), targets_BT.tensor_split(pieces)))


def _lane(
    model: Transformer, weights: Sequence[Tensor], pieces: Sequence[Piece], dtype: torch.dtype,
    count: int,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Loss and gradients of some pieces, summed."""
    total, grads = torch.zeros((), dtype=torch.float64, device=pieces[0][0].device), []
    for inputs_bT, targets_bT in pieces:
        loss = training_loss(model, inputs_bT, targets_bT, dtype, count)
        new = torch.autograd.grad(loss, weights)
        grads = [a.add_(b) for a, b in zip(grads, new)] or [grad.contiguous() for grad in new]
        total += loss.detach()
    return total, grads
