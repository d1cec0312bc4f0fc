"""Ablation of attention heads and MLP neurons: what does the model lose without them?
A head writes through its columns of the attention's output matrix, a neuron through its column of
the MLP's second one: with zeros there it has no effect, in any sampler either. The rest of the
model has never seen zeros: mean ablation adds what the component writes on average."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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

    def check(self, model: Transformer) -> None:
        """Raise UserError if the model does not have it."""
        c = model.config
        block, last = c.n_layer - 1, (c.n_head if self.kind == "head" else c.mlp_hidden) - 1
        if self.layer > block or self.index > last:
            raise UserError(f"{self}: the model has blocks 0 to {block}, {self.kind}s 0 to {last}")


def parse(text: str) -> list[Component]:
    """The components in a text such as "head:0.3,neuron:1.117". UserError: another form."""
    components = []
    for each in text.split(","):
        if (match := re.fullmatch(r"(head|neuron):([0-9]+)\.([0-9]+)", each.strip())) is None:
            raise UserError(f"--off takes head:BLOCK.HEAD and neuron:BLOCK.NEURON, not {each!r}")
        components.append(Component(match[1], int(match[2]), int(match[3])))
    return components


def all_heads(model: Transformer) -> list[Component]:
    c = model.config
    return [Component("head", layer, h) for layer in range(c.n_layer) for h in range(c.n_head)]


@dataclass(frozen=True)
class Means:
    """Mean outputs on texts: of heads [L, H, D], before the output matrix, and neurons [L, F]."""

    heads_LHD: Tensor
    neurons_LF: Tensor

    def of(self, component: Component) -> Tensor:
        """The mean of a component: [D] or [1]."""
        means = self.heads_LHD if component.kind == "head" else self.neurons_LF[..., None]
        return means[component.layer, component.index]


@contextmanager
@torch.no_grad()
def ablated(
    model: Transformer, components: Sequence[Component], means: Means | None = None
) -> Iterator[None]:
    """Inside, the output of every component is its mean, or zero where no means are given.
    UserError: a component that the model does not have."""
    found = {component: _columns(model, component) for component in components}
    layers = {layer: (layer.weight.clone(), layer.bias) for layer, _ in found.values()}
    try:
        for component, (layer, columns) in found.items():
            if means is not None:
                constant = columns @ means.of(component).to(columns)
                constant = constant if layer.bias is None else layer.bias + constant
                layer.bias = nn.Parameter(constant, requires_grad=False)
            columns.zero_()
        yield
    finally:
        for layer, (weight, bias) in layers.items():
            layer.weight.copy_(weight)
            layer.bias = bias


def _columns(model: Transformer, component: Component) -> tuple[nn.Linear, Tensor]:
    """The layer that a component writes with, and its columns of the layer's weight, as a view."""
    component.check(model)
    head, block = component.kind == "head", model.blocks[component.layer]
    layer, width = (block.attention.out, model.config.head_width) if head else (block.mlp.down, 1)
    return layer, layer.weight.narrow(1, component.index * width, width)
