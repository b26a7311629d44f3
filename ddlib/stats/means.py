"""Gaps of a study by seed and k: as tables, their means over seeds, and the errors of these.

Letters: C configurations, M members of a family, S seeds, K distinct k, D bootstrap draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddlib.stats.intervals import SAME, seed_multipliers

MEASURES = ("gap_error", "gap_cross_entropy")


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

    def draw(self, draws: int, seed: int) -> np.ndarray:
        """Draw means (D, K) by reweighting whole seeds, so that what a seed shares is kept."""
        scaled = self.residuals / np.sqrt(self.counts * (self.counts - 1))
        return self.means + seed_multipliers(self.seeds, draws, seed, self.freedom) @ scaled


def gap_matrix(trials: pd.DataFrame, method: str, measure: str = "gap_error") -> pd.DataFrame:
    """Return the gaps of one method: rows seeds, columns k, mean over evaluations.

    measure: one of MEASURES. Cells whose trials all failed are NaN. Raises ValueError for an
    unknown method or measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}; choose {' or '.join(MEASURES)}")
    rows = trials[trials["method"] == method]
    if rows.empty:
        known = ", ".join(sorted(trials["method"].unique()))
        raise ValueError(f"no trials of method {method!r}; the table has: {known}")
    gaps = rows[measure].where(rows["status"] == "ok")
    return gaps.groupby([rows["seed"], rows["k"]]).mean().unstack("k")


class Cube(NamedTuple):
    """Gaps in error (C, S, K) of configurations, NaN where a trial is missing."""

    names: list[str]
    seeds: np.ndarray  # ids
    ks: np.ndarray  # ascending
    values: np.ndarray

    def of(self, members: Sequence[str]) -> np.ndarray:
        """Return the gaps (M, S, K) of the members."""
        return self.values[[self.names.index(name) for name in members]]


def gap_cube(gaps: pd.DataFrame, names: Sequence[str] | None = None) -> Cube:
    """Lay out the gaps of one method: columns configuration, seed, k, gap_error, perhaps status.

    names: configurations, default all. Evaluations of one distilled set are averaged; what did not
    end "ok" is missing. Raises ValueError for several methods, one seed, and k <= 0.
    """
    if "method" in gaps and gaps["method"].nunique() > 1:
        raise ValueError(f"gaps of {gaps['method'].nunique()} methods; choose the rows of one")
    names = list(dict.fromkeys(gaps["configuration"] if names is None else names))
    seeds, ks = np.sort(gaps["seed"].unique()), np.sort(gaps["k"].unique())
    if len(seeds) < 2:
        raise ValueError(f"gaps of {len(seeds)} seed cannot show noise; give at least 2 seeds")
    if ks[0] <= 0:
        raise ValueError(f"gaps at k={ks[0]:g}; every k must be > 0")
    ended = gaps[(gaps.get("status", "ok") == "ok") & gaps["gap_error"].notna()]
    cells = ended.groupby(["configuration", "seed", "k"])["gap_error"].mean()
    cells = cells.reindex(pd.MultiIndex.from_product([names, seeds, ks])).to_numpy(float)
    values = cells.reshape(len(names), len(seeds), len(ks))
    return Cube(names, seeds, ks.astype(float), values)


def seed_means(gaps: pd.DataFrame) -> SeedMeans:
    """Average the gaps over seeds, and estimate the errors of the means.

    A gap is its mean, plus a shift of the seed that is the same at every k (such as that of its
    network on all data), plus noise of its own, whose log variance is a line in log k. The three
    variance parameters maximise the restricted likelihood. A k with fewer than two seeds is left
    out, unless there is one seed only. Raises ValueError for k that are not positive or repeat, and
    for infinite gaps.
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
        noise, shift = _variances(ks, residuals, known)
        shared = shift / len(values)
        errors = np.sqrt((noise + shift) / counts - shared)  # fewer seeds share less of the shift
        weights = errors**-2.0
    missing = {int(k): int(count) for k, count in lost.items() if count}
    seeds = list(gaps.index)
    return SeedMeans(ks, means, errors, shared, weights, residuals, counts, seeds, asked, missing)


def _variances(ks, residuals, known) -> tuple[np.ndarray, float]:
    """Return the variance (K,) of a gap's own noise, and that of the shift a seed shares over k.

    The likelihood is searched on ever finer grids of the slope of the log variance and of the log
    ratio of the shift's variance to the own one; their level comes in closed form.
    """
    counts, line = known.sum(axis=0), np.log(ks) - np.log(ks).mean()
    scaled = residuals * np.sqrt(counts / (counts - 1))  # with the variance of the gaps
    slope, ratio, reach = 0.0, -2.0, np.array([4.0, 7.0])
    for _ in range(5):
        slopes, ratios = (np.linspace(-1, 1, 21)[:, None] * reach + [slope, ratio]).T
        noise = np.exp(slopes[:, None] * line)
        weight, sums, squares = (
            (known / noise[:, None] * scaled**power).sum(axis=2) for power in range(3)
        )  # (slopes, S)
        shift = np.exp(ratios)[:, None, None]
        total = 1 + shift * weight  # (ratios, slopes, S)
        level = (squares - shift * sums**2 / total).sum(axis=2) / known.sum()
        loss = known.sum() * np.log(np.maximum(level, SAME**2)) + np.log(total).sum(axis=2)
        loss += slopes * (known @ line).sum()
        best = np.unravel_index(loss.argmin(), loss.shape)
        slope, ratio, reach = slopes[best[1]], ratios[best[0]], reach / 5
    return level[best] * np.exp(slope * line), float(level[best] * np.exp(ratio))
