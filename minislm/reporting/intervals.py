"""95 % confidence intervals of rates and means."""

import math
from collections.abc import Sequence

import numpy as np


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """The exact interval of a rate (Clopper & Pearson 1934): with its low end, so many successes or
    more have a probability of 2.5 %; with its high end, so many or fewer.
    ValueError: no trials, or more successes than trials."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is not a rate")
    ends = []
    for n in (successes, trials - successes):  # the low end, and that of the failures
        low, high = 0.0, 1.0
        for _ in range(50):  # bisection
            middle = (low + high) / 2
            tail = sum(math.comb(trials, k) * middle**k * (1 - middle) ** (trials - k)
                       for k in range(n, trials + 1))  # fmt: skip
            low, high = (middle, high) if tail < 0.025 else (low, middle)
        ends.append(low if n else 0.0)
    return ends[0], 1 - ends[1]


def rate_difference(a: tuple[int, int], b: tuple[int, int]) -> tuple[float, float, float]:
    """The difference of two rates, each (successes, trials), and its interval: that of Newcombe
    (1998, method 10), with Clopper and Pearson's limits of each rate for Wilson's."""
    (p, low, high), (q, q_low, q_high) = ((n / of, *clopper_pearson(n, of)) for n, of in (a, b))
    return p - q, p - q - math.hypot(p - low, q_high - q), p - q + math.hypot(high - p, q - q_low)


def bootstrap(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean, from so many resamples (Efron 1979)."""
    chosen = np.random.default_rng(seed).choice(np.asarray(values, float), (resamples, len(values)))
    return tuple(np.quantile(chosen.mean(1), (0.025, 0.975)).tolist())
