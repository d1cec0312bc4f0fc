"""What turns gradients into better weights: AdamW, and Muon for the blocks' matrices.

AdamW (Loshchilov & Hutter 2019) scales every number of a gradient by its own history. A matrix is
more than its numbers: Muon (Jordan et al. 2024) replaces the averaged gradient of a matrix by the
nearest matrix with all singular values near 1, so that every direction is learned at the same
speed, not only the few that dominate the gradient. Embeddings, norms and biases stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minislm.config import TrainConfig
from minislm.fast.threads import in_lanes
from minislm.model import Transformer


def orthogonalize(
    matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """The matrix, or each of a stack, with its singular values moved close to 1, by a Newton-Schulz
    iteration.

    The quintic's coefficients are those of Jordan et al.: they trade exactness (the values end
    between about 0.7 and 1.2) for steps. Products only, so bfloat16 is enough and it is fast;
    in float32 a difference in the last digit of a gradient stays one.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if tall else x  # the products are over the shorter side
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # all singular values at most 1
    add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        square = x @ x.mT
        x = add_product(x, add_product(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype)


_ROW_MEMORY = 0.95  # weight of the past in a row's mean square


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices; `parts` says where fused matrices are to be cut.

    A fused matrix (queries, keys and values in one) is several matrices side by side; each is
    orthogonalised by itself. The factor sqrt(rows / columns) gives every matrix the same effect
    on what it puts out, whatever its shape (Bernstein 2024). The rows of an orthogonalised matrix
    still differ in size, some of them for long: each is divided by its root mean square over the
    last steps, and the whole brought back to its norm (NorMuon, Li et al. 2025).
    """

    def __init__(
        self,
        groups: list[dict],
        lr: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
    ):
        self.dtype = dtype  # of the iteration
        super().__init__(groups, dict(lr=lr, momentum=momentum, weight_decay=0.0, parts=None))

    def step(self, closure: None = None) -> None:
        """Move every matrix that has a gradient; on a CPU several at a time, each in one thread."""
        jobs = [(weight, group) for group in self.param_groups for weight in group["params"]
                if weight.grad is not None]  # fmt: skip
        jobs.sort(key=lambda job: job[0].numel(), reverse=True)  # the large ones first
        on_cpu = bool(jobs) and jobs[0][0].device.type == "cpu"
        lanes = min(torch.get_num_threads(), len(jobs)) if on_cpu else 1
        dealt: list[list] = [[] for _ in range(lanes)]
        for job in jobs:  # to the lane that has the least to do
            min(dealt, key=lambda lane: sum(weight.numel() for weight, _ in lane)).append(job)
        in_lanes([partial(self._move, lane) for lane in dealt])

    @torch.no_grad()
    def _move(self, jobs: Sequence[tuple[Tensor, dict]]) -> None:
        stacks: dict[Any, list[_Part]] = {}
        for weight, group in jobs:
            for part in self._parts(weight, group):
                # A GPU moves all parts of one shape at once: it would wait for each small product.
                alike = id(part) if weight.device.type == "cpu" else part.kind
                stacks.setdefault(alike, []).append(part)
        for parts in stacks.values():
            _move_alike(parts, self.dtype)

    def _parts(self, weight: Tensor, group: dict) -> Iterator[_Part]:
        """The matrices in a weight, and where its momentum would have each go."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
            state["row_power"] = torch.zeros_like(weight[:, :1])
            state["step"] = 0
        state["step"] += 1
        average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
        ahead = weight.grad.lerp(average, group["momentum"])  # Nesterov's look ahead
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        lengths = group["parts"] or [len(weight)]
        for each in zip(*(whole.split(lengths) for whole in (weight, ahead, state["row_power"]))):
            yield _Part(*each, group["lr"], state["step"])


@dataclass
class _Part:
    """A matrix to be moved."""

    weight: Tensor
    direction: Tensor
    row_power: Tensor  # mean square of each row's steps so far
    rate: float
    step: int

    @property
    def kind(self) -> tuple:
        return self.weight.shape, self.rate, self.step


def _move_alike(parts: list[_Part], dtype: torch.dtype) -> None:
    """Move matrices of one kind; a single one is not stacked."""
    first = parts[0]
    rows, columns = first.weight.shape
    seen, one = 1 - _ROW_MEMORY**first.step, len(parts) == 1
    direction = first.direction if one else torch.stack([part.direction for part in parts])
    power = first.row_power if one else torch.stack([part.row_power for part in parts])
    direction = orthogonalize(direction, dtype=dtype)
    power.lerp_(direction.square().mean(-1, keepdim=True), 1 - _ROW_MEMORY)
    even = direction / (power / seen).sqrt().clamp(min=1e-8)
    length, of_even = (each.norm(dim=(-2, -1), keepdim=True) for each in (direction, even))
    even *= length / of_even.clamp(min=1e-8)
    rate = -first.rate * max(1.0, rows / columns) ** 0.5
    if one:
        first.weight.add_(even, alpha=rate)
        return
    torch._foreach_add_([part.weight for part in parts], list(even), alpha=rate)
    torch._foreach_copy_([part.row_power for part in parts], list(power))


def make_optimizers(
    model: Transformer, config: TrainConfig, dtype: torch.dtype = torch.bfloat16
) -> list[torch.optim.Optimizer]:
    """The optimizers of a run; only matrices decay, never norms and biases.

    dtype: of the products of Muon's iteration.

    Every group keeps its peak rate as "peak": the schedule multiplies it.
    """
    blocks = [m for m in model.blocks.parameters() if m.ndim == 2]
    others = [m for m in model.parameters() if m.ndim == 2 and all(m is not b for b in blocks)]
    vectors = [v for v in model.parameters() if v.ndim < 2]
    decay = config.weight_decay
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        c = model.config
        heads, keys = c.n_head * c.head_width, c.kv_heads * c.head_width
        cuts = {"qkv": [heads, keys, keys], "up": [c.mlp_hidden] * (1 + (c.mlp == "gated_silu"))}
        groups = [
            {"params": [weight], "parts": cuts.get(name.split(".")[-2]), "weight_decay": decay}
            for name, weight in model.blocks.named_parameters()
            if weight.ndim == 2
        ]
        optimizers.append(Muon(groups, config.matrix_rate, config.momentum, dtype))
        blocks = []
    groups = [
        {"params": blocks + others, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    optimizers.append(adamw)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def advance(optimizers: Sequence[torch.optim.Optimizer], share: float) -> None:
    """One step of each at this share of its peak rates; the gradients are spent."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share
        optimizer.step()
        optimizer.zero_grad()
