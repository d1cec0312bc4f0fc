"""Linear layers laid out for compiled steps, by how many rows they are for and in what precision.

Those of a few rows are written so that torch's compiler makes loops of them that read every weight
once; those of many rows stay products of the matrix library.
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minislm.fast.attention import made_once
from minislm.fast.compiled import multiplies_bytes
from minislm.runtime.device import best_seconds
from minislm.model import Transformer
from minislm.fast.linear import Int8Linear, in_bytes, lay_out, rounded

_TILE = 16  # outputs: as many float32 as a register of AVX-512 holds
_FEW = 16  # rows whose sums of one tile stay in registers
_IN_FLIGHT = 4  # sums of a tile made at the same time, so that none waits for its last addition
_MUCH = 1.15  # times as slow: what is saved elsewhere would be lost in the products
_TRIALS = 11


class TiledLinear(nn.Module):
    """x W^T + b for a few rows x. W is stored in tiles [O / 16, I / n, n, 16], filled up with
    zeros; n inputs at once where the rows are few.

    A tile is read once, from its first number to its last, and makes 16 outputs of every row: the
    compiler makes one loop of the sums of all rows.
    """

    def __init__(self, linear: nn.Linear, rows: int = 1):
        super().__init__()
        self.out, inputs = linear.weight.shape
        self.together = max(1, _IN_FLIGHT // rows)
        self.filling = -inputs % self.together
        weight = F.pad(linear.weight.detach(), (0, self.filling, 0, -self.out % _TILE))
        tiles = weight.view(len(weight) // _TILE, _TILE, -1, self.together).permute(0, 2, 3, 1)
        self.register_buffer("tiles", tiles.contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        tiles = self.tiles.float()[None]  # while it is read: nothing of this size is ever written
        rows = made_once(F.pad(x.float().flatten(0, -2), (0, self.filling)))
        outputs = []
        for row in rows.view(len(rows), 1, 1, -1, self.together, 1):
            products = [row[:, :, :, i] * tiles[:, :, :, i] for i in range(self.together)]
            while len(products) > 1:  # added up among themselves before they join the sum
                products = [a + b for a, b in zip(products[::2], products[1::2])]
            outputs.append(products[0].sum(2))
        y = torch.cat(outputs).flatten(1)[:, : self.out]
        y = y if self.bias is None else y + self.bias
        return y.to(x.dtype).view(x.shape[:-1] + (self.out,))


class ByteLinear(nn.Module):
    """x W^T + b for a few rows x in 8-bit integers: what `Int8Linear` gives.

    A row of W is read once, and makes one output of every row of x. Products of bytes that are
    added up are one instruction of the processor, for 64 of them at once.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, scale = rounded(linear.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale / 127)
        self.register_buffer("zero", 128 * weight.sum(1, dtype=torch.int32))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        whole, largest = in_bytes(x.flatten(0, -2))
        weight = self.weight.short().int()  # while it is read, as above
        sums = [(weight * row.short().int()).sum(1, dtype=torch.int32) for row in made_once(whole)]
        y = (torch.stack(sums) - self.zero).float() * self.scale * largest
        y = y if self.bias is None else y + self.bias
        return y.to(x.dtype).view(x.shape[:-1] + (len(weight),))


class TurnedLinear(nn.Module):
    """x W^T + b for many rows x in bfloat16, as (W x^T)^T + b.

    The matrix library lays out anew what stands on the right, in every product: here the rows,
    which are few beside the weights.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y = (self.weight @ x.flatten(0, -2).t()).t()
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, x.shape[:-1])


class MKLLinear(nn.Module):
    """x W^T + b for just so many rows x in float32, with W in the layout of MKL: for 64 rows in
    0.82 of the time of the same library's product that lays it out anew."""

    def __init__(self, linear: nn.Linear, rows: int):
        super().__init__()
        self.rows = rows
        self.register_buffer("weight", linear.weight.detach().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        packed = torch.ops.mkl._mkl_reorder_linear_weight(self.weight, rows)
        self.register_buffer("packed", packed)

    def forward(self, x: Tensor) -> Tensor:
        x_RI = x.flatten(0, -2)
        y = torch.ops.mkl._mkl_linear(x_RI, self.packed, self.weight, self.bias, self.rows)
        return y.unflatten(0, x.shape[:-1])


def lay_out_for(
    rows: int, model: Transformer, precision: str, packed: Transformer
) -> tuple[Transformer, Transformer | None]:
    """The model for steps taken one by one, and the one for compiled steps of so many rows: both
    give the same. The given ones stay as they are.

    The second is None where compiled steps would be slower than recorded ones: many rows if
    weights are in int8, or if the products that compiled steps can have are slow, which a short
    trial shows.

    Args:
        precision: as for `pack`; but with few rows int8 is for all matrices, and the rest is in
            float32.
        packed: the model packed in this precision.
    """
    if precision == "int8":
        if rows > _FEW or not multiplies_bytes():
            return packed, None
        alone = lay_out(model, "float32", lambda linear: Int8Linear(linear, rows))
        return alone, lay_out(model, "float32", ByteLinear)
    if rows <= _FEW:
        return packed, lay_out(model, precision, lambda linear: TiledLinear(linear, rows))
    shared = lay_out(model, precision, lambda linear: _of_the_library(linear, precision, rows))
    x = torch.zeros(rows, model.config.width, dtype=shared.head.weight.dtype)
    return packed, shared if _times_as_slow(shared.head, packed.head, x) < _MUCH else None


def _of_the_library(linear: nn.Linear, precision: str, rows: int) -> nn.Module:
    if precision == "bfloat16":
        return TurnedLinear(linear)
    return MKLLinear(linear, rows) if torch.backends.mkl.is_available() else linear


@torch.inference_mode()
def _times_as_slow(linear: nn.Module, other: nn.Module, x: Tensor) -> float:
    """How long the one takes beside the other; in turns, so that a busy machine slows both."""
    trials = [[best_seconds(lambda: f(x), 1) for f in (linear, other)] for _ in range(_TRIALS)]
    return statistics.median(first / second for first, second in trials)
