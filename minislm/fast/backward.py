"""Loss and gradient in micro-batches that fit the processor's cache, in worker threads.
Gradients are added in a fixed order: with as many threads a run can be repeated to the bit."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from minislm.fast.cross_entropy import fused_loss
from minislm.fast.modules import BlockedAttention, FusedRMSNorm, copy_with
from minislm.fast.threads import run_threads
from minislm.model import Attention, RMSNorm, Transformer

_TOKENS = 2048  # of a micro-batch, about

MicroBatch = tuple[Tensor, Tensor]  # inputs and targets of some rows


class FastLossAndGrad:
    """`training.loss_and_grad` with a twin of the model: the same parameters in faster modules.
    compiled: compile the blocks when they first run, for any batch; all share the code (a GPU)."""

    def __init__(self, model: Transformer, compiled: bool = False):
        self.twin = copy_with(model, {Attention: BlockedAttention, RMSNorm: FusedRMSNorm}).train()
        if compiled:
            for block in self.twin.blocks:
                block.compile(dynamic=True)

    def __call__(
        self, model: Transformer, inputs_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype,
        count: int,
    ) -> Tensor:  # fmt: skip
        """See `training.loss_and_grad`; `model` is the one that this was made for."""
        weights = [weight for weight in self.twin.parameters() if weight.requires_grad]
        workers, parts = self._split(inputs_BT, targets_BT)
        works = [partial(self._work, weights, parts[worker::workers], dtype, count)
                 for worker in range(workers)]  # fmt: skip
        total = torch.zeros((), dtype=torch.float64, device=inputs_BT.device)
        for loss, grads in run_threads(works):
            total += loss
            for weight, grad in zip(weights, grads):
                weight.grad = grad if weight.grad is None else weight.grad.add_(grad)
        return total

    def _split(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[int, list[MicroBatch]]:
        """The number of worker threads, and the micro-batches, which are dealt to them in turn."""
        (B, T), workers = inputs_BT.shape, 1
        if inputs_BT.device.type != "cpu":
            return workers, [(inputs_BT, targets_BT)]
        if not self.twin.config.dropout:  # threads would take random numbers in any order
            workers = max(1, min(torch.get_num_threads(), B * T // _TOKENS, B))
        parts = min(B, workers * -(-B * T // (_TOKENS * workers)))
        return workers, list(zip(inputs_BT.tensor_split(parts), targets_BT.tensor_split(parts)))

    def _work(
        self, weights: Sequence[Tensor], parts: Sequence[MicroBatch], dtype: torch.dtype, count: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradients of some micro-batches, summed."""
        total, grads = torch.zeros((), dtype=torch.float64, device=parts[0][0].device), []
        for inputs_bT, targets_bT in parts:
            loss = fused_loss(self.twin, inputs_bT, targets_bT, dtype, count)
            new = torch.autograd.grad(loss, weights)
            grads = [a.add_(b) for a, b in zip(grads, new)] or [grad.contiguous() for grad in new]
            total += loss.detach()
        return total, grads
