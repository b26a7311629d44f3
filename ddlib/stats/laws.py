"""Scaling laws of the test-risk gap: weighted fits, rivals, intervals, saturation.

The law under test is G(k) ~ a k^-1/2 + c (arXiv 2512.05817), k the number of distilled samples
in all. Every law here reads G(k) = a f(k; theta) + c, so one solver serves all: a and c come in
closed form, and theta (an exponent or a scale) by a search over the profile.

Letters: S seeds, K distinct k, D bootstrap draws.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used

from ddlib.stats.intervals import SAME, Interval, interval, seed_multipliers

FEWEST_R2 = 4  # sizes, below which a law of two parameters always comes out near 1


COLUMNS = {"a": 0, "b": 1, "tau": 1, "c": 2}  # of a parameter in the coefficients (a, theta, c)


SEARCHED = {  # ks -> the bounds of theta, by its name
    "b": lambda ks: (0.01, 5.0),
    "tau": lambda ks: max(np.ptp(ks), ks.min()) * np.array([0.01, 10]),
}


class SeedMeans(NamedTuple):
    """What the seeds say at each k. A mean's error has two parts: its own, and one shared over k.

    `errors` is None where the seeds show no variance; then weights are equal.
    """

    ks: np.ndarray  # (K,)
    means: np.ndarray  # (K,)
    errors: np.ndarray | None  # (K,) standard errors of the means, without the shared part
    shared: float  # variance of the shared part: it moves the means at all k together
    weights: np.ndarray  # (K,) 1 / errors^2, or ones
    residuals: np.ndarray  # (S, K) gap minus mean, 0 where a trial is missing
    counts: np.ndarray  # (K,) seeds that have a gap
    seeds: list  # the ids of those that have a gap at all
    asked: int  # seeds, with or without
    missing: dict[int, int]  # how many of them have no gap, by k; also where k is left out

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a variance between seeds, the mean over k."""
        return float(np.mean(self.counts - 1))


@dataclass(frozen=True)
class Law:
    """A law G(k) = a f(k; theta) + c; theta is searched where `theta` is None, else fixed."""

    name: str
    formula: str
    parameters: tuple[str, ...]
    shape: Callable  # (k, theta) -> f, falling with k
    theta: float | None = None

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

    `parameters` is empty where the k are too few for a curve (`fitted` False). Where a fit is not
    `identifiable`, its estimates, if any, describe these points and no more.
    """

    law: Law
    parameters: dict[str, Interval] = field(default_factory=dict)
    r2: float | None = None  # of the seed means, by an equally weighted fit, in linear gap space
    aic: float | None = None  # chi2 + 2p: the seed variances count as known
    misfit: float | None = None  # p-value of the lack of fit, see `fit`
    loo_error: float | None = None  # root mean square of the errors at each k left out
    reason: str = ""
    data: SeedMeans = field(default=None, repr=False, compare=False)  # what was fitted
    # (1 + D, 3): estimate, then draws, of (a, theta, c); one row where there is no interval
    coefficients: np.ndarray = field(default=None, repr=False, compare=False)
    draw_null: Callable[[], np.ndarray] = field(default=None, repr=False, compare=False)

    @cached_property
    def _null(self) -> np.ndarray | None:  # asked for seldom, and half the time of a fit
        return self.draw_null() if self.draw_null else None

    @property
    def r2_null(self) -> float | None:
        """The median R² that random falling curves reach, see `null_r2`."""
        return None if self._null is None else float(np.median(self._null))

    @property
    def r2_null_95(self) -> float | None:
        """The 95th percentile of the same."""
        return None if self._null is None else float(np.quantile(self._null, 0.95))

    @property
    def has_floor(self) -> bool:
        """Whether the curve falls, to a floor above 0."""
        return self.fitted and bool((self.coefficients[0, [0, 2]] > 0).all())

    @property
    def identifiable(self) -> bool:
        """Whether the data pin the law down; `reason` says why not."""
        return not self.reason

    @property
    def fitted(self) -> bool:
        """Whether there is a curve to draw."""
        return bool(self.parameters)

    def predict(self, k) -> pd.DataFrame:
        """Predict the mean gap at one or several k > 0, seen or not: k, gap, low, high.

        The interval is that of the curve, not of a single new seed; NaN for one seed. Raises
        ValueError where no curve was fitted or a k is not positive.
        """
        rows = [
            (x, *interval(values))
            for x, values in zip(np.atleast_1d(k), self._curves(k).T, strict=True)
        ]
        return pd.DataFrame(rows, columns=["k", "gap", "low", "high"], dtype=float)

    def gap(self, k: float) -> Interval:
        """Return what `predict` says of one k."""
        return interval(self._curves(k)[:, 0])

    def gain(self, k: float) -> Interval:
        """Return how much the gap falls from k to k + 1 samples; raises as `predict`."""
        here, there = self._curves([k, k + 1]).T
        return interval(here - there)

    def _curves(self, ks) -> np.ndarray:
        """Return the gaps (1 + D, K) at ks, that of the estimate first."""
        self._check_fitted()
        ks = np.atleast_1d(np.asarray(ks, dtype=float))
        if not (ks > 0).all():
            raise ValueError(f"cannot predict at k={ks.min():g}; choose k > 0")
        return self.law.curve(ks, self.coefficients)

    def k_floor(self, share: float) -> Interval:
        """Return the k at which the part above the floor c is down to a share of it.

        a k^-b = share c, so (a / (share c))^2 for the inverse square root. `high` is infinite where
        the interval of c includes 0. Raises ValueError where no power law falls to a floor c > 0.
        """
        a, b, c = self._falling_power(share)
        if c[0] <= 0:
            raise ValueError(f"there is no floor above 0, but c={c[0]:.3g}")
        with np.errstate(divide="ignore", invalid="ignore"):
            k = (share * np.maximum(c, 0) / a) ** (-1 / b)
        return interval(np.where(a > 0, k, 0.0))

    def k_sat(self, tolerance: float) -> Interval:
        """Saturation point: the k of a power law past which a sample gains less than `tolerance`.

        -dG/dk = tolerance, so (a / (2 tolerance))^(2/3) for the inverse square root.
        """
        a, b, _ = self._falling_power(tolerance)
        return interval((b * np.maximum(a, 0) / tolerance) ** (1 / (b + 1)))

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise ValueError(f"{self.law.name} was not fitted: {self.reason}")

    def _falling_power(self, tolerance: float) -> np.ndarray:
        self._check_fitted()
        a = self.coefficients[0, 0]
        if a <= 0:
            raise ValueError(f"the fitted curve does not fall (a={a:.3g}), so it never saturates")
        if self.law.shape is not _power:
            raise ValueError(f"{self.law.formula} is not a power law; use one, such as a/√k + c")
        if not 0 < tolerance < np.inf:
            raise ValueError(f"{tolerance} is no gain or share; choose a number > 0")
        return self.coefficients.T


Fits = dict[str, Fit]  # by the name of the law


def gap_matrix(trials: pd.DataFrame, method: str, measure: str = "gap_error") -> pd.DataFrame:
    """Return the gaps of one method: rows seeds, columns k, mean over evaluations.

    trials: the tidy table of the study. measure: "gap_error" or "gap_cross_entropy". Cells whose
    trials all failed are NaN. Raises ValueError for an unknown method or measure.
    """
    check_measure(measure)
    rows = trials[trials["method"] == method]
    if rows.empty:
        known = ", ".join(sorted(trials["method"].unique()))
        raise ValueError(f"no trials of method {method!r}; the table has: {known}")
    gaps = rows[measure].where(rows["status"] == "ok")
    return gaps.groupby([rows["seed"], rows["k"]]).mean().unstack("k")


def check_measure(measure: str) -> None:
    """Raise ValueError for a measure that no table of trials has."""
    if measure not in ("gap_error", "gap_cross_entropy"):
        raise ValueError(f"unknown measure {measure!r}; choose gap_error or gap_cross_entropy")


def seed_means(gaps: pd.DataFrame) -> SeedMeans:
    """Average the gaps over seeds, and estimate the errors of the means.

    Gaps of one seed share an error, such as that of the seed's network on all data. So a gap is its
    mean, plus a shift of the seed that is the same at every k, plus noise of its own, whose log
    variance is a line in log k. The three variance parameters maximise the restricted likelihood.
    A k without gaps is left out, and one with a single seed, unless there is no other seed. Raises
    ValueError for k that are not positive or repeat, and for infinite gaps.
    """
    gaps = gaps.astype(float)
    if not gaps.columns.is_unique or (gaps.columns <= 0).any() or np.isinf(gaps).any(axis=None):
        raise ValueError("gaps need columns of distinct k > 0 and finite values (NaN if missing)")
    asked, lost = len(gaps), gaps.isna().sum()
    gaps = gaps.dropna(axis=0, how="all").sort_index(axis=1)
    gaps = gaps.loc[:, gaps.notna().sum() >= min(2, max(len(gaps), 1))]
    ks, values = gaps.columns.to_numpy(float), gaps.to_numpy()
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    means = np.nansum(values, axis=0) / counts
    residuals = np.where(known, values - means, 0.0)
    errors, shared, weights = None, 0.0, np.ones(len(ks))
    if counts.max(initial=0) > 1 and np.abs(residuals).max() > SAME * np.abs(means).max():
        own, shift = _variances(ks, residuals, known)
        shared = shift / len(values)
        # Means of fewer seeds share less of the shift.
        errors = np.sqrt((own + shift) / counts - shared)
        weights = errors**-2.0
    missing = {int(k): int(count) for k, count in lost.items() if count}
    table = ks, means, errors, shared, weights, residuals, counts
    return SeedMeans(*table, list(gaps.index), asked, missing)


def _variances(ks, residuals, known) -> tuple[np.ndarray, float]:
    """Return the variance (K,) of a gap's own noise, and that of the shift a seed shares over k.

    The likelihood is searched on a grid of the slope of the log variance and of the log ratio of
    the shift's variance to the own one, then on finer grids around the best; their level comes in
    closed form.
    """
    counts, line = known.sum(axis=0), np.log(ks) - np.log(ks).mean()
    apart = residuals * np.sqrt(counts / (counts - 1))  # with the variance of the gaps
    slope, ratio, reach = 0.0, -2.0, np.array([4.0, 7.0])
    for _ in range(5):
        slopes, ratios = (np.linspace(-1, 1, 21)[:, None] * reach + [slope, ratio]).T
        own = np.exp(slopes[:, None] * line)
        weight, sums, squares = (
            (known / own[:, None] * apart**power).sum(axis=2) for power in range(3)
        )  # (slopes, S)
        shift = np.exp(ratios)[:, None, None]
        total = 1 + shift * weight  # (ratios, slopes, S)
        level = (squares - shift * sums**2 / total).sum(axis=2) / known.sum()
        loss = known.sum() * np.log(np.maximum(level, SAME**2)) + np.log(total).sum(axis=2)
        loss += slopes * (known @ line).sum()
        best = np.unravel_index(loss.argmin(), loss.shape)
        slope, ratio, reach = slopes[best[1]], ratios[best[0]], reach / 5
    return level[best] * np.exp(slope * line), float(level[best] * np.exp(ratio))


def _draw_means(table: SeedMeans, draws: int, seed: int) -> np.ndarray:
    """Draw seed means (D, K) by reweighting whole seeds, so what a seed shares over k is kept."""
    multipliers = seed_multipliers(table.seeds, draws, seed, table.freedom)
    return table.means + multipliers @ (
        table.residuals / np.sqrt(table.counts * (table.counts - 1))
    )


def _centring(weights, level: float):
    """Return the part of its weighted mean that each series loses before least squares.

    Errors that share one shift of variance `level` have covariance diag(1/w) + level 11', whose
    inverse is what subtracting this part gives (Sherman & Morrison 1950): none for no shift, all
    for a free floor, which is a shift without bound.
    """
    total = weights.sum(axis=-1, keepdims=True)
    return 1 - 1 / np.sqrt(1 + level * total)


def _solve(shapes, means, weights, level: float):
    """Generalised least squares of means on a f + c over the last axis; returns a, c, chi2.

    level: the variance of a shift that all means share; infinite for a law with a free floor c,
    and c is 0 otherwise.
    """
    part, total = _centring(weights, level), weights.sum(axis=-1, keepdims=True)
    shape_mean = part * (weights * shapes).sum(axis=-1, keepdims=True) / total
    gap_mean = part * (weights * means).sum(axis=-1, keepdims=True) / total
    f, g = shapes - shape_mean, means - gap_mean
    weighted = weights * f
    ff, fg = (weighted * f).sum(axis=-1), (weighted * g).sum(axis=-1)
    # A covariance that is pure rounding is a slope of 0: constant curves come out exactly flat.
    size = np.sqrt(ff * (weights * means**2).sum(axis=-1))
    a = np.where(np.abs(fg) > SAME * size, fg, 0.0) / np.where(ff > 0, ff, 1.0)
    rss = (weights * (g - a[..., None] * f) ** 2).sum(axis=-1)
    return a, np.isinf(level) * (gap_mean[..., 0] - a * shape_mean[..., 0]), rss


def _fit_curves(law: Law, ks, means, weights, level: float = 0.0) -> np.ndarray:
    """Fit many curves, means (D, K) with weights (D or 1, K); returns (a, theta, c) as (D, 3).

    theta is searched on a grid in log theta over its whole range, then on ever finer grids
    around the best point: no starting value, no local optimum wider than the first grid.
    """
    level = np.inf if "c" in law.parameters else level
    thetas = np.full((len(means), 1), law.theta)
    if law.theta is None:
        low, high = np.log(SEARCHED[law.parameters[1]](ks))
        grid, reach = np.linspace(low, high, 81), (high - low) / 80
        rss = _misfits(law.shape(ks, np.exp(grid[:, None])), means, weights, level)
        best = grid[rss.argmin(axis=1)][:, None]
        for points, finer in ((7, 3), (7, 3), (7, 100), (3, 1)):
            grid = np.clip(best + np.linspace(-reach, reach, points), low, high)
            shapes = law.shape(ks, np.exp(grid)[..., None])
            best = _vertex(grid, _solve(shapes, means[:, None], weights[:, None], level)[2])
            reach /= finer
        thetas = np.exp(np.clip(best, low, high))
    a, c, _ = _solve(law.shape(ks, thetas), means, weights, level)
    return np.stack([a, thetas[:, 0], c], axis=1)


def _misfits(shapes, means, weights, level: float) -> np.ndarray:
    """Return the chi2 (D, T) that `_solve` leaves with shapes (T, K), but for rounding."""
    total, weighted, part = weights.sum(axis=1)[:, None], weights * means, _centring(weights, level)
    lost, f, g = part * (2 - part) / total, weights @ shapes.T, weighted.sum(axis=1)[:, None]
    size = weights @ (shapes**2).T
    ff, fg = size - lost * f**2, weighted @ shapes.T - lost * f * g
    gg = (weighted * means).sum(axis=1)[:, None] - lost * g**2
    return gg - np.where(ff > SAME * size, fg**2 / np.where(ff > 0, ff, 1.0), 0.0)


def _vertex(grid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return where values (D, T) over an even grid are least (D, 1), between its points too.

    That is the vertex of the parabola through the least value and its neighbours.
    """
    best = values.argmin(axis=1)[:, None]
    middle = np.clip(best, 1, grid.shape[1] - 2)
    ends = [np.take_along_axis(values, middle + side, axis=1) for side in (-1, 0, 1)]
    places = [np.take_along_axis(grid, middle + side, axis=1) for side in (-1, 0, 1)]
    bend = ends[0] - 2 * ends[1] + ends[2]
    shift = np.where(bend > 0, (ends[0] - ends[2]) / np.where(bend > 0, bend, 1.0), 0.0) / 2
    vertex = places[1] + shift * (places[2] - places[0]) / 2
    return np.where(best == middle, vertex, np.take_along_axis(grid, best, axis=1))


def _r2(means: np.ndarray, curves: np.ndarray) -> np.ndarray:
    total = ((means - means.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return 1 - ((means - curves) ** 2).sum(axis=-1) / total


def null_r2(ks, law: str, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Return the R² (draws,) that a law reaches on random falling curves at these k.

    Each curve is K uniform numbers sorted downwards, fitted with equal weights, as for `Fit.r2`. A
    high R² of the data says little where random curves reach as much.
    """
    ks, law = np.asarray(ks, dtype=float), LAWS[law]
    curves = -np.sort(-np.random.default_rng(seed).uniform(size=(draws, len(ks))), axis=1)
    return _r2(curves, law.curve(ks, _fit_curves(law, ks, curves, np.ones((1, len(ks))))))


def fit(gaps: pd.DataFrame, law: str, *, draws: int = 1000, seed: int = 0) -> Fit:
    """Fit one law to a table of gaps by generalised least squares on the seed means.

    gaps: index seed, columns k, NaN where a trial is missing; each gap is measured from its seed's
    own network on all data. Errors of the means: see `seed_means`. Intervals (95 %) are percentiles
    over draws that reweight whole seeds, see `seed_multipliers`. AIC = chi2 + 2p, p parameters.
    `misfit` is the p-value of chi2 / (K - p) against F(K - p, (K - 1) f / 2), f the mean over
    k of seeds less 1: small where the
    law misses the means by more than the noise explains. The second freedom is half that of the
    residuals, as three variances are estimated: so the test errs in 5 % of simulated studies.
    docs/statistics.md has that, and how often intervals hold the truth. Raises ValueError for an
    unknown law.
    """
    if law not in LAWS:
        raise ValueError(f"unknown law {law!r}; choose one of {', '.join(LAWS)}")
    return _fit(LAWS[law], seed_means(gaps), draws, seed)


def fit_all(gaps: pd.DataFrame, *, draws: int = 1000, seed: int = 0) -> Fits:
    """Fit every law of `LAWS` to a table of gaps; gaps and options as in `fit`."""
    table = seed_means(gaps)
    return {name: _fit(law, table, draws, seed) for name, law in LAWS.items()}


def _fit(law: Law, table: SeedMeans, draws: int, seed: int) -> Fit:
    needed = len(law.parameters) + 1
    if len(table.ks) < needed:
        found = f"gaps at {len(table.ks)} distinct k"
        return Fit(law, reason=f"{found}; {law.formula} needs at least {needed}", data=table)
    curves = table.means[None]
    if table.errors is not None:
        curves = np.concatenate([curves, _draw_means(table, draws, seed)])
    coefficients = _fit_curves(law, table.ks, curves, table.weights[None], table.shared)
    parameters = {name: interval(coefficients[:, COLUMNS[name]]) for name in law.parameters}
    quality = _quality(law, table, coefficients[0])
    if quality["r2"] is not None:
        quality["draw_null"] = partial(null_r2, table.ks, law.name, draws, seed)
    reason = _doubt(law, table, parameters)
    return Fit(law, parameters, **quality, reason=reason, data=table, coefficients=coefficients)


def fit_table(trials: pd.DataFrame, measure: str, **options) -> dict[str, Fits]:
    """Fit every law to every method of a study: {method: {law: Fit}}.

    trials: the study's table; measure: see `gap_matrix`; options: draws and seed of `fit`.
    """
    methods = trials["method"].unique()
    return {name: fit_all(gap_matrix(trials, name, measure), **options) for name in methods}


def _quality(law: Law, table: SeedMeans, coefficients) -> dict:
    ks, means, weights, p = table.ks, table.means, table.weights, len(law.parameters)
    found = dict.fromkeys(("r2", "aic", "misfit"))
    if table.errors is not None:
        level = np.inf if "c" in law.parameters else table.shared
        chi2 = float(_solve(law.shape(ks, coefficients[1]), means, weights, level)[2])
        freedom = (len(ks) - 1) * table.freedom / 2
        found["aic"] = chi2 + 2 * p
        found["misfit"] = float(scipy.stats.f.sf(chi2 / (len(ks) - p), len(ks) - p, freedom))
    flat = np.ptp(means) <= SAME * np.abs(means).max()
    if len(ks) >= FEWEST_R2 and len(table.seeds) > 1 and not flat:
        plain = _fit_curves(law, ks, means[None], np.ones((1, len(ks))))
        found["r2"] = float(_r2(means, law.curve(ks, plain[0])))
    kept = weights * (1 - np.eye(len(ks)))
    left_out = _fit_curves(law, ks, np.tile(means, (len(ks), 1)), kept, table.shared)
    misses = means - np.diag(law.curve(ks, left_out))
    return found | {"loo_error": float(np.sqrt((misses**2).mean()))}


def _doubt(law: Law, table: SeedMeans, parameters: dict[str, Interval]) -> str:
    """Say why the data do not pin the law down; empty if they do."""
    a = parameters["a"]
    if a.estimate <= 0:
        return f"the curve does not fall (a={a.estimate:.3g})"
    if a.low is None:
        alone = len(table.residuals) == 1
        cause = "one seed" if alone else "no difference between the seeds at any k"
        return f"{cause}, so no seed variance: equal weights, no intervals, no AIC"
    if a.low <= 0:
        return "the interval of a includes 0: the curve may be flat"
    if law.theta is None:
        name, (low, high) = law.parameters[1], SEARCHED[law.parameters[1]](table.ks)
        if parameters[name].low < low * 1.001 or parameters[name].high > high * 0.999:
            return f"the interval of {name} reaches the bound of its search [{low:g}, {high:g}]"
    return ""
