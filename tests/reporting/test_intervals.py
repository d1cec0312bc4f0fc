"""Intervals against published values, an independent derivation, and their coverage."""

import math
from itertools import product

import numpy as np
import pytest

from minislm.reporting.intervals import bootstrap, clopper_pearson, rate_difference


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 8, 0.0, 0.3694),  # 1 - 0.025^(1/8)
        (6, 6, 0.5407, 1.0),
        (16, 16, 0.7941, 1.0),
        (81, 263, 0.2527, 0.3676),  # Newcombe (1998), table I, method 5
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_clopper_pearson_gives_published_intervals(successes, trials, low, high):
    assert clopper_pearson(successes, trials) == pytest.approx((low, high), abs=6e-5)
    mirrored = clopper_pearson(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=6e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_clopper_pearson_refuses_what_is_not_a_rate(successes, trials):
    with pytest.raises(ValueError):
        clopper_pearson(successes, trials)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("seeds", [4, 16])
def test_intervals_of_bimodal_seeds_cover_at_least_95_percent(rate, seeds):
    """Seeds that find a rule with this probability, and otherwise answer nothing: 4,000 studies.

    Clopper and Pearson's interval never covers less; that it covers more, up to 99.6 %, follows
    from the few values that a share of 4 or 16 seeds can have.
    """
    solved = np.random.default_rng(0).binomial(seeds, rate, size=4000)
    intervals = [clopper_pearson(n, seeds) for n in range(seeds + 1)]
    covered = np.mean([intervals[n][0] <= rate <= intervals[n][1] for n in solved])
    assert covered > 0.943  # 0.95 less 2 standard errors of 4,000 studies


def test_the_difference_of_two_rates_of_many_trials_is_that_of_the_normal_distribution():
    found = rate_difference((500, 1000), (250, 1000))
    half = 1.96 * (0.25 / 1000 + 0.1875 / 1000) ** 0.5
    assert found == pytest.approx((0.25, 0.25 - half, 0.25 + half), abs=2e-3)
    assert rate_difference((250, 1000), (500, 1000)) == pytest.approx((-0.25, -found[2], -found[1]))
    difference, low, high = rate_difference((16, 16), (0, 16))
    assert difference == 1 and 0.7 < low < 0.8 and high == 1  # as many seeds may have been luck


@pytest.mark.parametrize("seeds", [(4, 16), (4, 4), (16, 16)])
def test_intervals_of_differences_cover_at_least_95_percent(seeds):
    """Exactly: every outcome of both groups of seeds, with its probability."""
    rates = [0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0]
    outcomes = [(i, j) for i in range(seeds[0] + 1) for j in range(seeds[1] + 1)]
    found = {(i, j): rate_difference((i, seeds[0]), (j, seeds[1])) for i, j in outcomes}
    for p, q in product(rates, repeat=2):
        covered = sum(
            binomial(i, seeds[0], p) * binomial(j, seeds[1], q) for i, j in outcomes
            if found[i, j][1] - 1e-9 <= p - q <= found[i, j][2] + 1e-9
        )  # fmt: skip
        assert covered > 0.95, (p, q)


def binomial(k, n, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def test_bootstrap_of_known_samples():
    assert bootstrap([0.5] * 10) == (0.5, 0.5)
    low, high = bootstrap([0.0, 1.0] * 200)
    assert 0.44 < low < 0.46 and 0.54 < high < 0.56  # 0.5 -+ 1.96 * 0.5 / sqrt(400)
    assert bootstrap([1.0, 2.0, 5.0], seed=1) == bootstrap([1.0, 2.0, 5.0], seed=1)
    assert bootstrap(list(range(50)), seed=1) != bootstrap(list(range(50)), seed=2)


def test_bootstrap_coverage():
    """Of 1,000 skewed samples of 50, 90 to 97 % cover the mean.

    The percentile bootstrap covers about 93 % here; leaving the bounds has probability below 1e-4.
    """
    samples = np.random.default_rng(0).exponential(size=(1000, 50))
    covered = [low <= 1 <= high for low, high in (bootstrap(sample, 400) for sample in samples)]
    assert 0.90 < np.mean(covered) < 0.97
