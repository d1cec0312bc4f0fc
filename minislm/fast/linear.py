"""A model laid out for fast decoding on a CPU: the same modules, other layouts of their matrices.

`pack` gives a Transformer whose linear layers keep their weights the way the processor's matrix
library (oneDNN) wants to read them, in float32, bfloat16 or int8.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from minislm.model import Transformer

PRECISIONS = ("float32", "bfloat16", "int8")
_INT8_FROM = 1 << 20  # weights; a smaller matrix is read sooner than its input is quantized

# These two operators can be recorded from TorchScript only. In the second, a scale of 1/127 and a
# zero of 128 turn bytes into numbers from -1 to 1: the layout oneDNN has its fast kernels for.
_OPERATORS = """
def linear(x, weight, bias):
    # type: (Tensor, Tensor, Optional[Tensor]) -> Tensor
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

def int8_linear(x, weight, scale, zero):
    # type: (Tensor, Tensor, Tensor, Tensor) -> Tensor
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0 / 127, 128, weight, scale, zero, None, 1.0, 0, 6, "none", [], "")
"""


@lru_cache(maxsize=1)
def _operators() -> torch.jit.CompilationUnit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.CompilationUnit(_OPERATORS)


class PackedLinear(nn.Module):
    """x W^T + b with W in oneDNN's own layout, in the dtype of the given layer."""

    def __init__(self, linear: nn.Linear, rows: int):
        super().__init__()
        weight = linear.weight.detach().contiguous()
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(weight, rows))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return _operators().linear(x, self.weight, self.bias)


class ColumnLinear(nn.Module):
    """x W^T + b with W^T stored: for a single row in float32 this is read fastest."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.register_buffer("columns", linear.weight.detach().t().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        rows, out = x.flatten(0, -2), self.columns.shape[1]
        y = rows @ self.columns if self.bias is None else self.bias.addmm(rows, self.columns)
        return y.view(x.shape[:-1] + (out,))


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in 8-bit integers, and the scale of each of its rows."""
    weight = weight.detach().float()
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
    return (weight / scale[:, None]).round().to(torch.int8), scale


def in_bytes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as uint8 numbers from 1 to 255 with their zero at 128, and the largest absolute value
    of each, which stands for 127."""
    largest = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12)
    return (x * (127 / largest) + 128).round().to(torch.uint8), largest


class Int8Linear(nn.Module):
    """x W^T + b in 8-bit integers: a scale for every row of W, and one for every row of x.

    Weights are rounded once, inputs as they come (Dettmers et al. 2022, section 2, without the
    outliers). A row's own scale keeps it independent of its neighbours in the batch.
    """

    def __init__(self, linear: nn.Linear, rows: int):
        super().__init__()
        whole, scale = rounded(linear.weight)
        packed = torch.ops.onednn.qlinear_prepack(whole, [rows, whole.shape[1]])
        self.register_buffer("weight", packed)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(scale), dtype=torch.int64))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        whole, largest = in_bytes(x)
        y = _operators().int8_linear(whole, self.weight, self.scale, self.zero) * largest
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def pack(model: Transformer, precision: str, rows: int) -> Transformer:
    """The model for decoding about `rows` rows at a time on a CPU; the given one stays as it is.

    Args:
        precision: "float32"; "bfloat16": weights, activations and cache; "int8": the large
            matrices in int8, the rest in bfloat16.
    """
    return lay_out(model, precision, lambda linear: _packed_linear(linear, precision, rows))


def lay_out(
    model: Transformer, precision: str, make: Callable[[nn.Linear], nn.Module]
) -> Transformer:
    """The model with what `make` gives for every linear layer; the given one stays as it is.

    Everything but the linear layers is shared where the dtype stays the same.
    """
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    shared = {id(tensor): tensor for tensor in model.buffers()}
    for weight in model.parameters():  # the same numbers, but nothing to be learned
        shared[id(weight)] = nn.Parameter(weight.detach(), requires_grad=False)
    packed = copy.deepcopy(model, shared).eval()
    if model.embedding.weight.dtype != dtype:
        packed = copy.deepcopy(packed).to(dtype)
    for module in list(packed.modules()):
        for name, linear in list(module.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(module, name, make(linear))
    packed.n_parameters = model.n_parameters  # packed weights are buffers: they would not count
    return packed


def _packed_linear(linear: nn.Linear, precision: str, rows: int) -> nn.Module:
    if precision == "int8" and linear.weight.numel() >= _INT8_FROM:
        return Int8Linear(linear, rows)
    if precision == "float32" and rows == 1:
        return ColumnLinear(linear)
    return PackedLinear(linear, rows)
