"""Optimizers: AdamW, and Muon for the matrices of the blocks; and the learning-rate schedule.

AdamW (Loshchilov & Hutter 2019) divides each element of the averaged gradient by the root of its
second moment. Muon (Jordan et al. 2024) replaces the averaged gradient of a matrix by a matrix near
it whose singular values are all near 1: every direction is learned at the same speed, not only the
few that dominate the gradient. Embeddings, norms and biases stay with AdamW."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from minislm.config import TrainConfig
from minislm.model import Transformer

Matrix = tuple[Tensor, Tensor, Tensor, int, float]  # weight, momentum, row_power, step, rate
_ROW_BETA = 0.95  # decay rate of the second moment of a row, as beta2 of AdamW


def schedule(progress: float, warmup: float, decay: float) -> float:
    """Learning-rate multiplier at `progress` (0 to 1) of the training: warmup-stable-decay.

    It rises linearly over the fraction `warmup`, is 1, and falls linearly to 0 over the last
    fraction `decay` (Haegele et al. 2024)."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return max(0.0, min(1.0, (1 - progress) / decay))


def orthogonalize(matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The matrix [..., rows, columns] with its singular values moved close to 1, by a Newton-Schulz
    iteration.

    The coefficients of Jordan et al. trade exactness (the values end between about 0.7 and 1.2) for
    few steps. It consists of matrix products only, for which bfloat16 is exact enough."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if tall else x  # the smaller of x x^T and x^T x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # all singular values at most 1
    add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        square = x @ x.mT
        x = add_product(x, add_product(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype)


def normalized_update(momentum: Tensor, row_power: Tensor, step: int, dtype: torch.dtype) -> Tensor:
    """The orthogonalised momentum [..., rows, columns], its rows made equally large.

    The rows of an orthogonalised matrix still differ in size: each is divided by the root of its
    second moment (`row_power` [..., rows, 1], which is updated), and the whole is scaled back to
    its norm (NorMuon, Li et al. 2025)."""
    update = orthogonalize(momentum, dtype=dtype)
    norm = update.norm(dim=(-2, -1), keepdim=True)
    row_power.lerp_(update.square().mean(-1, keepdim=True), 1 - _ROW_BETA)
    update = update / (row_power / (1 - _ROW_BETA**step)).sqrt().clamp(min=1e-8)
    return update * (norm / update.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-8))


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices.

    A fused matrix (queries, keys and values in one) is several matrices, each orthogonalised by
    itself: `parts` of its parameter group gives their rows."""

    def __init__(
        self, groups: list[dict], lr: float, momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
    ):  # fmt: skip
        self.dtype = dtype  # of the iteration
        super().__init__(groups, dict(lr=lr, momentum=momentum, weight_decay=0.0, parts=None))

    def step(self, closure: None = None) -> None:
        self.update(self.matrices())

    @torch.no_grad()
    def update(self, matrices: Iterable[Matrix]) -> None:
        for weight, momentum, row_power, step, rate in matrices:
            update = normalized_update(momentum, row_power, step, self.dtype)
            weight.add_(update, alpha=-rate)

    def matrices(self) -> Iterator[Matrix]:
        """Update all momenta; yield the weight, momentum [rows, columns], row_power [rows, 1], step
        and learning rate of every matrix.

        The rate is multiplied by sqrt(rows / columns) where there are more rows than columns, so
        that an update changes the outputs of tall and wide matrices equally (Bernstein 2024)."""
        for group in self.param_groups:
            for weight in (each for each in group["params"] if each.grad is not None):
                state = self.state[weight]
                if not state:
                    state |= {"momentum": torch.zeros_like(weight), "step": 0}
                    state["row_power"] = torch.zeros_like(weight[:, :1])
                state["step"] += 1
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                momentum = weight.grad.lerp(average, group["momentum"])  # Nesterov momentum
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                rows = group["parts"] or [len(weight)]
                for each in zip(*(x.split(rows) for x in (weight, momentum, state["row_power"]))):
                    scale = max(1.0, each[0].shape[0] / each[0].shape[1]) ** 0.5
                    yield *each, state["step"], group["lr"] * scale


def make_optimizers(
    model: Transformer, config: TrainConfig, dtype: torch.dtype = torch.bfloat16,
    muon: type[Muon] = Muon,
) -> list[torch.optim.Optimizer]:  # fmt: skip
    """The optimizers of a run. Weight decay is for matrices only, not for norms and biases.

    dtype: precision of Muon's iteration. Every group keeps its peak rate as "peak"."""
    c, decay, optimizers = model.config, config.weight_decay, []
    blocks = {name: m for name, m in model.blocks.named_parameters() if m.ndim == 2}
    others = [m for n, m in model.named_parameters() if m.ndim == 2 and not n.startswith("blocks.")]
    vectors = [v for v in model.parameters() if v.ndim < 2]
    if config.optimizer == "muon":
        heads, keys = c.n_head * c.head_width, c.kv_heads * c.head_width
        parts = {"qkv": [heads, keys, keys], "up": [c.mlp_hidden] * (1 + (c.mlp == "gated_silu"))}
        groups = [{"params": [m], "parts": parts.get(name.split(".")[-2]), "weight_decay": decay}
                  for name, m in blocks.items()]  # fmt: skip
        optimizers.append(muon(groups, config.matrix_rate, config.momentum, dtype))
        blocks = {}
    groups = [{"params": [*blocks.values(), *others], "weight_decay": decay},
              {"params": vectors, "weight_decay": 0.0}]  # fmt: skip
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    optimizers.append(adamw)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers
