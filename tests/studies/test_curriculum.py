"""Batches that grow from short pairs to long ones, and what they do to attention."""

import numpy as np
import pytest
import torch
from helpers import random_model

from minislm.config import PRESETS
from minislm.studies.curriculum import Curriculum
from minislm.tasks import encode_pair, pairs
from minislm.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train([], 257)
EXAMPLES = [encode_pair(TOKENIZER, pair) for pair in pairs("unary", "train")[::-1]]


def curriculum(progress, models=(), **options):
    shared = dict(context=9000, batch_tokens=1024, eot_id=TOKENIZER.eot_id, seed=3)
    return Curriculum(EXAMPLES, models, part=0.5, progress=progress, **shared | options)


def lengths(done: float, count: int = 200) -> set[int]:
    stream = iter(curriculum(lambda: done))
    return {int((row >= 0).sum()) for _ in range(count) for row in next(stream)[1]}


def test_it_begins_with_the_shortest_pairs_and_ends_with_all():
    own = sorted(len(completion) for _, completion in EXAMPLES)
    assert lengths(0.0) == set(own[:6])
    assert max(lengths(0.25)) == own[round(6 + 64 * 0.5) - 1]
    assert lengths(0.5, 2000) == lengths(1.0, 2000) == set(own)


def test_a_batch_has_pairs_of_similar_length_and_at_most_so_many_tokens():
    stream = iter(curriculum(lambda: 1.0))
    for _ in range(200):
        inputs, targets = next(stream)
        assert len(inputs) == 1 or inputs.numel() <= 1024 * 1.6  # neighbours may be longer
        sizes = [int((row >= 0).sum()) for row in targets]
        numbers = [np.sqrt(2 * size) for size in sizes]  # an answer has about i^2 / 2 tokens
        assert max(numbers) - min(numbers) < 12
        assert (targets[:, :50] == -100).all()  # the prompt has no loss


def test_a_stream_continues_from_its_state():
    one, other = curriculum(lambda: 0.7), curriculum(lambda: 0.7)
    stream = iter(one)
    for _ in range(5):
        next(stream)
    other.state = dict(one.state)
    for a, b in zip(next(stream), next(iter(other)), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(iter(curriculum(lambda: 0.7)))[0],
                           next(iter(curriculum(lambda: 0.7, seed=4)))[0])  # fmt: skip


@pytest.mark.parametrize("done, ramp", [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_attention_sharpens_over_the_first_half(done, ramp):
    model = random_model(**PRESETS["unary"] | {"context": 64, "run_tokens": (1,)})
    plain = random_model()
    next(iter(curriculum(lambda: done, models=(model, plain))))
    for block in model.blocks:
        assert block.attention.null_cosine == pytest.approx(0.7 * ramp)
        assert block.attention.scale == pytest.approx(18 * (1 + 2 * ramp) / 3)
    assert plain.blocks[0].attention.null_cosine is None
    assert plain.blocks[0].attention.scale == 16**-0.5
