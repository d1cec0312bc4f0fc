"""Intervals against published values, an independent derivation, and their coverage."""

import math

import numpy as np
import pytest

from minislm.reporting.intervals import bootstrap, of_mean, of_rates, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (7, 10, 0.3968, 0.8922),
        (15, 20, 0.5313, 0.8881),
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_gives_published_intervals(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=6e-5)


def test_wilson_ends_solve_the_score_equation():
    """Each end p is as far from the observed rate as 1.96 standard errors at p."""
    for successes, trials in ((7, 10), (1, 29), (50, 200)):
        for p in wilson(successes, trials):
            distance = abs(successes / trials - p)
            assert distance == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / trials), rel=1e-6)


def test_wilson_contains_the_rate_exactly():
    for trials in range(1, 300):
        assert wilson(0, trials)[0] == 0.0 and wilson(trials, trials)[1] == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 4), (3, 0)])
def test_wilson_refuses_what_is_not_a_rate(successes, trials):
    with pytest.raises(ValueError, match="is not a rate"):
        wilson(successes, trials)


def test_student_intervals_of_a_textbook():
    assert of_mean([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 2.4843, 2 + 2.4843), abs=1e-3)
    two = of_mean([0.0, 2.0])  # mean 1, standard error 1, one degree of freedom
    assert two == pytest.approx((1, 1 - 12.706, 1 + 12.706), abs=1e-3)
    ten = of_mean([float(n) for n in range(1, 11)])  # standard deviation 3.0277, t = 2.262
    assert ten == pytest.approx((5.5, 3.3341, 7.6659), abs=1e-3)


def test_the_interval_of_one_value_is_unbounded():
    assert of_mean([3.0]) == (3.0, -math.inf, math.inf)


def test_student_quantiles_by_simulation():
    """Of 20,000 samples 95 % cover the mean; a deviation of 1 % has probability below 1e-9."""
    rng = np.random.default_rng(0)
    for n in (4, 21):
        covered = [low <= 0 <= high for _, low, high in map(of_mean, rng.normal(size=(20000, n)))]
        assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


def test_the_interval_of_rates_covers_questions_and_seeds():
    mean, low, high = of_rates([0, 0, 0], [30, 30, 30])  # seeds agree: Wilson's is the wider
    assert mean == 0 and (low, high) == wilson(0, 90)
    assert of_rates([0, 30], [30, 30]) == (0.5, 0.0, 1.0)  # seeds do not: Student's, cut to [0, 1]
    assert of_rates([7], [10]) == (0.7, *wilson(7, 10))  # one seed: Wilson's
    mean, low, high = of_rates([14, 15, 16], [30, 30, 30])
    assert low == min(wilson(45, 90)[0], of_mean([14 / 30, 0.5, 16 / 30])[1])
    with pytest.raises(ValueError):
        of_rates([1, 2], [3])


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
