"""95 % confidence intervals of rates and means."""

import math
from collections.abc import Callable, Sequence

import numpy as np

_Z = 1.959963984540054  # the 0.975 quantile of the normal distribution


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The score interval of a rate, from independent trials (Wilson 1927, equation 4).
    ValueError: no trials, or more successes than trials."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is not a rate")
    rate, z2 = successes / trials, _Z**2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # The interval contains the rate; of 0 or 1, its end is the rate itself but for rounding.
    return max(0.0, min(middle - half, rate)), min(1.0, max(middle + half, rate))


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """The exact interval of a rate (Clopper & Pearson 1934): with its low end, so many successes or
    more have a probability of 2.5 %; with its high end, so many or fewer.
    ValueError: no trials, or more successes than trials."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is not a rate")
    low = _rate_where(lambda p: at_least(successes, trials, p) < 0.025) if successes else 0.0
    rest = trials - successes
    high = 1 - _rate_where(lambda p: at_least(rest, trials, p) < 0.025) if rest else 1.0
    return low, high


def at_least(successes: int, trials: int, rate: float) -> float:
    """The probability of so many successes or more."""
    return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k)
               for k in range(successes, trials + 1))  # fmt: skip


def _rate_where(below: Callable[[float], bool]) -> float:
    """The rate up to which a condition holds, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def bootstrap_difference(
    a: Sequence[float], b: Sequence[float], resamples: int = 5000, seed: int = 0
) -> tuple[float, float, float]:
    """The difference of the means of two groups of seeds, and its bootstrap interval."""
    rng = np.random.default_rng(seed)
    means = [rng.choice(np.asarray(x, float), (resamples, len(x))).mean(1) for x in (a, b)]
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    return float(np.mean(a) - np.mean(b)), float(low), float(high)


def bootstrap(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean, from so many resamples (Efron 1979)."""
    chosen = np.random.default_rng(seed).choice(np.asarray(values, float), (resamples, len(values)))
    return tuple(np.quantile(chosen.mean(1), (0.025, 0.975)).tolist())
