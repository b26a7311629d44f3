"""Quantisation: how near k points come to all points, a rival rate for distilled sets.

The best k points in R^d come within an error of about k^(-1/d) (Zador 1982; Tan & Slade, ICLR 2026,
arXiv 2501.07681). Against 1/sqrt(k) this is faster for d = 1 and slower for d > 2.

Letters: N points of D, k points of S, d dimensions.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2
from scipy.spatial import KDTree

MEASURED, PREDICTED = ("random points", "k-means"), ("predicted: k^(-1/d)", "1/√k")


def quantisation_error(real: np.ndarray, points: np.ndarray) -> float:
    """Return the root mean square distance from real (N, d) to the nearest of points (k, d)."""
    distances, _ = KDTree(points).query(real)
    return float(np.sqrt((distances**2).mean()))


def quantisation_rates(
    dimensions: Sequence[int], ks: Sequence[int], count: int, seeds: int
) -> pd.DataFrame:
    """Quantise N = count uniform points of a cube by k of them and by k-means; the mean of seeds.

    Columns d, k, line, error (`quantisation_error`). Beside the measured lines stand k^(-1/d) and
    k^(-1/2), drawn through the error of k-means at the largest k.
    """
    rows, last = [], max(ks)
    for d in dimensions:
        errors = {line: dict.fromkeys(ks, 0.0) for line in MEASURED}
        for seed in range(seeds):
            generator = np.random.default_rng([seed, d])
            real = generator.random((count, d))
            for k in ks:
                start = generator.choice(real, k, replace=False)
                centres, _ = kmeans2(real, start, iter=30, minit="matrix")
                for line, points in zip(MEASURED, (start, centres), strict=True):
                    errors[line][k] += quantisation_error(real, points) / seeds
        for line, exponent in zip(PREDICTED, (1 / d, 1 / 2), strict=True):
            errors[line] = {k: errors["k-means"][last] * (k / last) ** -exponent for k in ks}
        rows += [(d, k, line, e) for line, of_k in errors.items() for k, e in of_k.items()]
    return pd.DataFrame(rows, columns=["d", "k", "line", "error"])
