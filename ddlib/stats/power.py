"""The power of a design: which exponents its test tells from 1/2, by simulation.

Letters: K distinct k, D simulated studies.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from ddlib.stats.intervals import LEVEL
from ddlib.stats.laws import LAWS, Fit

POWER = 0.9  # the share of studies that must tell an exponent from 1/2
ENDS = (  # exponents to try, away from 1/2
    tuple(np.arange(9, 0, -1) / 20),
    (*(np.arange(11, 21) / 20), 1.25, 1.5, 2.0, 3.0),
)


def power(free: Fit, exponent: float, *, seeds: int | None = None, draws: int = 300) -> float:
    """Return in what share of studies of this design an exponent is told from 1/2.

    free: a fit of the free exponent with intervals; seeds: of the design, default those of the fit.
    The truth is a/k^b + c with b the exponent, and the a and c that are nearest to the measured
    means; the noise is that of the fit. A study tells b from 1/2 if 1/2 lies outside the interval
    about its estimate. That reaches as far as the central 95 % of estimates under b, which have
    the longer tails of Student t here, as a study estimates its variance.
    """
    return _power(_simulate(free, seeds, draws), exponent)


def detectable(free: Fit) -> tuple[float, float]:
    """Return the exponents nearest to 1/2, below and above, that 9 of 10 studies tell from it.

    NaN where none from 0.05 to 3 is, and where the means do not fall. See `power`.
    """
    if free.data.errors is None or free.coefficients[0, 0] <= 0:
        return np.nan, np.nan
    estimates = _simulate(free, None, 300)
    places = (
        bisect_left(exponents, POWER, key=lambda b: _power(estimates, b)) for exponents in ENDS
    )
    low, high = ((*exponents, np.nan)[place] for exponents, place in zip(ENDS, places, strict=True))
    return float(low), float(high)


def _simulate(free: Fit, seeds: int | None, draws: int) -> Callable[..., np.ndarray]:
    """Return what draws estimates of the exponent (D,) under a true one, as one study's or with
    the longer `tails` of an interval.
    """
    data, rng = free.data, np.random.default_rng(0)
    now = len(data.seeds)
    seeds = now if seeds is None else seeds
    freedom = data.freedom * (seeds - 1) / (now - 1)
    errors = data.errors * np.sqrt(now / seeds)
    noise = errors * rng.standard_normal((draws, len(data.ks)))
    tailed = noise * np.sqrt(freedom / rng.chisquare(freedom, (draws, 1)))

    def estimates(exponent: float, tails: bool = False) -> np.ndarray:
        law = replace(LAWS["inverse_sqrt"], theta=exponent)
        truth = law.curve(data.ks, law.fit(data.ks, data.means[None], data.weights[None]))
        gaps = truth + (tailed if tails else noise)
        return free.law.fit(data.ks, gaps, errors[None] ** -2.0)[:, 1]

    return cache(estimates)


def _power(estimates: Callable[..., np.ndarray], exponent: float) -> float:
    low, high = np.quantile(estimates(exponent, tails=True), [LEVEL / 2, 1 - LEVEL / 2]) - exponent
    drawn = estimates(exponent)
    return float(((drawn + low > 0.5) | (drawn + high < 0.5)).mean())
