"""The worst gap over a family of configurations, by cross-fitting.

The largest of noisy means (`raw`) is too high on average, and more so with more members. That alone
would make k* grow with ln M. So the worst member is chosen on all seeds but one and measured on
that one, for all seeds in turn (cross-fitted). That is too low where members differ a little: at
M = 16, by 0.25 of one gap's noise where they differ by half of it (raw: 0.31 too high). The truth
is expected between the two, so both are shown. Missing trials are never filled in: see `usable`.

Letters: M members, S seeds, K sizes, D draws.
"""

from collections.abc import Sequence

import numpy as np

from ddlib.stats.intervals import seed_multipliers


def usable(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say which sizes (..., K) and seeds (..., S) of members (..., M, S, K) can be used.

    Sizes: where at least 2 seeds have every member. Seeds: those that have every member there.
    """
    known = ~np.isnan(values).any(axis=-3)  # (..., S, K)
    sizes = known.sum(axis=-2) >= 2
    return sizes, (known | ~sizes[..., None, :]).all(axis=-1) & known.any(axis=-1)


def cross_fit(values: np.ndarray, scores=None) -> tuple[np.ndarray, np.ndarray]:
    """Return the worst of members (..., M, S, K) on the other seeds, and its gap in each seed.

    Both (..., S, K). scores: by which members are chosen for a seed, default their sums over the
    other seeds.
    """
    if scores is None:
        scores = values.sum(axis=-2, keepdims=True) - values
    chosen = scores.argmax(axis=-3, keepdims=True)
    gaps = np.take_along_axis(np.broadcast_to(values, scores.shape), chosen, axis=-3)
    return chosen.squeeze(-3), gaps.squeeze(-3)


def worst_over(values: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the worst gap (1 + D, K) of members (M, S, K), chosen and measured on other seeds.

    weights: see `seed_weights`.
    """
    measure, choose = weights
    _, gaps = cross_fit(values, choose[:, None] @ values)
    return (measure[..., None] * gaps).sum(axis=-2)


def raw_worst(values: np.ndarray) -> np.ndarray:
    """Return the largest mean over seeds (..., K) of members (..., M, S, K); it leans upwards."""
    return values.mean(axis=-2).max(axis=-2)


def seed_weights(seeds: Sequence[int], draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of seeds to measure (1 + D, S) and to choose (1 + D, S, S).

    seeds: their ids. Row s of the latter leaves seed s out. The first draw weighs seeds equally.
    """
    count = len(seeds)
    noise = np.vstack([np.zeros((1, count)), seed_multipliers(seeds, draws, 0)])
    measure = 1 / count + (noise - noise.mean(axis=1, keepdims=True)) / np.sqrt(count * (count - 1))
    others = (1 - np.eye(count)) / (count - 1)
    change = noise[:, None] * (1 - np.eye(count))
    change -= change.sum(axis=-1, keepdims=True) * others
    return measure, others + change / np.sqrt((count - 1) * max(count - 2, 1))
