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


def curriculum(progress, model=None, **options):
    shared = dict(context=9000, batch_tokens=1024, eot_id=TOKENIZER.eot_id, seed=3)
    return Curriculum(
        EXAMPLES, model or random_model(), part=0.5, progress=progress, **shared | options
    )


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
    assert not torch.equal(next(iter(curriculum(lambda: 0.7)))[0],
                           next(iter(curriculum(lambda: 0.7, rank=1)))[0])  # fmt: skip


@pytest.mark.parametrize("done, ramp", [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_attention_sharpens_over_the_first_half(done, ramp):
    model = random_model(**PRESETS["unary"] | {"context": 64, "run_tokens": (1,)})
    plain = random_model()
    for each in (model, plain):
        next(iter(curriculum(lambda: done, each)))
    for block in model.blocks:
        assert block.attention.null_cosine == pytest.approx(0.7 * ramp)
        assert block.attention.scale == pytest.approx(18 * (1 + 2 * ramp) / 3)
    assert plain.blocks[0].attention.null_cosine is None
    assert plain.blocks[0].attention.scale == 16**-0.5


def test_tokens_that_are_certain_do_not_dilute_the_loss():
    """Beside cross-entropy summed by hand; the gradient beside that of the sum."""
    model = random_model(vocab_size=257)
    with torch.no_grad():
        model.embedding.weight.mul_(30)  # tied: the most likely tokens are nearly certain
    batches = curriculum(lambda: 1.0, model)
    inputs = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    targets = model(inputs).argmax(-1)
    targets[0, :5] = torch.tensor([-100, 40, batches.eot_id, 41, -100])  # these three are not

    log = model(inputs).log_softmax(-1)[0]
    losses = torch.stack([-log[t, targets[0, t]] for t in (1, 2, 3, 5, 6, 7)])
    hard = int((losses > 0.01).sum())
    assert 3 <= hard < 6
    (losses.sum() / hard).backward()
    expected = model.embedding.weight.grad.clone()

    model.zero_grad()
    loss = batches.loss_and_grad(model, inputs, targets, torch.float32, 99)
    assert torch.allclose(loss, losses.sum() / hard)
    assert torch.allclose(model.embedding.weight.grad, expected, rtol=1e-4, atol=1e-6)

    with torch.no_grad():
        model.embedding.weight.mul_(30)
    certain = model(inputs).argmax(-1)
    loss = batches.loss_and_grad(model, inputs, certain, torch.float32, 99)
    assert 0 <= loss < 0.08  # none is above 0.01: the sum
