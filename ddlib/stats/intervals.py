"""Estimates with their intervals, and the draws of seeds that these come from.

Letters: S seeds, D bootstrap draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its parts load when they are first used

LEVEL = 0.05  # of tests; an interval holds the other 95 %
HUGE = 1e9  # a number of this size is told as a power of ten
SAME = 1e-12  # relative difference below which values count as equal (rounding)


class Interval(NamedTuple):
    """An estimate with its 95 % interval; low and high are None where there is no variance."""

    estimate: float
    low: float | None
    high: float | None

    def __format__(self, pattern: str) -> str:
        """Return `0.31 (0.27 to 0.35)`: three digits, unless a pattern such as ".2f" is given."""
        return f"{number(self.estimate, pattern)} ({self.ends(pattern)})"

    def ends(self, pattern: str = "") -> str:
        """Return the interval alone, `0.27 to 0.35`; `no interval` where the ends are not known."""
        if self.low is None or np.isnan(self.low):
            return "no interval"
        return f"{number(self.low, pattern)} to {number(self.high, pattern)}"


def number(value: float, pattern: str = "") -> str:
    """Return a number by its pattern, such as ".2f", else with three digits; 2e+170 if huge."""
    if np.isinf(value):
        return "no bound"
    if abs(value) >= HUGE:
        return format(value, ".0e")
    return format(value, pattern or (",.0f" if abs(value) >= 1000 else ".3g"))


def interval(values: np.ndarray) -> Interval:
    """Return the estimate values[0] with the percentile interval of the draws values[1:]."""
    if len(values) == 1:
        return Interval(float(values[0]), None, None)
    tail = round(LEVEL / 2 * (len(values) - 2))  # draws may be infinite: no interpolation
    draws = np.sort(values[1:])
    return Interval(float(values[0]), float(draws[tail]), float(draws[-1 - tail]))


def student(values) -> Interval:
    """Return the mean of values, one a seed, with its Student t interval.

    The ends are NaN for fewer than two values and where all are the same.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2 or np.ptp(values) <= SAME:
        return Interval(values.mean() if len(values) else np.nan, np.nan, np.nan)
    quantile = scipy.stats.t.ppf(1 - LEVEL / 2, len(values) - 1)
    mean, half = values.mean(), quantile * scipy.stats.sem(values)
    return Interval(mean, mean - half, mean + half)


def seed_multipliers(
    seeds: Sequence[int], draws: int, seed: int, freedom: float | None = None
) -> np.ndarray:
    """Draw weights (D, S) of seeds for a multiplier bootstrap: Gaussian over sqrt(chi2 / freedom).

    seeds: their ids; freedom: that of a variance between them, S - 1 by default. A mean over seeds
    reweighted like this is Student t; means of resampled seeds would vary too little. The Gaussian
    weights of a seed depend on its id alone, and the chi2 of a draw on one uniform number. So
    tables that share seeds get the same draws, and stay paired where one of them lost a seed.
    """
    freedom = len(seeds) - 1 if freedom is None else freedom
    weights = [np.random.default_rng([seed, number]).standard_normal(draws) for number in seeds]
    uniform = np.random.default_rng(seed).uniform(size=(draws, 1))
    return np.stack(weights, axis=1) / np.sqrt(scipy.stats.chi2.ppf(uniform, freedom) / freedom)
