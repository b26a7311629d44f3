"""Scaling laws of the test-risk gap: weighted fits with intervals, predictions and saturation.

The law under test is G(k) ~ a k^-1/2 + c (arXiv 2512.05817), k the number of distilled samples
in all. Every law here reads G(k) = a f(k; theta) + c, so one solver serves all: a and c come in
closed form, and theta (an exponent or a scale) by a search over the profile.

Letters: S seeds, K distinct k, D bootstrap draws.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used

from ddlib.stats.intervals import SAME, Interval, interval
from ddlib.stats.least_squares import fit_curves, solve
from ddlib.stats.means import SeedMeans, gap_matrix, seed_means

FEWEST_R2 = 4  # sizes, below which a law of two parameters always comes out near 1
COLUMNS = {"a": 0, "b": 1, "tau": 1, "c": 2}  # of a parameter in the coefficients (a, theta, c)
FLOOR_SHARE = 0.1  # readers are given the k at which the gap is this share above its floor
SEARCHED = {  # ks -> the bounds of theta, by its name
    "b": lambda ks: (0.01, 5.0),
    "tau": lambda ks: max(np.ptp(ks), ks.min()) * np.array([0.01, 10]),
}


@dataclass(frozen=True)
class Law:
    """A law G(k) = a f(k; theta) + c; theta is searched where `theta` is None, else fixed."""

    name: str
    formula: str
    parameters: tuple[str, ...]
    shape: Callable  # (k, theta) -> f, falling with k
    theta: float | None = None

    def bounds(self, ks: np.ndarray) -> tuple[float, float]:
        """Return the least and the largest theta to search; both the same where it is fixed."""
        fixed = (self.theta, self.theta)
        return SEARCHED[self.parameters[1]](ks) if self.theta is None else fixed

    def level(self, shared: float) -> float:
        """Return the variance of a shift that all means share; without bound for a free floor."""
        return np.inf if "c" in self.parameters else shared

    def fit(self, ks, means, weights, shared: float = 0.0) -> np.ndarray:
        """Fit means (D, K) with weights (D or 1, K); returns (a, theta, c) as (D, 3)."""
        return fit_curves(self.shape, self.bounds(ks), ks, means, weights, self.level(shared))

    def curve(self, k: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Return G at k (n,) for coefficients (..., 3) = (a, theta, c), as (..., n)."""
        a, theta, c = np.moveaxis(coefficients[..., None], -2, 0)
        return a * self.shape(k, theta) + c


def _power(k, b):
    return k**-b


LAWS = {
    law.name: law
    for law in (
        Law("inverse_sqrt", "a/√k + c", ("a", "c"), _power, 0.5),
        Law("free_exponent", "a/k^b + c", ("a", "b", "c"), _power),
        Law("pure_power", "a/k^b", ("a", "b"), _power),
        Law("exponential", "a·exp(−k/τ) + c", ("a", "tau", "c"), lambda k, tau: np.exp(-k / tau)),
        Law("inverse", "a/k + c", ("a", "c"), _power, 1.0),
        Law("logarithmic", "c − a·log k", ("a", "c"), lambda k, _: -np.log(k), 0.0),
    )
}


@dataclass(frozen=True)
class Fit:
    """A law fitted to a table of gaps; None stands for "not available".

    Where a fit is not `identifiable`, its estimates, if any, describe these points and no more.
    """

    law: Law
    parameters: dict[str, Interval] = field(default_factory=dict)  # none where the k are too few
    aic: float | None = None  # chi2 + 2p: the seed variances count as known
    misfit: float | None = None  # p-value of the lack of fit, see `fit`
    loo_error: float | None = None  # root mean square of the errors at each k left out
    r2: float | None = None  # of the seed means, by an equally weighted fit
    r2_null: float | None = None  # the median that random falling curves reach, see `null_r2`
    r2_null_95: float | None = None  # their 95th percentile
    reason: str = ""  # why the data do not pin the law down
    data: SeedMeans = field(default=None, repr=False, compare=False)  # what was fitted
    # (1 + D, 3): estimate, then draws, of (a, theta, c); one row where there is no interval
    coefficients: np.ndarray = field(default=None, repr=False, compare=False)

    @property
    def identifiable(self) -> bool:
        """Whether the data pin the law down; `reason` says why not."""
        return not self.reason

    @property
    def fitted(self) -> bool:
        """Whether there is a curve to draw."""
        return bool(self.parameters)

    def predict(self, ks) -> pd.DataFrame:
        """Predict the mean gap at one or several k > 0, seen or not: k, gap, low, high.

        The interval is that of the curve, not of a single new seed. Raises ValueError where no
        curve was fitted or a k is not positive.
        """
        gaps = self._gaps(ks).T
        rows = [(k, *interval(drawn)) for k, drawn in zip(np.atleast_1d(ks), gaps, strict=True)]
        return pd.DataFrame(rows, columns=["k", "gap", "low", "high"], dtype=float)

    def gap(self, k: float) -> Interval:
        """Return what `predict` says of one k."""
        return interval(self._gaps(k)[:, 0])

    def gain(self, k: float) -> Interval:
        """Return how much the gap falls from k to k + 1 samples; raises as `predict`."""
        return interval(-np.diff(self._gaps([k, k + 1]))[:, 0])

    def k_floor(self, share: float) -> Interval:
        """Return the k at which the part above the floor c is down to a share of it.

        a k^-b = share c, so (a / (share c))^2 for the inverse square root. `high` is infinite where
        the interval of c includes 0. Raises ValueError where no power law falls to a floor c > 0.
        """
        a, b, c = self._falling_power(share)
        if c[0] <= 0:
            floor = f"{c[0] + 0:.2g}".replace("-", "−")  # no "-0"
            raise ValueError(f"there is no floor above 0, but c = {floor}")
        with np.errstate(divide="ignore", invalid="ignore"):
            k = (share * np.maximum(c, 0) / a) ** (-1 / b)
        return interval(np.where(a > 0, k, 0.0))

    def k_sat(self, tolerance: float) -> Interval:
        """Return the k of a power law past which a sample gains less than `tolerance`.

        -dG/dk = tolerance, so (a / (2 tolerance))^(2/3) for the inverse square root.
        """
        a, b, _ = self._falling_power(tolerance)
        return interval((b * np.maximum(a, 0) / tolerance) ** (1 / (b + 1)))

    def _gaps(self, ks) -> np.ndarray:
        """Return the gaps (1 + D, n) at ks, those of the estimate first."""
        if not self.fitted:
            raise ValueError(f"{self.law.name} was not fitted: {self.reason}")
        ks = np.atleast_1d(np.asarray(ks, dtype=float))
        if not (ks > 0).all():
            raise ValueError(f"cannot predict at k={ks.min():g}; choose k > 0")
        return self.law.curve(ks, self.coefficients)

    def _falling_power(self, tolerance: float) -> np.ndarray:
        """Return a, b and c (3, 1 + D), after the checks of `k_floor` and `k_sat`."""
        if not self.fitted:
            raise ValueError(f"{self.law.name} was not fitted: {self.reason}")
        if self.coefficients[0, 0] <= 0:
            a = self.coefficients[0, 0]
            raise ValueError(f"the fitted curve does not fall (a={a:.3g}), so it never saturates")
        if self.law.shape is not _power:
            raise ValueError(f"{self.law.formula} is not a power law; use one, such as a/√k + c")
        if not 0 < tolerance < np.inf:
            raise ValueError(f"{tolerance} is no gain or share; choose a number > 0")
        return self.coefficients.T


Fits = dict[str, Fit]  # by the name of the law


def fit(gaps: pd.DataFrame, law: str, *, draws: int = 1000, seed: int = 0) -> Fit:
    """Fit one law to a table of gaps by generalised least squares on the seed means.

    gaps: index seed, columns k, NaN where a trial is missing (see `seed_means`); each gap is
    measured from its seed's own network on all data. Intervals (95 %) are percentiles over draws
    that reweight whole seeds (`seed_multipliers`). AIC = chi2 + 2p, p parameters. `misfit` is the
    p-value of chi2 / (K - p) against F(K - p, (K - 1) f / 2), f the mean over k of seeds less 1.
    The second freedom is half that of the residuals, as three variances are estimated: so the test
    errs in 5 % of simulated studies (docs/statistics.md). Raises ValueError for an unknown law.
    """
    if law not in LAWS:
        raise ValueError(f"unknown law {law!r}; choose one of {', '.join(LAWS)}")
    return _fit(LAWS[law], seed_means(gaps), draws, seed)


def fit_all(gaps: pd.DataFrame, *, draws: int = 1000, seed: int = 0) -> Fits:
    """Fit every law of `LAWS` to a table of gaps; see `fit`."""
    table = seed_means(gaps)
    return {name: _fit(law, table, draws, seed) for name, law in LAWS.items()}


def fit_table(trials: pd.DataFrame, measure: str, **options) -> dict[str, Fits]:
    """Fit every law to every method: {method: {law: Fit}}; see `gap_matrix` and `fit`."""
    methods = trials["method"].unique()
    return {name: fit_all(gap_matrix(trials, name, measure), **options) for name in methods}


@cache
def null_r2(ks: tuple[float, ...], law: str) -> np.ndarray:
    """Return the R² that a law reaches on each of 1000 random falling curves at these k.

    A curve is K uniform numbers sorted downwards. A high `Fit.r2` says little where they reach it.
    """
    curves = np.random.default_rng(0).uniform(size=(1000, len(ks)))
    return _plain_r2(LAWS[law], np.array(ks), -np.sort(-curves, axis=1))


def _plain_r2(law: Law, ks: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Return the R² (D,) of a law fitted to curves (D, K) with equal weights."""
    fitted = law.curve(ks, law.fit(ks, curves, np.ones((1, len(ks)))))
    total = ((curves - curves.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return 1 - ((curves - fitted) ** 2).sum(axis=-1) / total


def _fit(law: Law, table: SeedMeans, draws: int, seed: int) -> Fit:
    ks, means, p = table.ks, table.means, len(law.parameters)
    if len(ks) <= p:
        why = f"gaps at {len(ks)} distinct k; {law.formula} needs at least {p + 1}"
        return Fit(law, reason=why, data=table)
    curves = means[None]
    if table.errors is not None:
        curves = np.concatenate([curves, table.draw(draws, seed)])
    coefficients = law.fit(ks, curves, table.weights[None], table.shared)
    parameters = {name: interval(coefficients[:, COLUMNS[name]]) for name in law.parameters}
    quality = {}
    if table.errors is not None:
        shape, level = law.shape(ks, coefficients[0, 1]), law.level(table.shared)
        chi2 = float(solve(shape, means, table.weights, level)[2])
        freedom = len(ks) - p, (len(ks) - 1) * table.freedom / 2
        quality["aic"] = chi2 + 2 * p
        quality["misfit"] = float(scipy.stats.f.sf(chi2 / freedom[0], *freedom))
    flat = np.ptp(means) <= SAME * np.abs(means).max()
    if len(ks) >= FEWEST_R2 and len(table.seeds) > 1 and not flat:
        null = np.quantile(null_r2(tuple(ks), law.name), (0.5, 0.95))
        quality["r2"] = float(_plain_r2(law, ks, means[None])[0])
        quality["r2_null"], quality["r2_null_95"] = map(float, null)
    kept = table.weights * (1 - np.eye(len(ks)))
    left_out = law.fit(ks, np.tile(means, (len(ks), 1)), kept, table.shared)
    misses = means - np.diag(law.curve(ks, left_out))
    quality["loo_error"] = float(np.sqrt((misses**2).mean()))
    reason = _doubt(law, table, parameters)
    return Fit(law, parameters, **quality, reason=reason, data=table, coefficients=coefficients)


def _doubt(law: Law, table: SeedMeans, parameters: dict[str, Interval]) -> str:
    """Say why the data do not pin the law down; empty if they do."""
    a = parameters["a"]
    if a.estimate <= 0:
        return f"the curve does not fall (a={a.estimate:.3g})"
    if a.low is None:
        several = len(table.residuals) > 1
        cause = "no difference between the seeds at any k" if several else "one seed"
        return f"{cause}, so no seed variance: equal weights, no intervals, no AIC"
    if a.low <= 0:
        return "the interval of a includes 0, so the curve may be flat"
    if law.theta is None:
        name, (low, high) = law.parameters[1], law.bounds(table.ks)
        if parameters[name].low < low * 1.001 or parameters[name].high > high * 0.999:
            return f"the interval of {name} reaches the bound of its search [{low:g}, {high:g}]"
    return ""
