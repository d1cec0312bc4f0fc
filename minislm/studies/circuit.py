"""Which heads of a model that solves unary counting do it, and how: ablation and patching.
Everything is measured with the right answer as input (see `first_errors`). A head is ablated by its
mean output over D_train, or by its outputs in another text (resample ablation; Zhang & Nanda 2024),
and patched by its outputs for another prompt."""

import random
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from minislm.fast.modules import copy_with
from minislm.model import Attention, Transformer
from minislm.studies.learning import first_errors
from minislm.tasks import Pair, encode_pair, pair, pairs
from minislm.tokenizer import Tokenizer

Head = tuple[int, int]  # block, head
Edit = Callable[[int, Tensor], Tensor]  # block, outputs of its heads [B, H, T, D] -> others
_PATCHED = 40  # pairs of prompts


class EditedAttention(Attention):
    """Attention whose heads' outputs are edited."""

    edit: Edit = staticmethod(lambda _, y_BHTD: y_BHTD)

    def attend(self, *inputs: Any) -> Tensor:
        return self.edit(self.layer, super().attend(*inputs))


class Twin:
    """A model whose heads can be edited."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer):
        self.model, self.tokenizer = copy_with(model, {Attention: EditedAttention}), tokenizer
        self.heads = list(product(range(model.config.n_layer), range(model.config.n_head)))

    def edited(self, edit: Edit) -> Transformer:
        """The model with this edit."""
        for block in self.model.blocks:
            block.attention.edit = edit
        return self.model

    @torch.inference_mode()
    def outputs(self, tokens_T: list[int]) -> list[Tensor]:
        """The outputs of all heads by block: [H, T, D]."""
        kept: list[Tensor] = []

        def keep(layer: int, y_BHTD: Tensor) -> Tensor:
            kept.append(y_BHTD[0])
            return y_BHTD

        self.edited(keep)(torch.tensor([tokens_T]))
        return kept

    def right(self, questions: list[Pair], edit: Edit) -> int:
        """How many questions are answered exactly under an edit."""
        return len(questions) - len(first_errors(self.edited(edit), self.tokenizer, questions))


def replace(heads: list[Head], values: list[Tensor], layer: int, y_BHTD: Tensor) -> Tensor:
    """Heads' outputs replaced by values [H, T or 1, D] of their block."""
    y_BHTD = y_BHTD.clone()
    for block, head in heads:
        if block == layer:
            own = values[block][head]  # repeated, if it has too few positions
            y_BHTD[:, head] = own[torch.arange(y_BHTD.shape[2]) % len(own)]
    return y_BHTD


def circuit(model: Transformer, tokenizer: Tokenizer, seed: int) -> dict[str, Any]:
    """Heads that suffice to answer D_train, and what they do, in right answers of D_test.
    In random order, each head is left out if the part of D_train that is looked at (i mod 10 = 5)
    is still answered with the mean of it and of those left out before.
    keep: right answers with the mean of every other head. remove: with these heads resampled.
    remove_one: with one of them resampled. remove_others: with all other heads resampled, if there
    are any. stops: of so many `patched` pairs of prompts i and j, those in which the model, given i
    and these heads' outputs for j, stops exactly at j."""
    twin, rng = Twin(model, tokenizer), random.Random(seed)
    train, test = pairs("unary", "train"), pairs("unary", "test")
    sample = [pair for pair in train if pair.i % 10 == 5]
    texts = [sum(encode_pair(tokenizer, each), [])[:-1] for each in sample]
    by_text = [twin.outputs(text) for text in texts]
    means = [torch.cat([each[b] for each in by_text], 1).mean(1, keepdim=True)
             for b in range(model.config.n_layer)]  # fmt: skip
    other = by_text[-1]  # of the longest text, in another order
    order = torch.randperm(other[0].shape[1], generator=torch.Generator().manual_seed(seed))
    resampled = [each[:, order] for each in other]
    heads = list(twin.heads)
    for head in rng.sample(heads, len(heads)):
        rest = [each for each in twin.heads if each not in heads or each == head]
        if twin.right(sample, partial(replace, rest, means)) == len(sample):
            heads.remove(head)
    rest = [head for head in twin.heads if head not in heads]
    found = {
        "heads": heads, "size": len(heads),
        "keep": twin.right(test, partial(replace, rest, means)),
        "remove": twin.right(test, partial(replace, heads, resampled)),
        "remove_one": twin.right(test, partial(replace, [rng.choice(heads)], resampled)),
    }  # fmt: skip
    if rest:
        found["remove_others"] = twin.right(test, partial(replace, rest, resampled))
    prompts = [[each.i for each in rng.sample(test, 2)] for _ in range(_PATCHED)]
    given = ((j, patched(twin, heads, i, j).argmax(-1).tolist()) for i, j in prompts)
    stops = [tokens == encode_pair(tokenizer, pair("unary", j))[1] for j, tokens in given]
    return found | {"stops": sum(stops), "patched": len(stops)}


@torch.inference_mode()
def patched(twin: Twin, heads: list[Head], i: int, j: int) -> Tensor:
    """The logits [T, V] of the right answer to j, read after the prompt of i, where in the answer
    these heads have the outputs that they have after the prompt of j."""
    (ids_i, _), (ids_j, answer) = (encode_pair(twin.tokenizer, pair("unary", n)) for n in (i, j))
    source = twin.outputs(ids_j + answer[:-1])

    def edit(layer: int, y_BHTD: Tensor) -> Tensor:
        y_BHTD = y_BHTD.clone()
        for block, head in heads:
            if block == layer:
                y_BHTD[0, head, len(ids_i) - 1 :] = source[block][head, len(ids_j) - 1 :]
        return y_BHTD

    return twin.edited(edit)(torch.tensor([ids_i + answer[:-1]]))[0, len(ids_i) - 1 :]
