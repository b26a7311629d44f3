"""Estimates with their intervals, and the draws of seeds that these come from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its parts load when they are first used

LEVEL = 0.05  # of tests


SAME = 1e-12  # relative difference below which values count as equal (rounding)


class Interval(NamedTuple):
    """An estimate with its interval; low and high are None where the seeds give no variance."""

    estimate: float
    low: float | None
    high: float | None


def seed_multipliers(
    seeds: Sequence[int], draws: int, seed: int, freedom: float | None = None
) -> np.ndarray:
    """Draw weights (D, S) of seeds, Gaussian over sqrt(chi2 / freedom).

    seeds: their ids; freedom: that of a variance between them, by default S - 1. A seed's Gaussian
    weights depend on its id alone, and the chi2 of a draw comes from one uniform number for all
    tables. So tables that share seeds get the same draws, and their differences stay paired where
    one table lost a seed. A mean over seeds reweighted like this is Student t; means of resampled
    seeds would vary too little.
    """
    weights = [np.random.default_rng([seed, number]).standard_normal(draws) for number in seeds]
    freedom = len(seeds) - 1 if freedom is None else freedom
    uniform = np.random.default_rng(seed).uniform(size=(draws, 1))
    return np.stack(weights, axis=1) / np.sqrt(scipy.stats.chi2.ppf(uniform, freedom) / freedom)


def interval(values: np.ndarray) -> Interval:
    """Return the estimate values[0] with the percentile interval of the draws values[1:]."""
    if len(values) == 1:
        return Interval(float(values[0]), None, None)
    tail = round(0.025 * (len(values) - 2))  # draws may be infinite, so quantiles are draws too
    draws = np.sort(values[1:])
    return Interval(float(values[0]), float(draws[tail]), float(draws[-1 - tail]))
