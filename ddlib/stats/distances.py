"""How far apart training configurations are, from arrays that their networks gave.

Who trained the networks does not matter. A distance matrix is a DataFrame (M, M) with the names of
the configurations on both axes.

Letters: M configurations, S seeds, N probe samples, C classes, F features.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used

from ddlib.stats.intervals import SAME

NOISE_SEEDS = 4  # fewest seeds for the noise floor
PROBES = 20  # fewest probe samples for CKA: the scatter of unrelated ones is sqrt(2 / N(N - 3))
ROUNDING = 1e-9  # distances that differ by this part of the diameter count as equal


def prediction_distance(probabilities: Sequence[np.ndarray], names: Sequence[str]) -> pd.DataFrame:
    """Return the distance between mean predictions, without the noise of the seeds.

    probabilities: (M, S, N, C), each network trained on the same data, S >= 2. d^2(c, c') =
    ||mean_c - mean_c'||^2 / N, from products of different seeds only, so that the variance
    between seeds does not add to it: d^2 has no bias, d = sqrt(max(d^2, 0)) has a little.
    Configurations may share draws seed by seed. Raises ValueError for what is no such array.
    """
    products = _other_seeds(_predictions(probabilities))
    norms = np.diag(products)
    squares = norms[:, None] + norms - products - products.T
    rounding = np.abs(squares) <= SAME * np.abs(norms).max()
    return _frame(np.sqrt(np.where(rounding, 0.0, squares).clip(0)), names)


def noise_floor(probabilities: Sequence[np.ndarray]) -> float:
    """Return the distance that seeds alone pass once in twenty: the least meaningful radius.

    Between two configurations of seed covariance T that do not differ, d^2 has mean 0 and
    variance 8 tr(T^2) / S(S-1), and nearly the shape of a centred chi2 with tr(T)^2 / tr(T^2)
    degrees of freedom (Satterthwaite 1946). tr(T^2) is estimated without bias, as HSIC_1 of the
    seeds with themselves, and averaged over the configurations. Raises ValueError for fewer than
    four seeds.
    """
    values = _predictions(probabilities, NOISE_SEEDS)
    seeds = values.shape[1]
    overlap = 2 * (_gram_vectors(values) ** 2).sum(axis=-1).mean() / (seeds * (seeds - 3))
    if overlap == 0:
        return 0.0
    traces = values.var(axis=1, ddof=1).sum(axis=-1)
    freedom = max((traces**2).mean() / overlap, 1.0)
    excess = scipy.stats.chi2.ppf(0.95, freedom) - freedom
    square = excess * np.sqrt(8 * overlap / (seeds * (seeds - 1)) / (2 * freedom))
    return float(np.sqrt(square))


def update_distance(updates: Sequence[np.ndarray], names: Sequence[str]) -> pd.DataFrame:
    """Return the root mean square distance between normalised updates at shared states.

    updates: (M, states, P), what one step adds to P weights, or to N x C outputs for
    configurations that share no weights. Each state's update has unit norm, so d is in [0, 2] and
    a step size alone makes no difference. Raises ValueError for an update that is zero.
    """
    values = _stack(updates)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    if not norms.all():
        place, state, _ = np.argwhere(norms == 0)[0]
        raise ValueError(
            f"{names[place]!r} does not move at state {state}; leave that state out for all"
        )
    flat = (values / norms).reshape(len(values), -1)
    distances = scipy.spatial.distance.pdist(flat) / np.sqrt(values.shape[1])
    return _frame(scipy.spatial.distance.squareform(distances), names)


def representation_distance(
    representations: Sequence[np.ndarray], names: Sequence[str]
) -> pd.DataFrame:
    """Return 1 - CKA (linear) of representations on the probe set, seed noise taken out.

    representations: M arrays (S, N, F_m), S >= 2. CKA is the cosine between Gram matrices without
    the bias of few samples: HSIC_1 of Song et al. (2012, eq. 5), as in Nguyen et al. (2021). Its
    mean over pairs of different seeds is divided by what the seeds of one configuration reach
    among themselves (geometric mean of the two), so it is plain CKA where seeds agree. Its square
    root is a metric, but for noise. Raises ValueError for fewer than PROBES samples, or
    representations without structure.
    """
    arrays = [np.asarray(array, dtype=float) for array in representations]
    if few := [len(array[0]) for array in arrays if len(array[0]) < PROBES]:
        raise ValueError(
            f"a probe set of {few[0]} samples is too small for CKA; choose >= {PROBES}"
        )
    values = _stack([_gram_vectors(array) for array in arrays], 2)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    products = _other_seeds(values / np.where(norms > 0, norms, 1.0))
    agreed = np.diag(products)
    if (agreed <= 0).any():
        name = names[int(agreed.argmin())]
        raise ValueError(
            f"the seeds of {name!r} share no structure (CKA <= 0): its networks learned nothing; "
            "train them longer, or with a smaller learning rate"
        )
    return _frame(np.maximum(1 - products / np.sqrt(np.outer(agreed, agreed)), 0.0), names)


DISTANCES = {
    "predictions": (prediction_distance, lambda observed: observed["probabilities"]),
    "updates": (update_distance, lambda observed: observed["increments"].mean(axis=0)),
    "representations": (representation_distance, lambda observed: observed["features"]),
}
"""Distances by name: the function of arrays and names, and what takes the array of one
configuration from what `Result.observed` gives of it."""


def by_kind(observed: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, pd.DataFrame]:
    """Return the distance matrix of every kind of DISTANCES between configurations.

    observed: {configuration: what `Result.observed` gives of it}, with the same seeds for all.
    Updates are in function space, over parts of the training, and means over seeds. A model without
    steps, such as gradient boosting, only predicts: where one is among them, other kinds are left
    out. So is, with a warning, another kind that raises ValueError, as for networks that learned
    nothing.
    """
    only_predict = any("increments" not in arrays for arrays in observed.values())
    tables = {}
    for kind, (distance, take) in DISTANCES.items():
        if kind != "predictions" and only_predict:
            continue
        try:
            tables[kind] = distance([take(arrays) for arrays in observed.values()], list(observed))
        except ValueError as error:
            if kind == "predictions":
                raise
            warnings.warn(f"no distances of {kind}: {error}", stacklevel=2)
    return tables


def agreement(kinds: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return how alike distance matrices order the pairs: Spearman's correlation of each two."""
    return pd.DataFrame({kind: pairs(matrix_of(d)) for kind, d in kinds.items()}).corr("spearman")


def embed(distance: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Place the configurations in the plane by classical scaling (Torgerson 1952).

    Returns points (columns x, y) and the share of the whole that they show: the two eigenvalues
    over the sum of the absolute values of all, so what no Euclidean space holds counts against it;
    1 if all distances are 0. Axes point to the side of their farthest member.
    """
    squares = matrix_of(distance) ** 2
    centred = squares - squares.mean(axis=0) - squares.mean(axis=1, keepdims=True) + squares.mean()
    eigenvalues, vectors = np.linalg.eigh(-centred / 2)
    largest = np.maximum(eigenvalues[:-3:-1], 0)  # of two configurations or more
    axes = vectors[:, :-3:-1] * np.sqrt(largest)
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1, 1)
    total = np.abs(eigenvalues).sum()
    points = pd.DataFrame(axes, index=distance.index, columns=["x", "y"])
    return points, float(largest.sum() / total) if total > 0 else 1.0


def matrix_of(
    distance: pd.DataFrame, members: Sequence[str] | None = None, family: str = "the family"
) -> np.ndarray:
    """Return the distances (M, M) between `members`, default all.

    Raises ValueError for members and for a distance matrix that are none.
    """
    members = list(distance.index if members is None else members)
    if not members:
        raise ValueError(f"{family} is empty; name at least one configuration")
    if unknown := [str(name) for name in members if name not in distance.index]:
        raise ValueError(f"{family} names {', '.join(unknown)}, which the distance matrix lacks")
    matrix = distance.loc[members, members].to_numpy(float)
    sound = np.isfinite(matrix).all() and (matrix >= 0).all() and not np.diag(matrix).any()
    if not sound or np.abs(matrix - matrix.T).max() > ROUNDING * matrix.max():
        raise ValueError("distances must be finite, symmetric, >= 0, and 0 on the diagonal")
    return matrix


def pairs(matrix: np.ndarray) -> np.ndarray:
    """Return the distances between all pairs, (M(M-1)/2,)."""
    return matrix[np.triu_indices(len(matrix), 1)]


def _stack(arrays: Sequence[np.ndarray], seeds: int = 1) -> np.ndarray:
    """Return M arrays of one shape as one; raises ValueError for missing values and fewer seeds."""
    values = np.asarray(arrays, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError(
            "infinite or missing values; leave out networks that failed, or whose features are too "
            "large for half precision"
        )
    if values.shape[1] < seeds:
        raise ValueError(f"{values.shape[1]} seeds are too few here; give at least {seeds}")
    return values


def _predictions(probabilities: Sequence[np.ndarray], seeds: int = 2) -> np.ndarray:
    """Return (M, S, N C), so scaled that a squared length is a mean over samples, and centred."""
    values = _stack(probabilities, seeds)
    if values.min() < -1e-6 or np.abs(values.sum(axis=-1) - 1).max() > 1e-2:
        raise ValueError("predictions must be probabilities that sum to 1; apply softmax first")
    flat = values.reshape(*values.shape[:2], -1) / np.sqrt(values.shape[2])
    return flat - flat.mean(axis=(0, 1))  # differences stay, rounding shrinks


def _other_seeds(values: np.ndarray) -> np.ndarray:
    """Return the mean product (M, M) of a seed of one with another seed of the other."""
    seeds, totals = values.shape[1], values.sum(axis=1)
    same = np.einsum("isp,jsp->ij", values, values, optimize=True)
    return (totals @ totals.T - same) / (seeds * (seeds - 1))


def _gram_vectors(features: np.ndarray) -> np.ndarray:
    """Return the upper triangles (..., N(N-1)/2) of N items' Gram matrices, U-centred for HSIC_1.

    The mean over off-diagonal entries of a product of two such matrices is HSIC_1 but for a
    factor that CKA cancels (Székely & Rizzo 2014 write it so).
    """
    n = features.shape[-2]
    features = features - features.mean(axis=-2, keepdims=True)
    grams = features @ features.swapaxes(-2, -1) * (1 - np.eye(n))
    rows = grams.sum(axis=-1, keepdims=True) / (n - 2)
    total = grams.sum(axis=(-2, -1), keepdims=True) / ((n - 1) * (n - 2))
    centred = grams - rows - rows.swapaxes(-2, -1) + total
    return centred[..., *np.triu_indices(n, 1)]


def _frame(matrix: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 0.0)
    return pd.DataFrame(matrix, index=list(names), columns=list(names))
