"""Linear layers for decoding on a CPU: weights in the layout and precision that is read fastest.
The first three classes are for all steps, the others for compiled ones, by the number of rows.
O is the number of outputs, I of inputs, R of rows."""

import copy
import statistics
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minislm.fast.fallback import tried
from minislm.fast.modules import LoopAttention, SingleQueryAttention, computed_once, copy_with
from minislm.fast.traced import can_trace
from minislm.model import Attention, Transformer
from minislm.runtime.device import best_seconds

PRECISIONS = ("float32", "bfloat16", "int8")
_INT8_FROM = 1 << 20  # weights; a smaller matrix is read sooner than its input is quantized
FEW = 16  # rows of compiled steps whose sums stay in registers
_TILE = 16  # outputs: as many float32 numbers as a register of AVX-512 holds
_PARALLEL_SUMS = 4  # of a tile, so that none waits for its last addition
_SLOWER = 1.15  # times as slow: what is saved elsewhere would be lost in the products


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


# Scale 1/127 and zero point 128 turn bytes into numbers from -1 to 1: for oneDNN's fast kernels.
def _int8_linear(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0 / 127, 128, weight, scale, zero, None, 1.0, 0, torch.float32, "none", [], ""
    )


@lru_cache
def _traceable(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function with one of these operators, which a trace contains from TorchScript only."""
    return torch.jit.script(operator) if can_trace() else operator


class _FrozenLinear(nn.Module):
    """x W^T + b; a subclass stores W in its own way, in `buffers`."""

    def __init__(self, linear: nn.Linear, **buffers: Tensor):
        super().__init__()
        bias = None if linear.bias is None else linear.bias.detach()
        for name, tensor in {"bias": bias, **buffers}.items():
            self.register_buffer(name, tensor)

    def add_bias(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias


class PrepackedLinear(_FrozenLinear):
    """W in oneDNN's own layout, in the dtype of the given layer."""

    def __init__(self, linear: nn.Linear, rows: int):
        weight_OI = linear.weight.detach().contiguous()
        super().__init__(linear, weight=torch.ops.mkldnn._reorder_linear_weight(weight_OI, rows))

    def forward(self, x: Tensor) -> Tensor:
        return _traceable(_linear)(x, self.weight, self.bias)


class TransposedLinear(_FrozenLinear):
    """W^T is stored: for a single row in float32 it is read fastest."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear, weight_IO=linear.weight.detach().t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        x_RI = x.flatten(0, -2)
        y = x_RI @ self.weight_IO if self.bias is None else self.bias.addmm(x_RI, self.weight_IO)
        return y.view(*x.shape[:-1], -1)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in 8-bit integers, and the scale of each of its rows."""
    weight = weight.detach().float()
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
    return (weight / scale[:, None]).round().to(torch.int8), scale


def quantize_input(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as uint8 numbers with zero point 128, and the absolute value that 127 is in each."""
    largest = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12)
    return (x * (127 / largest) + 128).round().to(torch.uint8), largest


class Int8Linear(_FrozenLinear):
    """8-bit integers: a scale for every row of W, and one for every row of x.
    Weights are quantized once, inputs as they come (Dettmers et al. 2022, section 2, without the
    outliers). A scale of its own keeps a row independent of its neighbours in the batch."""

    def __init__(self, linear: nn.Linear, rows: int):
        weight, scale = quantize_weight(linear.weight)
        weight = torch.ops.onednn.qlinear_prepack(weight, [rows, weight.shape[1]])
        zero = torch.zeros(len(scale), dtype=torch.int64)
        super().__init__(linear, weight=weight, scale=scale, zero=zero)

    def forward(self, x: Tensor) -> Tensor:
        x_int, largest = quantize_input(x)
        y = _traceable(_int8_linear)(x_int, self.weight, self.scale, self.zero) * largest
        return self.add_bias(y).to(x.dtype)


class TiledLinear(_FrozenLinear):
    """A few rows. W is stored in tiles [O / 16, I / n, n, 16], padded with zeros; n inputs at once
    where the rows are few. A tile is read once, from its first number to its last, and gives 16
    outputs of every row: the compiler makes one loop of the sums of all rows."""

    def __init__(self, linear: nn.Linear, rows: int = 1):
        super().__init__(linear)
        self.out, inputs = linear.weight.shape
        self.together = max(1, _PARALLEL_SUMS // rows)
        self.padding = -inputs % self.together
        weight = F.pad(linear.weight.detach(), (0, self.padding, 0, -self.out % _TILE))
        tiles = weight.view(len(weight) // _TILE, _TILE, -1, self.together).permute(0, 2, 3, 1)
        self.register_buffer("tiles", tiles.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        tiles = self.tiles.float()[None]  # while it is read: nothing of this size is written
        rows = computed_once(F.pad(x.float().flatten(0, -2), (0, self.padding)))
        outputs = []
        for row in rows.view(len(rows), 1, 1, -1, self.together, 1):
            products = [row[:, :, :, i] * tiles[:, :, :, i] for i in range(self.together)]
            while len(products) > 1:  # added to one another before they join the sum
                products = [a + b for a, b in zip(products[::2], products[1::2])]
            outputs.append(products[0].sum(2))
        y = self.add_bias(torch.cat(outputs).flatten(1)[:, : self.out])
        return y.to(x.dtype).view(x.shape[:-1] + (self.out,))


class Int8LoopLinear(_FrozenLinear):
    """A few rows in 8-bit integers, with the results of `Int8Linear`.
    A row of W is read once, for one output of each row of x; one instruction adds 64 products."""

    def __init__(self, linear: nn.Linear):
        weight, scale = quantize_weight(linear.weight)
        zero = 128 * weight.sum(1, dtype=torch.int32)
        super().__init__(linear, weight=weight, scale=scale / 127, zero=zero)

    def forward(self, x: Tensor) -> Tensor:
        x_int, largest = quantize_input(x.flatten(0, -2))
        weight = self.weight.short().int()  # while it is read, as above
        rows = computed_once(x_int)
        sums = [(weight * row.short().int()).sum(1, dtype=torch.int32) for row in rows]
        y = (torch.stack(sums) - self.zero).float() * self.scale * largest
        return self.add_bias(y).to(x.dtype).view(x.shape[:-1] + (len(weight),))


class WeightFirstLinear(_FrozenLinear):
    """Many rows in bfloat16, as (W x^T)^T + b: the matrix library changes the layout of the right
    factor in every product, and the rows are fewer than the weights."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear)
        self.weight = linear.weight

    def forward(self, x: Tensor) -> Tensor:
        y = (self.weight @ x.flatten(0, -2).t()).t()
        return self.add_bias(y).unflatten(0, x.shape[:-1])


class MKLLinear(_FrozenLinear):
    """Exactly `rows` rows in float32, with W in MKL's own layout."""

    def __init__(self, linear: nn.Linear, rows: int):
        weight = linear.weight.detach().contiguous()
        prepacked = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
        super().__init__(linear, weight=weight, prepacked=prepacked)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        x_RI = x.flatten(0, -2)
        y = torch.ops.mkl._mkl_linear(x_RI, self.prepacked, self.weight, self.bias, self.rows)
        return y.unflatten(0, x.shape[:-1])


def with_linear(
    model: Transformer, precision: str, make: Callable[[nn.Linear], nn.Module],
    attention: type[Attention] = SingleQueryAttention,
) -> Transformer:  # fmt: skip
    """A copy of the model for decoding, with `make(linear)` for every linear layer; the rest is
    shared where the dtype stays the same. "int8" keeps the rest in bfloat16."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    twin = copy_with(model, {Attention: attention}, frozen=True).eval()
    if model.embedding.weight.dtype != dtype:
        twin = copy.deepcopy(twin).to(dtype)
    for name, module in list(twin.named_modules()):
        if isinstance(module, nn.Linear):
            twin.set_submodule(name, make(module))
    count = model.n_parameters()  # prepacked weights are buffers and would not count
    twin.n_parameters = lambda: count
    return twin


def prepack(model: Transformer, precision: str, rows: int) -> Transformer:
    """The model for decoding about `rows` rows at a time on a CPU; the given one is unchanged.
    precision: "float32"; "bfloat16": weights, activations and cache; "int8": the large matrices in
    int8, the rest in bfloat16."""

    def make(linear: nn.Linear) -> nn.Module:
        if precision == "float32" and rows == 1:
            return TransposedLinear(linear)
        int8 = precision == "int8" and linear.weight.numel() >= _INT8_FROM
        return or_plain(Int8Linear if int8 else PrepackedLinear, linear, rows)

    return with_linear(model, precision, make)


def or_plain(kind: type[nn.Module], linear: nn.Linear, rows: int) -> nn.Module:
    """`kind(linear, rows)`; the given layer where PyTorch lacks an operator, which is private: it
    may exist for some processors or precisions only, so each layer is run once."""
    name, x_RI = kind.__name__, linear.weight.new_zeros(rows, linear.in_features)
    layer = tried(name, "nn.Linear", lambda: kind(linear, rows))
    works = layer is not None and tried(name, "nn.Linear", lambda: layer(x_RI)) is not None
    return layer if works else linear


def for_compiled_steps(
    rows: int, model: Transformer, precision: str, prepacked: Transformer
) -> tuple[Transformer, Transformer | None]:
    """The models for single and for compiled steps of so many rows, with the same results; those
    given are unchanged, `prepacked` is in this precision. With few rows int8 is for all matrices,
    and the rest is in float32. The second is None where compiled steps would be slower than traced
    ones: many rows in int8, or products that are slow in a short trial."""

    def compiled(precision: str, make: Callable[[nn.Linear], nn.Module]) -> Transformer:
        return with_linear(model, precision, make, LoopAttention)

    if precision == "int8":
        single = with_linear(model, "float32", lambda each: or_plain(Int8Linear, each, rows))
        if rows > FEW or isinstance(single.head, nn.Linear):  # whose results would be others
            return prepacked, None
        return single, compiled("float32", Int8LoopLinear)
    if rows <= FEW:
        return prepacked, compiled(precision, lambda linear: TiledLinear(linear, rows))
    mkl = partial(or_plain, MKLLinear, rows=rows)
    shared = compiled(precision, WeightFirstLinear if precision == "bfloat16" else mkl)
    x_RC = torch.zeros(rows, model.config.width, dtype=shared.embedding.weight.dtype)
    slower = _times_as_slow(shared.head, prepacked.head, x_RC) >= _SLOWER
    return prepacked, None if slower else shared


@torch.inference_mode()
def _times_as_slow(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    """How long the first takes relative to the second; in turns: a busy machine slows both."""
    works = [partial(one, x), partial(other, x)]
    trials = [[best_seconds(work, 1) for work in works] for _ in range(11)]
    return statistics.median(first / second for first, second in trials)
