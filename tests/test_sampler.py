"""The sampler: against the plain loop, against the softmax, and whatever the neighbours are."""

import random
from collections import Counter

import pytest
import torch
from conftest import random_model

from minislm.config import PRESETS, SampleConfig
from minislm.errors import UserError
from minislm.sampler import Sampler, pick, probabilities

PROMPTS = [
    [random.Random(n).randrange(300) for _ in range(1 + 7 * n % 60)] for n in range(20)
]  # 1 to 57 tokens


def brute_force(model, prompt, n):
    """The uncached loop everybody can check: the whole text again for every token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(prompt) :]


@pytest.mark.parametrize("preset", ["one-block", "gpt2", "gpt-neo"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_is_the_uncached_loop(preset, batch_size):
    model = random_model(**(PRESETS[preset] | {"n_layer": 2}))
    got = Sampler(model, batch_size=batch_size).generate_ids(
        PROMPTS, max_new_tokens=12, temperature=0.0, stop=False
    )
    assert got == [brute_force(model, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("settings", [{}, {"top_k": 20}, {"top_k": 40, "top_p": 0.7}])
def test_a_text_depends_on_its_prompt_and_seed_alone(settings, tokenizer):
    model = random_model()
    options = dict(max_new_tokens=40, temperature=1.0, **settings)
    seeds = list(range(len(PROMPTS)))
    order = random.Random(3).sample(seeds, len(seeds))
    expected = Sampler(model, tokenizer, 1).generate_ids(PROMPTS, seeds=seeds, **options)
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS)
    for batch_size in (3, 64):
        got = Sampler(model, tokenizer, batch_size).generate_ids(
            [PROMPTS[i] for i in order], seeds=[seeds[i] for i in order], **options
        )
        assert got == [expected[i] for i in order]


def test_rows_end_at_the_end_of_text_at_the_limit_and_at_the_context(tokenizer):
    model = random_model()
    eot = tokenizer.eot_id
    ids = Sampler(model, tokenizer, 4).generate_ids(
        PROMPTS, max_new_tokens=400, temperature=1.5, seeds=range(20)
    )
    ended = [new[-1] == eot for new in ids]
    assert any(ended) and not all(ended)
    for prompt, new, end in zip(PROMPTS, ids, ended):
        assert eot not in new[:-1]
        assert end or len(prompt) + len(new) == model.config.context
    on = Sampler(model, tokenizer).generate_ids(
        PROMPTS, max_new_tokens=30, temperature=1.5, stop=False
    )
    assert all(len(new) == 30 for new in on)


SETTINGS = [
    dict(temperature=1.0),
    dict(temperature=0.5),
    dict(temperature=1.0, top_k=5),
    dict(temperature=1.0, top_p=0.6),
    dict(temperature=2.0, top_k=9, top_p=0.8),
]


def reference(logits, temperature, top_k=0, top_p=1.0):
    """The distribution each setting stands for, the slow way: a dict of token -> probability."""
    p = torch.softmax(logits.double() / temperature, -1).tolist()
    ranked = sorted(range(len(p)), key=lambda i: -p[i])[: top_k or None]
    total, kept, mass = sum(p[i] for i in ranked), [], 0.0
    for i in ranked:
        if mass >= top_p:
            break
        kept.append(i)
        mass += p[i] / total
    return {i: p[i] / sum(p[j] for j in kept) for i in kept}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_frequencies_follow_the_softmax(settings):
    """Chi-square on 200,000 draws; with a fixed seed it cannot fail by chance."""
    logits = torch.randn(40, generator=torch.Generator().manual_seed(7)) * 1.5
    n = 200_000
    u = torch.rand(n, generator=torch.Generator().manual_seed(8))
    drawn = Counter(pick(logits.expand(n, -1), u, SampleConfig(**settings)).tolist())
    expected = reference(logits, **settings)
    assert set(drawn) <= set(expected)
    chi2 = sum((drawn[i] - n * p) ** 2 / (n * p) for i, p in expected.items())
    freedom = len(expected) - 1
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5  # five standard deviations


def test_rows_with_disjoint_favourites_keep_their_own():
    logits = torch.zeros(2, 10)
    logits[0, :2], logits[1, 8:] = 9.0, 9.0
    chosen = pick(logits, torch.tensor([0.3, 0.9]), SampleConfig(temperature=1.0, top_k=2))
    assert chosen[0] in (0, 1) and chosen[1] in (8, 9)


def test_the_ends_of_the_unit_interval_pick_no_impossible_token():
    logits = torch.full((3, 50), -torch.inf)
    logits[:, 20:23] = 0.0
    u = torch.tensor([0.0, 0.5, 1 - 2**-24])
    for extra in ({}, {"top_k": 10}, {"top_p": 0.99}):
        chosen = pick(logits, u, SampleConfig(temperature=1.0, **extra))
        assert set(chosen.tolist()) <= {20, 21, 22}


def test_exactly_k_stay_where_logits_are_equal():
    p, ids = probabilities(torch.zeros(1, 30), SampleConfig(temperature=1.0, top_k=4))
    assert p.shape == ids.shape == (1, 4)


def test_streamed_text_is_the_generated_text(tokenizer):
    sampler = Sampler(random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    options = dict(max_new_tokens=60, temperature=1.0, seed=4)
    assert "".join(sampler.stream("Once", **options)) == sampler.generate(["Once"], **options)[0]


def test_the_model_is_left_in_eval_mode_and_without_gradients(tokenizer):
    model = random_model(dropout=0.3).train()
    ids = [Sampler(model).generate_ids([[1, 2]], temperature=0.0, max_new_tokens=9) for _ in "ab"]
    assert ids[0] == ids[1] and not model.training
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    "prompt, message", [([1] * 128, "context is 128"), ([], "empty"), ([300], "vocabulary of 300")]
)
def test_a_prompt_that_cannot_be_read_is_refused(prompt, message):
    with pytest.raises(UserError, match=message):
        Sampler(random_model()).generate_ids([[1, 2], prompt])


@pytest.mark.parametrize(
    "setting", [dict(max_new_tokens=0), dict(temperature=-1), dict(top_p=0), dict(top_k=-2)]
)
def test_a_setting_that_makes_no_sense_is_refused(setting):
    with pytest.raises(UserError, match="--"):
        SampleConfig(**setting)
