"""Scaling laws of the test-risk gap: weighted fits, rivals, intervals, saturation.

The law under test is G(k) ~ a k^-1/2 + c (arXiv 2512.05817), k the number of distilled samples
in all. Every law here reads G(k) = a f(k; theta) + c, so one solver serves all: a and c come in
closed form, and theta (an exponent or a scale) by a search over the profile.

Letters: S seeds, K distinct k, D bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

MEASURES = ("gap_error", "gap_cross_entropy")
SAME = 1e-12  # relative difference below which values count as equal (rounding)


class Interval(NamedTuple):
    """An estimate with its interval; low and high are None where the seeds give no variance."""

    estimate: float
    low: float | None
    high: float | None


class SeedMeans(NamedTuple):
    """What the seeds say at each k; `errors` is None if no k shows a seed variance."""

    ks: np.ndarray  # (K,)
    means: np.ndarray  # (K,)
    errors: np.ndarray | None  # (K,) standard errors of the means
    residuals: np.ndarray  # (S, K), 0 where a trial failed
    counts: np.ndarray  # (K,) seeds behind each mean

    @property
    def weights(self) -> np.ndarray:
        """Weights of least squares (K,): 1 / standard error squared, or equal."""
        return np.ones(len(self.ks)) if self.errors is None else self.errors**-2.0


@dataclass(frozen=True)
class Family:
    """Shapes f(k; theta) that fall with k, and their inverses in closed form."""

    parameter: str  # what theta is called where it is free
    shape: Callable  # (k, theta) -> f
    bounds: Callable | None  # ks -> (lowest, highest) theta searched
    reach: Callable | None  # (y, theta) -> k with f(k) = y; None if f has no limit
    marginal: Callable  # (t, theta) -> k with -df/dk = t


def _scale_bounds(ks: np.ndarray) -> tuple[float, float]:
    widest = max(np.ptp(ks), ks.min())
    return widest / 100, widest * 10


POWER = Family(
    parameter="b",
    shape=lambda k, b: k**-b,
    bounds=lambda ks: (0.01, 5.0),
    reach=lambda y, b: y ** (-1 / b),
    marginal=lambda t, b: (b / t) ** (1 / (b + 1)),
)
DECAY = Family(
    parameter="tau",
    shape=lambda k, tau: np.exp(-k / tau),
    bounds=_scale_bounds,
    reach=lambda y, tau: -tau * np.log(y),
    marginal=lambda t, tau: -tau * np.log(t * tau),
)
LOGARITHM = Family(
    parameter="",
    shape=lambda k, _: -np.log(k),
    bounds=None,
    reach=None,
    marginal=lambda t, _: 1 / t,
)


@dataclass(frozen=True)
class Law:
    """A law G(k) = a f(k; theta) + c; theta is searched where `theta` is None, else fixed."""

    name: str
    formula: str
    latex: str
    parameters: tuple[str, ...]
    family: Family
    theta: float | None = None

    def curve(self, k: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Return G at k (n,) for coefficients (..., 3) = (a, theta, c), as (..., n)."""
        a, theta, c = np.moveaxis(coefficients[..., None], -2, 0)
        return a * self.family.shape(k, theta) + c

    def column(self, parameter: str) -> int:
        """Return where a named parameter stands in the coefficients (a, theta, c)."""
        return {"a": 0, "c": 2}.get(parameter, 1)


LAWS = {
    law.name: law
    for law in (
        Law("inverse_sqrt", "a/√k + c", r"a\,k^{-1/2} + c", ("a", "c"), POWER, 0.5),
        Law("free_exponent", "a k^-b + c", r"a\,k^{-b} + c", ("a", "b", "c"), POWER),
        Law("pure_power", "a k^-b", r"a\,k^{-b}", ("a", "b"), POWER),
        Law("exponential", "a exp(-k/τ) + c", r"a\,e^{-k/\tau} + c", ("a", "tau", "c"), DECAY),
        Law("inverse", "a/k + c", r"a\,k^{-1} + c", ("a", "c"), POWER, 1.0),
        Law("logarithmic", "c - a log k", r"c - a \log k", ("a", "c"), LOGARITHM, 0.0),
    )
}


@dataclass(frozen=True)
class Fit:
    """A law fitted to a table of gaps.

    `parameters` is empty where the k are too few for a curve (`fitted` False). `identifiable` is
    False where the data do not pin the law down, and `reason` says why; the estimates, if any,
    are then a description of these points and no more. `r2` is that of the seed means,
    unweighted, in linear gap space; `r2_null` and `r2_null_95` are the median and 95th percentile
    that random falling curves reach (see `null_r2`), `r2_null_share` the share of them that
    reach at least `r2`. `loo_error` is in units of the gap. None stands for "not available".
    """

    law: Law
    parameters: dict[str, Interval] = field(default_factory=dict)
    r2: float | None = None
    r2_null: float | None = None
    r2_null_95: float | None = None
    r2_null_share: float | None = None
    aicc: float | None = None
    loo_error: float | None = None
    identifiable: bool = False
    reason: str = ""
    level: float = 0.95
    # (1 + D, 3): estimate, then draws, of (a, theta, c); one row where there is no interval
    coefficients: np.ndarray = field(default=None, repr=False, compare=False)

    @property
    def fitted(self) -> bool:
        """Whether there is a curve to draw."""
        return bool(self.parameters)

    def predict(self, k) -> pd.DataFrame:
        """Predict the mean gap at seen or unseen k.

        k: one or several sample counts > 0. Returns the columns k, gap, low, high; the interval
        is that of the curve, not of a single new seed; low and high are NaN for one seed.
        Raises ValueError where no curve was fitted or a k is not positive.
        """
        k = np.atleast_1d(np.asarray(k, dtype=float))
        if not (k > 0).all():
            raise ValueError(f"cannot predict at k={k.min():g}; choose k > 0")
        gaps = self.law.curve(k, self._curves())
        band = _quantiles(gaps[1:], self.level) if len(gaps) > 1 else np.full((2, len(k)), np.nan)
        return pd.DataFrame({"k": k, "gap": gaps[0], "low": band[0], "high": band[1]})

    def k_sat(self, tau: float) -> Interval:
        """Saturation point: the k at which the reducible part is the fraction tau of the floor.

        a f(k) = tau c; (a / (tau c))^2 for the inverse square root. `high` is infinite where the
        interval of c includes 0. Raises ValueError for a law or an estimate without floor c > 0.
        """
        self._check_falling(tau)
        if "c" not in self.law.parameters or self.law.family.reach is None:
            raise ValueError(f"{self.law.formula} has no floor, so nothing saturates; use k_within")
        floors = self.coefficients[:, 2]
        if floors[0] <= 0:
            raise ValueError(
                f"the fitted floor is c={floors[0]:.3g}, so the gap does not saturate above 0; "
                "use k_marginal or k_within"
            )
        return self._crossing(self.law.family.reach, tau * floors)

    def k_within(self, tolerance: float) -> Interval:
        """Return the k at which the curve is within `tolerance` (gap units) of its limit.

        a f(k) = tolerance; (a / tolerance)^2 for the inverse square root. Raises ValueError for
        the logarithmic law, which has no limit.
        """
        self._check_falling(tolerance)
        if self.law.family.reach is None:
            raise ValueError(f"{self.law.formula} has no limit to come near; use k_marginal")
        return self._crossing(self.law.family.reach, tolerance)

    def k_marginal(self, tolerance: float) -> Interval:
        """Return the smallest k past which one more sample gains less than `tolerance`.

        -dG/dk = tolerance; (a / (2 tolerance))^(2/3) for the inverse square root.
        """
        self._check_falling(tolerance)
        return self._crossing(self.law.family.marginal, tolerance)

    def _curves(self) -> np.ndarray:
        if not self.fitted:
            raise ValueError(f"{self.law.name} was not fitted: {self.reason}")
        return self.coefficients

    def _check_falling(self, tolerance: float) -> None:
        a = self._curves()[0, 0]
        if a <= 0:
            raise ValueError(f"the fitted curve does not fall (a={a:.3g}), so it never saturates")
        if not 0 < tolerance < np.inf:
            raise ValueError(f"the tolerance is {tolerance}; choose a number > 0")

    def _crossing(self, inverse: Callable, threshold) -> Interval:
        a, theta, _ = self.coefficients.T
        with np.errstate(all="ignore"):
            k = np.maximum(inverse(threshold / a, theta), 0.0)
        k = np.where(a <= 0, 0.0, np.where(np.asarray(threshold) <= 0, np.inf, k))
        return _interval(k, self.level)


class Choice(NamedTuple):
    """The law preferred, by which criterion, and the rivals that cannot be told from it."""

    law: str
    criterion: str  # "aicc" or "loo_error"
    rivals: tuple[str, ...]


def gap_matrix(trials: pd.DataFrame, method: str, measure: str = "gap_error") -> pd.DataFrame:
    """Return the gaps of one method: rows seeds, columns k, mean over evaluations.

    trials: the tidy table of the study. measure: "gap_error" or "gap_cross_entropy". Cells whose
    trials all failed are NaN. Raises ValueError for an unknown method or measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}; choose one of {', '.join(MEASURES)}")
    rows = trials[trials["method"] == method]
    if rows.empty:
        known = ", ".join(sorted(trials["method"].unique()))
        raise ValueError(f"no trials of method {method!r}; the table has: {known}")
    done = rows[rows["status"] == "ok"]
    means = done.groupby(["seed", "k"])[measure].mean().unstack("k")
    return means.reindex(
        index=pd.Index(sorted(rows["seed"].unique()), name="seed"),
        columns=pd.Index(sorted(rows["k"].unique()), name="k"),
    )


def seed_means(gaps: pd.DataFrame) -> SeedMeans:
    """Average the gaps over seeds, with standard errors fit for weighting.

    With few seeds the variance at one k is itself noisy (a factor of 2 either way at 5 seeds), so
    log variances are shrunk to a line in log k by empirical Bayes (Smyth 2004, limma): what they
    scatter around it beyond the noise of log chi2, trigamma(df/2), decides how much of each k's
    own variance is kept. Before, variances are floored at 1 % of their mean; a k with one seed
    takes the line. k without any gap drop out. Raises ValueError for k that are not positive or
    repeat, and for infinite gaps.
    """
    ks, values = np.asarray(gaps.columns, dtype=float), gaps.to_numpy(dtype=float, na_value=np.nan)
    if len(np.unique(ks)) < len(ks) or not (ks > 0).all() or np.isinf(values).any():
        raise ValueError("gaps need columns of distinct k > 0 and finite values (NaN if failed)")
    order = [i for i in np.argsort(ks) if np.isfinite(values[:, i]).any()]
    ks, values = ks[order], values[:, order]
    values = values[np.isfinite(values).any(axis=1)]
    present = np.isfinite(values)
    counts = present.sum(axis=0)
    means = np.where(present, values, 0.0).sum(axis=0) / counts
    residuals = np.where(present, values - means, 0.0)
    scale = np.abs(means).max(initial=0.0)
    variances = _shrunk_variances(ks, (residuals**2).sum(axis=0), counts - 1, scale)
    errors = None if variances is None else np.sqrt(variances / counts)
    return SeedMeans(ks, means, errors, residuals, counts)


def _shrunk_variances(ks, squares, freedom, scale: float) -> np.ndarray | None:
    pooled = squares.sum() / max(freedom.sum(), 1)
    if pooled <= (SAME * scale) ** 2:
        return None
    own = freedom > 0
    half = freedom[own] / 2
    logs = np.log(np.maximum(squares[own] / freedom[own], 0.01 * pooled))
    logs -= special.digamma(half) - np.log(half)  # E log(chi2/df): the logs become unbiased
    noise = special.polygamma(1, half)
    degree = 1 if len(logs) > 2 else 0
    line = np.polyfit(np.log(ks[own]), logs, degree, w=noise**-0.5)
    offsets = logs - np.polyval(line, np.log(ks[own]))
    spread = max(0.0, (offsets**2).sum() / max(len(logs) - degree - 1, 1) - noise.mean())
    trend = np.polyval(line, np.log(ks))
    trend[own] += spread / (spread + noise) * offsets
    return np.exp(trend)


def _draw_means(table: SeedMeans, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Draw seed means (D, K) by reweighting whole seeds, so what a seed shares over k is kept."""
    seeds = len(table.residuals)
    # The residuals take the size of the shrunk errors: weights favour the k whose own variance
    # came out small by chance, so intervals built on those raw variances would be too narrow.
    size = np.sqrt((table.residuals**2).sum(axis=0))
    moving = size > 0
    patterns = table.residuals / np.where(moving, size, 1.0)
    noise = generator.standard_normal((draws, seeds)) @ patterns
    alone = generator.standard_normal(noise.shape)
    freedom = seeds - 1
    spread = np.sqrt(generator.chisquare(freedom, (draws, 1)) / freedom)
    return table.means + np.where(moving, noise, alone) * table.errors / spread


def _solve(shapes, means, weights, floor: bool):
    """Weighted least squares of means on a f + c over the last axis; returns a, c, residual sum."""
    if floor:
        total = weights.sum(axis=-1, keepdims=True)
        shape_mean = (weights * shapes).sum(axis=-1, keepdims=True) / total
        gap_mean = (weights * means).sum(axis=-1, keepdims=True) / total
    else:
        shape_mean = gap_mean = np.zeros(1)
    f, g = shapes - shape_mean, means - gap_mean
    ff, fg = (weights * f * f).sum(axis=-1), (weights * f * g).sum(axis=-1)
    # A covariance that is pure rounding is a slope of 0: constant curves come out exactly flat.
    size = np.sqrt(ff * (weights * means**2).sum(axis=-1))
    a = np.where(np.abs(fg) > SAME * size, fg, 0.0) / np.where(ff > 0, ff, 1.0)
    rss = (weights * (g - a[..., None] * f) ** 2).sum(axis=-1)
    return a, gap_mean[..., 0] - a * shape_mean[..., 0], rss


def _fit_curves(law: Law, ks, means, weights) -> np.ndarray:
    """Fit many curves, means (D, K) with weights (D or 1, K); returns (a, theta, c) as (D, 3).

    theta is searched on a grid in log theta over its whole range, then on ever finer grids
    around the best point: no starting value, no local optimum wider than the first grid.
    """
    floor, means, weights = "c" in law.parameters, means[:, None], weights[:, None]
    low, high = np.log(law.family.bounds(ks)) if law.theta is None else (0.0, 0.0)
    grid, step = np.linspace(low, high, 81)[None], (high - low) / 80
    while True:
        thetas = np.exp(grid) if law.theta is None else np.full((1, 1), law.theta)
        a, c, rss = _solve(law.family.shape(ks, thetas[..., None]), means, weights, floor)
        best = rss.argmin(axis=1)[:, None]
        if step < 1e-8:
            break
        centre = np.take_along_axis(np.broadcast_to(grid, rss.shape), best, axis=1)
        grid, step = np.clip(centre + np.linspace(-step, step, 13), low, high), step / 6
    found = (a, np.broadcast_to(thetas, rss.shape), c)
    return np.stack([np.take_along_axis(x, best, axis=1)[:, 0] for x in found], axis=1)


def _r2(means: np.ndarray, curves: np.ndarray) -> np.ndarray:
    total = ((means - means.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return 1 - ((means - curves) ** 2).sum(axis=-1) / total


def null_r2(ks, law: str, draws: int = 1000, seed: int = 0, weights=None) -> np.ndarray:
    """Return the R² (draws,) that a law reaches on random falling curves at these k.

    Each curve is K uniform numbers sorted downwards, fitted with `weights` (K,), default equal,
    so the null passes through the same steps as the data. A high R² of the data says little
    where this null is as high.
    """
    ks, law = np.asarray(ks, dtype=float), _law(law)
    curves = -np.sort(-np.random.default_rng(seed).uniform(size=(draws, len(ks))), axis=1)
    weights = np.ones(len(ks)) if weights is None else np.asarray(weights, dtype=float)
    return _r2(curves, law.curve(ks, _fit_curves(law, ks, curves, weights[None])))


def fit(gaps: pd.DataFrame, law: str, *, draws=1000, seed=0, level=0.95) -> Fit:
    """Fit one law to a table of gaps by weighted least squares on the seed means.

    gaps: index seed, columns k, NaN where a trial failed. Weights: see `seed_means`. Intervals
    are percentiles of a multiplier bootstrap over seeds: each draw adds to the means the seeds'
    residuals times random Gaussian weights, one a seed, with the size of the shrunk standard
    errors, over sqrt(chi2/df) with df = seeds - 1: Student t, where resampled rows would be too
    narrow at 5 seeds. Simulated coverage of 95 % intervals on G = k^-1/2 + 0.05 at six k from 10
    to 1000, 5 seeds, normal noise 0.01 that is independent, falls as k^-1/2 or is joined by a
    shift of 0.01 shared by all k of a seed: a and c of the inverse square root 92 to 96 % (2000
    tables each), b of the free exponent 93 to 94 % (1000); with 3 seeds 92 to 95 %.

    AICc takes the seed variances as known and k as independent: chi2 + 2p + 2p(p+1)/(K-p-1), p
    parameters; what a seed shares over k makes chi2 small and so favours fewer parameters. The
    leave-one-k-out error is the root mean square of the errors at the left-out k.
    Raises ValueError for an unknown law or a level outside (0, 1).
    """
    law, table = _law(law), seed_means(gaps)
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level={level}, draws={draws}; choose 0 < level < 1 and draws >= 1")
    needed = len(law.parameters) + 1
    if len(table.ks) < needed:
        reason = f"gaps at {len(table.ks)} distinct k; {law.formula} needs at least {needed}"
        return Fit(law, reason=reason, level=level)
    curves, weights = table.means[None], table.weights[None]
    if table.errors is not None:
        generator = np.random.default_rng(seed)
        curves = np.concatenate([curves, _draw_means(table, draws, generator)])
    coefficients = _fit_curves(law, table.ks, curves, weights)
    parameters = {p: _interval(coefficients[:, law.column(p)], level) for p in law.parameters}
    reason = _doubt(law, table, parameters)
    return Fit(
        law,
        parameters,
        **_quality(law, table, coefficients[0], draws, seed),
        identifiable=not reason,
        reason=reason,
        level=level,
        coefficients=coefficients,
    )


def fit_all(gaps: pd.DataFrame, *, draws=1000, seed=0, level=0.95) -> dict[str, Fit]:
    """Fit every law of `LAWS` to a table of gaps; see `fit`."""
    return {name: fit(gaps, name, draws=draws, seed=seed, level=level) for name in LAWS}


def _quality(law: Law, table: SeedMeans, coefficients, draws: int, seed: int) -> dict:
    ks, means, weights = table.ks, table.means, table.weights
    curve = law.curve(ks, coefficients)
    null = null_r2(ks, law.name, draws, seed, weights)
    flat = np.ptp(means) <= SAME * np.abs(means).max()
    r2 = None if flat else float(_r2(means, curve))
    spare = len(ks) - len(law.parameters) - 1
    aicc = None
    if table.errors is not None and spare > 0:
        p = len(law.parameters)
        aicc = float((weights * (means - curve) ** 2).sum() + 2 * p + 2 * p * (p + 1) / spare)
    kept = weights * (1 - np.eye(len(ks)))
    left_out = _fit_curves(law, ks, np.tile(means, (len(ks), 1)), kept)
    misses = means - np.diag(law.curve(ks, left_out))
    return {
        "r2": r2,
        "r2_null": float(np.median(null)),
        "r2_null_95": float(np.quantile(null, 0.95)),
        "r2_null_share": None if r2 is None else float((null >= r2).mean()),
        "aicc": aicc,
        "loo_error": float(np.sqrt((misses**2).mean())),
    }


def _doubt(law: Law, table: SeedMeans, parameters: dict[str, Interval]) -> str:
    """Say why the data do not pin the law down; empty if they do."""
    a = parameters["a"]
    if a.estimate <= 0:
        return f"the curve does not fall (a={a.estimate:.3g})"
    if a.low is None:
        seeds = len(table.residuals)
        cause = "one seed" if seeds == 1 else "no difference between the seeds at any k"
        return f"{cause}, so no seed variance: equal weights, no intervals, no AICc"
    if a.low <= 0:
        return "the interval of a includes 0: the curve may be flat"
    if law.theta is None:
        low, high = law.family.bounds(table.ks)
        theta = parameters[law.family.parameter]
        if theta.low < low * 1.001 or theta.high > high * 0.999:
            name = law.family.parameter
            return f"the interval of {name} reaches the bound of its search [{low:g}, {high:g}]"
    return ""


def best(fits: dict[str, Fit]) -> Choice | None:
    """Return the law with the least AICc among the fitted, and its rivals within 2 units.

    Where no AICc is available (one seed, or too few k) the least leave-one-k-out error decides,
    and every other fitted law stays a rival. None if nothing was fitted. Ask the winner's
    `identifiable` too: the best of six may still be no law.
    """
    scores = {name: found.aicc for name, found in fits.items() if found.aicc is not None}
    if scores:
        winner = min(scores, key=scores.get)
        near = (name for name in scores if scores[name] - scores[winner] <= 2)
        return Choice(winner, "aicc", tuple(name for name in near if name != winner))
    errors = {name: found.loo_error for name, found in fits.items() if found.fitted}
    if not errors:
        return None
    winner = min(errors, key=errors.get)
    return Choice(winner, "loo_error", tuple(name for name in errors if name != winner))


def summary(fits: dict[str, Fit]) -> pd.DataFrame:
    """Tabulate fits, one row a law; pd.NA where something is not available.

    Columns: law, then each parameter with _low and _high, r2, r2_null, r2_null_95, r2_null_share,
    aicc, delta_aicc (to the least), loo_error, identifiable, reason.
    """
    names = list(dict.fromkeys(p for found in fits.values() for p in found.law.parameters))
    names.sort(key=("a", "b", "tau", "c").index)
    least = min((f.aicc for f in fits.values() if f.aicc is not None), default=None)
    rows = []
    for name, found in fits.items():
        row = {"law": name}
        for parameter in names:
            values = found.parameters.get(parameter, (None, None, None))
            columns = (parameter, f"{parameter}_low", f"{parameter}_high")
            row |= dict(zip(columns, values, strict=True))
        for column in ("r2", "r2_null", "r2_null_95", "r2_null_share", "aicc"):
            row[column] = getattr(found, column)
        row["delta_aicc"] = None if found.aicc is None else found.aicc - least
        rows.append(row | {"loo_error": found.loo_error})
    table = pd.DataFrame(rows).set_index("law").astype("Float64").reset_index()
    return table.assign(
        identifiable=[found.identifiable for found in fits.values()],
        reason=[found.reason for found in fits.values()],
    )


def curves(fits: dict[str, Fit], ks) -> pd.DataFrame:
    """Tabulate the fitted curves at ks: law, k, gap, low, high; unfitted laws are left out."""
    tables = [f.predict(ks).assign(law=name) for name, f in fits.items() if f.fitted]
    columns = ["law", "k", "gap", "low", "high"]
    empty = pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns] if tables else empty


def _law(name: str) -> Law:
    if name not in LAWS:
        raise ValueError(f"unknown law {name!r}; choose one of {', '.join(LAWS)}")
    return LAWS[name]


def _quantiles(draws: np.ndarray, level: float) -> np.ndarray:
    """Return the two ends (2, ...) of the percentile interval over axis 0; draws may be inf."""
    tail = (1 - level) / 2
    places = np.rint(np.array([tail, 1 - tail]) * (len(draws) - 1)).astype(int)
    return np.sort(draws, axis=0)[places]


def _interval(values: np.ndarray, level: float) -> Interval:
    """Return the estimate values[0] with the percentile interval of the draws values[1:]."""
    if len(values) == 1:
        return Interval(float(values[0]), None, None)
    return Interval(float(values[0]), *map(float, _quantiles(values[1:], level)))
