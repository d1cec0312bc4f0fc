"""From logits to tokens: every setting against its definition and against transformers.

The plain token sampler and the one of the fast engines go through the same tests.
"""

from collections import Counter

import pytest
import torch
from helpers import random_model

from minislm.fast.sampler import FastSampler
from minislm.fast.topk import FastTokenSampler
from minislm.sampler import Sampler
from minislm.sampling import TokenSampler, penalize

SETTINGS = [
    dict(temperature=1.0),
    dict(temperature=0.5),
    dict(temperature=1.0, top_k=5),
    dict(temperature=1.0, top_p=0.6),
    dict(temperature=1.0, min_p=0.2),
    dict(temperature=1.5, top_k=12, min_p=0.1),
    dict(temperature=2.0, top_k=9, top_p=0.8),
    dict(temperature=0.7, top_k=20, top_p=0.9, min_p=0.05),
]
both = pytest.mark.parametrize("kind", [TokenSampler, FastTokenSampler], ids=["plain", "fast"])


def reference(logits, temperature, top_k=0, top_p=1.0, min_p=0.0):
    """The distribution of each setting by its definition: a dict of token -> probability."""
    p = torch.softmax(logits.double() / temperature, -1).tolist()
    ranked = sorted(range(len(p)), key=lambda i: -p[i])[: top_k or None]
    total, kept, cumulative = sum(p[i] for i in ranked), [], 0.0
    for i in ranked:
        if cumulative >= top_p or p[i] < min_p * p[ranked[0]]:
            break
        kept.append(i)
        cumulative += p[i] / total
    return {i: p[i] / sum(p[j] for j in kept) for i in kept}


def assert_sampled_from(expected, counts, n):
    """Chi-square test: n samples could well be from the expected probabilities."""
    assert set(counts) <= set(expected)
    common = {i: p for i, p in expected.items() if n * p >= 5}  # else the test does not hold
    chi2 = sum((counts[i] - n * p) ** 2 / (n * p) for i, p in common.items())
    freedom = len(common) - 1
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5  # five standard deviations


@both
@pytest.mark.parametrize("vocabulary, n", [(40, 200_000), (2000, 15_000)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_frequencies_follow_the_softmax(kind, settings, vocabulary, n):
    """Chi-square on n samples; with a fixed seed it cannot fail by chance."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(7)) * 1.5
    expected = reference(logits, **settings)
    u = torch.rand(n, generator=torch.Generator().manual_seed(8))
    counts = Counter()
    for part in u.split(10_000):
        counts.update(kind(**settings)(logits.expand(len(part), -1), part).tolist())
    assert_sampled_from(expected, counts, n)


@pytest.mark.parametrize("sampler", [Sampler, FastSampler])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("settings", SETTINGS[2:8:5], ids=str)
@torch.no_grad()
def test_pairs_of_tokens_have_their_joint_probability(settings, penalty, sampler):
    """Two tokens after one prompt, with thousands of seeds: every step has its own random number,
    independent of the step before, and the penalty is over prompt and continuation."""
    model, prompt, n = random_model(vocab_size=12), [3, 7, 7], 3_000

    def following(ids):
        logits = model(torch.tensor([ids]))[0, -1]
        for seen in set(ids):
            logits[seen] *= penalty if logits[seen] < 0 else 1 / penalty
        return reference(logits, **settings)

    expected = {
        (first, second): p * q
        for first, p in following(prompt).items()
        for second, q in following([*prompt, first]).items()
    }
    pairs = sampler(model, batch_size=1_000).generate_ids(
        [prompt] * n, seeds=range(n), max_new_tokens=2, repetition_penalty=penalty, **settings
    )
    assert_sampled_from(expected, Counter(map(tuple, pairs)), n)


@both
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_filters_are_those_of_transformers(kind, settings):
    from transformers.generation import logits_process as theirs

    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(1)) * 3
    warped = theirs.TemperatureLogitsWarper(settings["temperature"])(None, logits.clone())
    if "top_k" in settings:
        warped = theirs.TopKLogitsWarper(settings["top_k"])(None, warped)
    if "top_p" in settings:
        warped = theirs.TopPLogitsWarper(settings["top_p"])(None, warped)
    if "min_p" in settings:
        warped = theirs.MinPLogitsWarper(settings["min_p"])(None, warped)
    u = (torch.arange(20_000) + 0.5) / 20_000  # evenly spread: frequencies are probabilities
    tokens = kind(**settings)(logits.expand(len(u), -1), u)
    found = torch.bincount(tokens, minlength=500) / len(u)
    torch.testing.assert_close(found, warped.softmax(-1)[0], atol=1e-4, rtol=0)


def test_the_penalty_is_that_of_transformers():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 50, generator=generator)
    before = torch.randint(0, 50, (3, 20), generator=generator)
    seen = torch.zeros(3, 50, dtype=torch.bool).scatter(1, before, True)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(before, logits.clone())
    assert torch.equal(penalize(logits, seen, 1.3), expected)


@pytest.mark.parametrize("rows", [3, 90])
@pytest.mark.parametrize("vocabulary", [300, 4096, 5003])
@pytest.mark.parametrize("settings", [dict(temperature=0.0), *SETTINGS], ids=str)
def test_the_fast_token_sampler_gives_the_tokens_of_the_plain_one(settings, vocabulary, rows):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(rows, vocabulary, generator=generator) * 2
    u = torch.rand(rows, generator=generator)
    plain, fast = (kind(**settings)(logits, u) for kind in (TokenSampler, FastTokenSampler))
    assert torch.equal(plain, fast)


@both
def test_a_uniform_number_finds_the_token_between_its_borders(kind):
    """Between two borders of the cumulative sum lies exactly one token."""
    p = torch.rand(1, 4096, generator=torch.Generator().manual_seed(4))
    p[p < 0.5] = 0.0
    u = torch.linspace(0, 1 - 2**-24, 40_001)
    tokens = torch.cat([kind(1.0).inverse_cdf(p.expand(len(x), -1), x) for x in u.split(5_000)])
    cdf = p[0].double().cumsum(0)
    exact = torch.searchsorted(cdf, u.double() * cdf[-1], right=True).clamp(max=4095)
    assert (p[0, tokens] > 0).all()
    assert (tokens == exact).float().mean() > 0.98  # all but those at a border


@both
def test_rows_with_disjoint_distributions_keep_their_own(kind):
    logits = torch.zeros(2, 10)
    logits[0, :2], logits[1, 8:] = 9.0, 9.0
    tokens = kind(1.0, top_k=2)(logits, torch.tensor([0.3, 0.9]))
    assert tokens[0] in (0, 1) and tokens[1] in (8, 9)


@both
@pytest.mark.parametrize("rows", [3, 90])
@pytest.mark.parametrize("vocabulary", [500, 4096])
@pytest.mark.parametrize("extra", [{}, {"top_k": 10}, {"top_p": 0.99}, {"min_p": 0.5}])
def test_the_ends_of_the_unit_interval_give_no_impossible_token(extra, rows, vocabulary, kind):
    logits = torch.full((rows, vocabulary), -torch.inf)
    logits[:, 20:23] = 0.0
    tokens = kind(1.0, **extra)(logits, torch.tensor([0.0, 0.5, 1 - 2**-24] * (rows // 3)))
    assert set(tokens.tolist()) <= {20, 21, 22}


@both
def test_exactly_k_stay_where_logits_are_equal(kind):
    u = (torch.arange(1000) + 0.5) / 1000
    assert len(set(kind(1.0, top_k=4)(torch.zeros(1000, 30), u).tolist())) == 4
    assert len(set(kind(1.0).largest(torch.zeros(1, 4096), 50)[1][0].tolist())) == 50


@both
def test_limits_are_inclusive_where_probabilities_are_equal(kind):
    """Two tokens of probability 0.5: the first alone is the smallest set of 0.5; both have at least
    1.0 times the highest probability."""
    logits, u = torch.zeros(1, 2), torch.tensor([0.99])
    assert kind(1.0, top_p=0.5)(logits, u).item() == 0
    for u, token in ((0.99, 1), (0.3, 0)):
        for settings in ({"min_p": 1.0}, {"min_p": 1.0, "top_k": 2}):
            assert kind(1.0, **settings)(logits, torch.tensor([u])).item() == token
