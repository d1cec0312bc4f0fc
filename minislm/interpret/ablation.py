"""Zero ablation of attention heads and MLP neurons: what does the model lose without them?

A head writes into the residual stream through its columns of the attention's output matrix, a
neuron through its column of the MLP's second matrix. With these columns at zero the component has
no effect, neither on the loss nor in any sampler that uses the same weights."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from minislm.model import Transformer
from minislm.runtime.errors import UserError


@dataclass(frozen=True)
class Component:
    """A head or a neuron of a block; both indices count from 0."""

    kind: str  # "head" or "neuron"
    layer: int
    index: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.layer}.{self.index}"


def parse(text: str) -> list[Component]:
    """The components in a text such as "head:0.3,neuron:1.117" (block, then head or neuron).
    UserError: another form."""
    components = []
    for each in text.split(","):
        if (match := re.fullmatch(r"(head|neuron):([0-9]+)\.([0-9]+)", each.strip())) is None:
            raise UserError(f"--off takes head:BLOCK.HEAD and neuron:BLOCK.NEURON, not {each!r}")
        components.append(Component(match[1], int(match[2]), int(match[3])))
    return components


def all_heads(model: Transformer) -> list[Component]:
    c = model.config
    return [Component("head", layer, h) for layer in range(c.n_layer) for h in range(c.n_head)]


@contextmanager
@torch.no_grad()
def ablated(model: Transformer, components: Sequence[Component]) -> Iterator[None]:
    """Inside, the output of every component is zero; the bias of the output matrices stays.
    UserError: a component that the model does not have."""
    columns = [_columns(model, component) for component in components]
    weights = [column.clone() for column in columns]
    try:
        for column in columns:
            column.zero_()
        yield
    finally:
        for column, weight in zip(columns, weights):
            column.copy_(weight)


def _columns(model: Transformer, component: Component) -> Tensor:
    """The columns of the output matrix that a component writes with, as a view."""
    c = model.config
    count = c.n_head if component.kind == "head" else c.mlp_hidden
    if component.layer >= c.n_layer or component.index >= count:
        raise UserError(f"{component}: the model has blocks 0 to {c.n_layer - 1} with "
                        f"{component.kind}s 0 to {count - 1}")  # fmt: skip
    block = model.blocks[component.layer]
    if component.kind == "neuron":
        return block.mlp.down.weight[:, component.index]
    return block.attention.out.weight.split(c.head_width, dim=1)[component.index]
