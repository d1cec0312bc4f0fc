"""How sure a rate or a mean is: 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054  # the normal distribution's 97.5 % point
# Student's 97.5 % points for 1, 2, ... degrees of freedom; beyond them the normal one is close.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
      2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


def wilson(right: int, asked: int) -> tuple[float, float]:
    """The interval of a rate from `right` of `asked` independent answers (Wilson 1927, eq. 4).

    Raises:
        ValueError: nothing was asked, or more was right than asked.
    """
    if not 0 <= right <= asked or asked == 0:
        raise ValueError(f"{right} of {asked} is no rate")
    rate, z2 = right / asked, _Z**2
    middle = (rate + z2 / (2 * asked)) / (1 + z2 / asked)
    half = _Z * math.sqrt(rate * (1 - rate) / asked + z2 / (4 * asked**2)) / (1 + z2 / asked)
    return max(0.0, middle - half), min(1.0, middle + half)


def of_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and Student's interval; one value says nothing of its spread: -inf to inf."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, -math.inf, math.inf
    deviation = float(np.std(values, ddof=1))
    half = (_T[n - 2] if n - 2 < len(_T) else _Z) * deviation / math.sqrt(n)
    return mean, mean - half, mean + half


def of_rates(right: Sequence[int], asked: Sequence[int]) -> tuple[float, float, float]:
    """The mean rate of several runs (one a seed) and its interval.

    Two things are uncertain: which rule a seed happens on, and how far the questions asked stand
    for others. Student's interval over the seeds covers the first and shrinks to a point where all
    seeds agree; Wilson's over all answers covers the second. The wider reach of both is taken.
    """
    rates = [r / a for r, a in zip(right, asked, strict=True)]
    low, high = wilson(sum(right), sum(asked))
    if len(rates) > 1:
        _, lowest, highest = of_mean(rates)
        low, high = min(low, lowest), max(high, highest)
    return float(np.mean(rates)), max(0.0, low), min(1.0, high)


def bootstrap(values: Sequence[float], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `values` (Efron 1979)."""
    array = np.asarray(values, float)
    drawn = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    low, high = np.quantile(array[drawn].mean(1), (0.025, 0.975))
    return float(low), float(high)
