"""The power of a design: which exponents its test tells from 1/2, by simulation.

Letters: K distinct k, D simulated studies.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy  # its parts load when they are first used

from ddlib.stats.intervals import LEVEL
from ddlib.stats.laws import LAWS, Fit

POWER = 0.9  # the share of studies that must tell an exponent from 1/2
BELOW = tuple(np.arange(9, 0, -1) / 20)  # exponents to try, away from 1/2
ABOVE = (*(np.arange(11, 21) / 20), 1.25, 1.5, 2.0, 3.0)


def power(
    free: Fit, exponents: Sequence[float], *, seeds: int | None = None, draws: int = 300
) -> np.ndarray:
    """Return in what share of studies of this design each exponent is told from 1/2.

    free: a fit of the free exponent with intervals; seeds: of the design, default those of the fit.
    The truth is a/k^b + c with b an exponent and the a and c that are nearest to the measured
    means; the noise is that of the fit. A study tells b from 1/2 if its estimate lies outside the
    central 95 % of those under b = 1/2, which have the longer tails of Student t: the variance is
    estimated. The same random numbers serve every exponent. docs/statistics.md compares the result
    with whole simulated studies.
    """
    data, rng = free.data, np.random.default_rng(0)
    now = len(data.seeds)
    seeds = now if seeds is None else seeds
    freedom = data.freedom * (seeds - 1) / (now - 1)
    errors = data.errors * np.sqrt(now / seeds)
    noise = errors * rng.standard_normal((draws, len(data.ks)))
    tails = np.sqrt(rng.chisquare(freedom, (draws, 1)) / freedom)

    def estimates(exponent: float, noise: np.ndarray) -> np.ndarray:
        law = replace(LAWS["inverse_sqrt"], theta=exponent)
        truth = law.curve(data.ks, law.fit(data.ks, data.means[None], data.weights[None]))
        return free.law.fit(data.ks, truth + noise, errors[None] ** -2.0)[:, 1]

    low, high = np.quantile(estimates(0.5, noise / tails), [LEVEL / 2, 1 - LEVEL / 2])
    drawn = (estimates(exponent, noise) for exponent in exponents)
    return np.array([((b < low) | (b > high)).mean() for b in drawn])


def detectable(free: Fit, seeds: int | None = None) -> tuple[float, float]:
    """Return the exponents nearest to 1/2, below and above, that 9 of 10 studies tell from it.

    NaN where none from 0.05 to 3 is, and where the means do not fall. See `power`.
    """
    if free.data.errors is None or free.coefficients[0, 0] <= 0:
        return np.nan, np.nan
    ends = []
    for exponents in (BELOW, ABOVE):
        seen = (b for b in exponents if power(free, [b], seeds=seeds)[0] >= POWER)
        ends.append(float(next(seen, np.nan)))
    return tuple(ends)
