"""Batches of pairs that grow: short answers first, as in curriculum learning (Bengio et al. 2009).
A pair of unary counting has up to 5,300 tokens, and short ones show most of the same rule."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minislm.dataset import IGNORED, Batches, TokenDataset
from minislm.model import Block, Transformer

_FIRST, _POWER, _NEAR = 6, 0.5, 3
_RAMP = 0.5  # fraction of training
_LEARNED = 0.01  # nats


class Curriculum(Batches):
    """Batches of pairs of similar length, from the shortest 6 on; see `Batches`. The number in use
    grows linearly over the fraction `part` of training, of which `progress` returns how much is
    done. The nth shortest is sampled with a probability proportional to n^-0.5.
    model: the one that is trained. Over the first half its null key's cosine rises from 0 and its
    scale of attention from a third: with random weights no key is similar enough to learn from."""

    def __init__(
        self, examples: Sequence[tuple[list[int], list[int]]], model: Transformer, *,
        part: float, progress: Callable[[], float], **options,
    ):  # fmt: skip
        super().__init__(TokenDataset.from_ids([]), examples, **options)
        self.model, self.part, self.progress = model, part, progress
        self.order = np.argsort(self.length, kind="stable")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rng = np.random.default_rng([self.seed, self.state["batch"], self.rank])
            self.state["batch"] += 1
            done = self.progress()
            sharpen_attention(self.model, min(1.0, done / _RAMP))
            n = len(self.order)
            in_use = min(n, round(_FIRST + (n - _FIRST) * done / self.part))
            weights = np.arange(1, in_use + 1) ** -_POWER
            middle = rng.choice(in_use, p=weights / weights.sum())
            near = self.order[max(0, middle - _NEAR) : min(in_use, middle + _NEAR + 1)]
            count = self.batch_tokens // self._padded(int(self.length[self.order[middle]]))
            others = rng.choice(near, max(1, count) - 1)
            yield self._collate(np.array([self.order[middle], *others]))

    def loss_and_grad(
        self, model: Transformer, inputs_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype,
        count: int,
    ) -> Tensor:  # fmt: skip
        """As `training.loss_and_grad`, but the sum is divided by the number of targets that are not
        yet learned (above 0.01 nats): most of the thousands of tokens of an answer are certain, and
        in their mean the few that decide where it stops would vanish."""
        counted = targets_BT != IGNORED
        logits_NV, targets_N = model(inputs_BT)[counted], targets_BT[counted]
        losses_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
        loss = losses_N.sum() / max(1, int((losses_N > _LEARNED).sum()))
        loss.backward()
        return loss.detach()


def sharpen_attention(model: Transformer, ramp: float) -> None:
    """Set scale and null key to this part of the way from the first values to the model's."""
    for attention in (cast(Block, block).attention for block in model.blocks):
        if model.config.qk_scale:
            attention.scale = model.config.qk_scale * (1 + 2 * ramp) / 3
        if model.config.null_cosine:
            attention.null_cosine = model.config.null_cosine * ramp
