"""Switching heads and neurons off, to see what they are for.

A head writes into the residual stream through its own columns of the attention's output matrix, a
neuron through its column of the MLP's second one. With these columns at zero it is as if it were
not there, in the loss and in the sampler alike; afterwards they are put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from minislm.model import Transformer
from minislm.runtime.errors import UserError


@dataclass(frozen=True)
class Part:
    """A head or a neuron of a block."""

    kind: str  # "head" or "neuron"
    layer: int
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.layer}.{self.number}"


def parse(text: str) -> list[Part]:
    """The parts of "head:0.3,neuron:1.117" (block, then number; both count from 0).

    Raises:
        UserError: another form.
    """
    parts = []
    for each in text.split(","):
        kind, _, place = each.strip().partition(":")
        layer, _, number = place.partition(".")
        if kind not in ("head", "neuron") or not (layer.isdigit() and number.isdigit()):
            raise UserError(f"--off takes head:BLOCK.HEAD and neuron:BLOCK.NEURON, not {each!r}")
        parts.append(Part(kind, int(layer), int(number)))
    return parts


def heads(model: Transformer) -> list[Part]:
    """All heads of a model."""
    c = model.config
    return [Part("head", layer, h) for layer in range(c.n_layer) for h in range(c.n_head)]


@contextmanager
def ablated(model: Transformer, parts: Sequence[Part]) -> Iterator[None]:
    """Inside, `parts` write nothing; the output's bias, which belongs to no head, stays.

    Raises:
        UserError: a part that the model has not.
    """
    columns = [_columns(model, part) for part in parts]
    kept = [column.clone() for column in columns]
    with torch.no_grad():
        for column in columns:
            column.zero_()
        try:
            yield
        finally:
            for column, values in zip(columns, kept):
                column.copy_(values)


def _columns(model: Transformer, part: Part) -> Tensor:
    c = model.config
    most = c.n_head if part.kind == "head" else c.mlp_hidden
    if part.layer >= c.n_layer or part.number >= most:
        raise UserError(
            f"{part}: the model has blocks 0 to {c.n_layer - 1} with {part.kind}s 0 to {most - 1}"
        )
    block = model.blocks[part.layer]
    if part.kind == "neuron":
        return block.mlp.down.weight[:, part.number]
    begin = part.number * c.head_width
    return block.attention.out.weight[:, begin : begin + c.head_width]
