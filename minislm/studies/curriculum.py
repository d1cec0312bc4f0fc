"""Batches of pairs that grow: short answers first, as in curriculum learning (Bengio et al. 2009).
A pair of unary counting has up to 5,300 tokens, and short ones show most of the same rule."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
from torch import Tensor

from minislm.dataset import Batches, TokenDataset
from minislm.model import Block, Transformer

_FIRST, _POWER, _NEAR = 6, 0.7, 3
_RAMP = 0.5  # fraction of training


class Curriculum(Batches):
    """Batches of pairs of similar length, from the shortest 6 on; see `Batches`. The number in use
    grows linearly over the fraction `part` of training, of which `progress` returns how much is
    done. The nth shortest is sampled with a probability proportional to n^-0.7.
    models: those that are trained. Over the first half the null key's cosine rises from 0 and the
    scale of attention from a third: with random weights no key is similar enough to learn from."""

    def __init__(
        self, examples: Sequence[tuple[list[int], list[int]]], models: Sequence[Transformer], *,
        part: float, progress: Callable[[], float], **options,
    ):  # fmt: skip
        super().__init__(TokenDataset.from_ids([]), examples, **options)
        self.models, self.part, self.progress = models, part, progress
        self.order = np.argsort(self.length, kind="stable")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rng = np.random.default_rng([self.seed, self.state["batch"]])
            self.state["batch"] += 1
            done = self.progress()
            self._sharpen_attention(min(1.0, done / _RAMP))
            n = len(self.order)
            in_use = min(n, round(_FIRST + (n - _FIRST) * done / self.part))
            weights = np.arange(1, in_use + 1) ** -_POWER
            middle = rng.choice(in_use, p=weights / weights.sum())
            near = self.order[max(0, middle - _NEAR) : min(in_use, middle + _NEAR + 1)]
            count = self.batch_tokens // self._padded(int(self.length[self.order[middle]]))
            others = rng.choice(near, max(1, count) - 1)
            yield self._collate(np.array([self.order[middle], *others]))

    def _sharpen_attention(self, ramp: float) -> None:
        for model in self.models:
            for attention in (cast(Block, block).attention for block in model.blocks):
                if model.config.qk_scale:
                    attention.scale = model.config.qk_scale * (1 + 2 * ramp) / 3
                if model.config.null_cosine:
                    attention.null_cosine = model.config.null_cosine * ramp
