"""95 % confidence intervals of rates and means."""

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054  # the 0.975 quantile of the normal distribution
# The 0.975 quantiles of Student's t for 1, 2, ... degrees of freedom; beyond them _Z is used.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
      2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


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


def of_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and Student's t interval; of one value, (value, -inf, inf)."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, -math.inf, math.inf
    deviation = float(np.std(values, ddof=1))
    half = (_T[n - 2] if n - 2 < len(_T) else _Z) * deviation / math.sqrt(n)
    return mean, mean - half, mean + half


def of_rates(successes: Sequence[int], trials: Sequence[int]) -> tuple[float, float, float]:
    """The mean rate of several runs, one per seed, and its interval.
    Student's interval over the seeds covers the variance of training, but has length 0 where all
    seeds agree. Wilson's over all trials covers that of the questions. This is their hull."""
    rates = [s / n for s, n in zip(successes, trials, strict=True)]
    low, high = wilson(sum(successes), sum(trials))
    if len(rates) > 1:
        _, lowest, highest = of_mean(rates)
        low, high = min(low, lowest), max(high, highest)
    return float(np.mean(rates)), max(0.0, low), min(1.0, high)


def bootstrap(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean, from so many resamples (Efron 1979)."""
    chosen = np.random.default_rng(seed).choice(np.asarray(values, float), (resamples, len(values)))
    return tuple(np.quantile(chosen.mean(1), (0.025, 0.975)).tolist())
