"""From logits to tokens: every setting against its plain definition and against transformers'."""

from collections import Counter

import pytest
import torch
from helpers import random_model

from minislm import sampling as choice
from minislm.fast import topk as selection
from minislm.sampler import Sampler
from minislm.sampling import Choice, draw, draw_of_many, likeliest, likeliest_k, penalize

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


@pytest.fixture
def selects(monkeypatch):
    """The k likeliest are found as in compiled steps of many rows."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(selection, "pays", lambda *anything: True)


def reference(logits, temperature, top_k=0, top_p=1.0, min_p=0.0):
    """The distribution each setting stands for, the slow way: a dict of token -> probability."""
    p = torch.softmax(logits.double() / temperature, -1).tolist()
    ranked = sorted(range(len(p)), key=lambda i: -p[i])[: top_k or None]
    total, kept, mass = sum(p[i] for i in ranked), [], 0.0
    for i in ranked:
        if mass >= top_p or p[i] < min_p * p[ranked[0]]:
            break
        kept.append(i)
        mass += p[i] / total
    return {i: p[i] / sum(p[j] for j in kept) for i in kept}


def assert_drawn_from(expected, drawn, n):
    """The chi-square test: n draws, counted, could well be from the expected probabilities."""
    assert set(drawn) <= set(expected)
    common = {i: p for i, p in expected.items() if n * p >= 5}  # else the test does not hold
    chi2 = sum((drawn[i] - n * p) ** 2 / (n * p) for i, p in common.items())
    freedom = len(common) - 1
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5  # five standard deviations


@pytest.mark.parametrize("vocabulary", [40, 320])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_frequencies_follow_the_softmax(settings, vocabulary):
    """Chi-square on 200,000 draws; with a fixed seed it cannot fail by chance."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(7)) * 1.5
    n, expected = 200_000, reference(logits, **settings)
    u = torch.rand(n, generator=torch.Generator().manual_seed(8))
    drawn = Counter()
    for part in u.split(20_000):
        drawn.update(Choice(**settings)(logits.expand(len(part), -1), part).tolist())
    assert_drawn_from(expected, drawn, n)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_the_sampler_says_pairs_of_tokens_as_often_as_it_should(settings, penalty):
    """Two tokens after one prompt, with thousands of seeds: every step has its own random number,
    independent of the step before, and the penalty is over prompt and answer."""
    model, prompt, n = random_model(vocab_size=12), [3, 7, 7], 6_000

    def following(ids):
        logits = model(torch.tensor([ids]))[0, -1]
        for seen in set(ids):
            logits[seen] *= penalty if logits[seen] < 0 else 1 / penalty
        return reference(logits, **settings)

    expected = {
        (first, second): p * q
        for first, p in following(prompt).items()
        for second, q in following(prompt + [first]).items()
    }
    pairs = Sampler(model, batch_size=1_000).generate_ids(
        [prompt] * n, seeds=range(n), max_new_tokens=2, repetition_penalty=penalty, **settings
    )
    assert_drawn_from(expected, Counter(map(tuple, pairs)), n)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_filters_are_those_of_transformers(settings):
    from transformers.generation import logits_process as theirs

    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(1)) * 3
    warped = theirs.TemperatureLogitsWarper(settings["temperature"])(None, logits.clone())
    if "top_k" in settings:
        warped = theirs.TopKLogitsWarper(settings["top_k"])(None, warped)
    if "top_p" in settings:
        warped = theirs.TopPLogitsWarper(settings["top_p"])(None, warped)
    if "min_p" in settings:
        warped = theirs.MinPLogitsWarper(settings["min_p"])(None, warped)
    p_Bk, ids_Bk = Choice(**settings).probabilities(logits)
    found = p_Bk if ids_Bk is None else torch.zeros_like(logits).scatter(1, ids_Bk, p_Bk)
    found = found / found.sum(-1, keepdim=True)
    torch.testing.assert_close(found, warped.softmax(-1), atol=1e-5, rtol=1e-4)


def test_the_penalty_is_that_of_transformers():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 50, generator=generator)
    before = torch.randint(0, 50, (3, 20), generator=generator)
    seen = torch.zeros(3, 50, dtype=torch.bool).scatter(1, before, True)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(before, logits.clone())
    assert torch.equal(penalize(logits, seen, 1.3), expected)


@pytest.mark.parametrize("rows", [9, 70])
@pytest.mark.parametrize("vocabulary", [7, 64, 100, 4096, 5003])
def test_two_levels_find_what_one_finds(vocabulary, rows):
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(3))
    assert torch.equal(likeliest(logits), logits.argmax(-1))
    for k in {1, min(50, vocabulary)}:
        values, places = likeliest_k(logits, k)
        assert torch.equal(values, logits.topk(k).values)
        assert torch.equal(places, logits.topk(k).indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # many are equal in bfloat16
@pytest.mark.parametrize("vocabulary, k", [(7, 6), (64, 64), (4096, 50), (5003, 700), (70_000, 9)])
def test_the_k_largest_in_compiled_steps_are_those_of_the_library(vocabulary, k, dtype, selects):
    logits = torch.randn(9, vocabulary, generator=torch.Generator().manual_seed(3)).to(dtype)
    logits[0], logits[1, 3:], logits[2, ::2] = 1.5, -torch.inf, -0.0
    before = logits.clone()
    for values, places in (
        likeliest_k(logits, k),
        selection.topk(logits, torch.arange(vocabulary).expand(9, -1), k, below=vocabulary),
    ):
        assert torch.equal(values.to(dtype), logits.topk(k).values)
        assert torch.equal(values.to(dtype), logits.gather(1, places))
        assert all(len(set(row)) == k for row in places.tolist())
    assert torch.equal(places[0], torch.arange(k))  # of equal ones the first
    assert torch.equal(logits, before)


def test_compiled_steps_of_many_rows_select_where_a_trial_finds_it_faster(monkeypatch):
    def never(*anything):
        raise AssertionError("few rows need no trial")

    monkeypatch.setattr(selection, "best_seconds", never)
    assert not selection.pays(5, 512, 50)
    for ours, theirs in ((2.0, 1.0), (1.0, 2.0)):
        selection._sooner.cache_clear()
        seconds = iter((ours, theirs))
        monkeypatch.setattr(selection, "best_seconds", lambda work, repeats: next(seconds))
        assert selection.pays(64, 512, 50) is selection.pays(64, 512, 50) is (ours < theirs)
    selection._sooner.cache_clear()


def test_a_draw_in_two_levels_follows_every_border():
    """Between the borders of the cumulative sum, in its own order, lies exactly one token."""
    p = torch.rand(1, 640, generator=torch.Generator().manual_seed(4))
    p[p < 0.5] = 0.0
    u = torch.linspace(0, 1 - 2**-24, 40_001)
    drawn = draw_of_many(p.expand(len(u), -1), u)
    order = p.view(64, 10).t().flatten()  # column after column
    place = torch.arange(640).view(64, 10).t().flatten()
    plain = place[draw(order.double().expand(len(u), -1), u.double())]
    assert (p[0, drawn] > 0).all()
    assert (drawn == plain).float().mean() > 0.999  # all but those on a border


def test_rows_with_disjoint_favourites_keep_their_own():
    logits = torch.zeros(2, 10)
    logits[0, :2], logits[1, 8:] = 9.0, 9.0
    chosen = Choice(1.0, top_k=2)(logits, torch.tensor([0.3, 0.9]))
    assert chosen[0] in (0, 1) and chosen[1] in (8, 9)


@pytest.mark.parametrize("rows", [3, 90])
@pytest.mark.parametrize("extra", [{}, {"top_k": 10}, {"top_p": 0.99}, {"min_p": 0.5}])
def test_the_ends_of_the_unit_interval_pick_no_impossible_token(extra, rows):
    logits = torch.full((rows, 500), -torch.inf)
    logits[:, 20:23] = 0.0
    chosen = Choice(1.0, **extra)(logits, torch.tensor([0.0, 0.5, 1 - 2**-24] * (rows // 3)))
    assert set(chosen.tolist()) <= {20, 21, 22}


def test_exactly_k_stay_where_logits_are_equal():
    p, ids = Choice(1.0, top_k=4).probabilities(torch.zeros(1, 30))
    assert p.shape == ids.shape == (1, 4)
    assert len(set(likeliest_k(torch.zeros(1, 4096), 50)[1][0].tolist())) == 50


def test_gpt2s_vocabulary_is_looked_at_without_a_copy():
    logits = torch.zeros(1, 50_257)
    for about in (choice._ROWS, choice._ROWS_OF_TOP):
        assert choice._in_rows(logits, about, 0.0).data_ptr() == logits.data_ptr()
