"""Generalised least squares of curves a f(k; theta) + c, many at once.

Letters: K distinct k, D curves.
"""

from collections.abc import Callable

import numpy as np

from ddlib.stats.intervals import SAME


def fit_curves(
    shape: Callable, bounds: tuple[float, float], ks, means, weights, level: float
) -> np.ndarray:
    """Fit curves, means (D, K) with weights (D or 1, K); returns (a, theta, c) as (D, 3).

    shape: (k, theta) -> f; bounds: of theta, both the same where it is fixed; level: see `solve`.
    theta is searched on a grid in log theta over its whole range, then on finer grids around the
    best point. So there is no starting value.
    """
    thetas = np.full((len(means), 1), bounds[0])

    def chi2(grid: np.ndarray) -> np.ndarray:
        shapes = shape(ks, np.exp(grid)[..., None])
        return solve(shapes, means[:, None], weights[:, None], level)[2]

    if bounds[0] < bounds[1]:
        low, high = np.log(bounds)
        grid, reach = np.linspace(low, high, 81)[None], (high - low) / 80
        best = grid[0, chi2(grid).argmin(axis=1)][:, None]
        for points, finer in ((7, 3), (7, 3), (7, 100), (3, 1)):
            grid = np.clip(best + np.linspace(-reach, reach, points), low, high)
            best, reach = _vertex(grid, chi2(grid)), reach / finer
        thetas = np.exp(np.clip(best, low, high))
    a, c, _ = solve(shape(ks, thetas), means, weights, level)
    return np.stack([a, thetas[:, 0], c], axis=1)


def solve(shapes, means, weights, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit means by a f + c over the last axis; returns a, c and chi2.

    weights: one over the variance of each mean; level: the variance of a shift that all means
    share. An infinite level is a free floor c; otherwise c is 0. To weigh by the inverse of the
    covariance diag(1/w) + level 11' is to subtract a `part` of the weighted mean first: none of it
    without a shift, all of it for a free floor (Sherman & Morrison 1950).
    """
    total = weights.sum(axis=-1, keepdims=True)
    part = 1 - 1 / np.sqrt(1 + level * total)
    shape_mean = part * np.vecdot(weights, shapes)[..., None] / total
    gap_mean = part * np.vecdot(weights, means)[..., None] / total
    f, g = shapes - shape_mean, means - gap_mean
    ff, fg = np.vecdot(weights * f, f), np.vecdot(weights * f, g)
    # A covariance that is pure rounding is a slope of 0: constant curves come out exactly flat.
    size = np.sqrt(ff * np.vecdot(weights * means, means))
    a = np.where(np.abs(fg) > SAME * size, fg, 0.0) / np.where(ff > 0, ff, 1.0)
    misses = g - a[..., None] * f
    chi2 = np.vecdot(weights * misses, misses)
    return a, np.isinf(level) * (gap_mean[..., 0] - a * shape_mean[..., 0]), chi2


def _vertex(grid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return where values (D, T) over an even grid are least (D, 1), between its points too.

    That is the vertex of the parabola through the least value and its neighbours.
    """
    best = values.argmin(axis=1)[:, None]
    middle = np.clip(best, 1, grid.shape[1] - 2)
    around = middle + np.array([-1, 0, 1])
    (before, least, after), (left, place, right) = (
        np.split(np.take_along_axis(array, around, axis=1), 3, axis=1) for array in (values, grid)
    )
    bend = before - 2 * least + after
    shift = np.where(bend > 0, (before - after) / np.where(bend > 0, bend, 1.0), 0.0) / 2
    vertex = place + shift * (right - left) / 2
    return np.where(best == middle, vertex, np.take_along_axis(grid, best, axis=1))
