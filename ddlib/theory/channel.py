"""The coverage law in a controlled family: sampled S, S sent through a channel, optimised S.

Configurations are unit vectors u_c, and gap_c(S) = |<u_c, mean(S) - mean(D)>|. The family's
geometry is known, and so are its covers. The last part replaces <u_c, x> by features phi_c(x).

Letters: M configurations, N of them distinct, W worlds (possible data sets), k samples of S, q
symbols of an alphabet, d dimensions.
"""

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import integrate, optimize, special, stats
from threadpoolctl import threadpool_limits

from ddlib.stats.intervals import Interval, student

COPIES, ANGLES = 8, (5, 20)  # of the families with near duplicates; degrees
DISTILLERS = ("samples", "herding", "every choice", "free decoder")
NOISY = ("mean", "free decoder")
APART = 2.01  # between worlds, in epsilons: more than 2, so that no S serves two of them
CLOSE = 1e-7  # gaps below this count as none
Features = Callable[[np.ndarray], np.ndarray]  # of points (n, d): phi (n, M)


class Line(NamedTuple):
    """A straight line through seeds' curves: slope with its 95 % interval over seeds, R^2."""

    slope: Interval
    r2: float


# (a) S is sampled.


def union_bound(count: np.ndarray | int, k: np.ndarray | float) -> np.ndarray:
    """Return sqrt(2 ln(2N) / k), the bound for N members at sigma = 1 (statement 12)."""
    return np.sqrt(2 * np.log(2 * np.asarray(count, dtype=float)) / k)


def simulate_worst(
    counts: Sequence[int],
    draws: int,
    seeds: int,
    generator: np.random.Generator,
    copies: int = 1,
    angle: float = 0.0,
) -> pd.DataFrame:
    """Simulate the mean worst gap of sampled S, at sigma = k = 1, for families of many sizes.

    A family has N orthonormal centres and `copies` members around each, at `angle` (radians) from
    it in directions of their own; angle 0 makes them duplicates. Columns count (N), members (M =
    N copies), seed, worst (mean over draws). For k samples divide it by sqrt(k).
    """
    rows = []
    for count in counts:
        for seed in range(seeds):
            centres = generator.normal(size=(draws, count, 1))
            around = generator.normal(size=(draws, count, copies)) if angle else 0.0
            worst = np.abs(np.cos(angle) * centres + np.sin(angle) * around).max(axis=(1, 2))
            rows.append((count, count * copies, seed, worst.mean()))
    return pd.DataFrame(rows, columns=["count", "members", "seed", "worst"])


def slopes(table: pd.DataFrame) -> tuple[Line, tuple[Line, Line], float]:
    """Return k*'s line in ln N over all families, and over either half of them, and a ratio.

    table: as `simulate_worst` returns it. k* is in units of sigma^2 / epsilon^2. The ratio is the
    largest mean worst gap over its union bound.
    """
    worst = table.pivot(index="count", columns="seed", values="worst")
    stars, half = worst**2, len(worst) // 2

    def line(stars: pd.DataFrame) -> Line:
        x = np.log(stars.index.to_numpy(float))
        r2 = np.corrcoef(x, stars.mean(axis=1))[0, 1] ** 2
        return Line(student(np.polyfit(x, stars, 1)[0]), float(r2))

    ratio = float((worst.mean(axis=1) / union_bound(worst.index, 1)).max())
    return line(stars), (line(stars[: half + 1]), line(stars[half:])), ratio


def sampled_sizes(counts: Sequence[int], draws: int, seeds: int) -> pd.DataFrame:
    """Tabulate k* of sampled S against ln M: columns x, k_star (sigma^2 / epsilon^2), line.

    Families of M independent directions, and of N = M / COPIES with COPIES members each:
    duplicates, and near duplicates at ANGLES. Beside them the union bound of M, and for near
    duplicates the bound of statement 13.
    """
    fewer = np.unique([count // COPIES for count in counts if count >= 2 * COPIES])
    sizes = np.unique([*counts, *fewer, *(COPIES * fewer)])  # beside each other, at equal N and M
    kinds = {"independent": (sizes, 1, 0), "duplicates": (fewer, COPIES, 0)}
    kinds |= {f"{angle}° apart": (fewer, COPIES, angle) for angle in ANGLES}
    worst = {"union bound of M": pd.Series(union_bound(sizes, 1), sizes)}
    for line, (centres, copies, angle) in kinds.items():
        radians, members = np.deg2rad(angle), centres * copies
        tables = [  # a stream for each N, so that duplicates have the draws of their centres
            simulate_worst([n], draws, seeds, np.random.default_rng(n), copies, radians)
            for n in centres
        ]
        worst[line] = pd.concat(tables).groupby("members")["worst"].mean()
        if angle:
            spread = 2 * np.sin(radians / 2) * union_bound(members, 1)
            bound = union_bound(centres, 1) + spread
            worst[f"statement 13 at {angle}°"] = pd.Series(bound, members)
    table = pd.concat(worst, names=["line", "x"]).rename("k_star").reset_index()
    return table.assign(x=np.log(table["x"]), k_star=table["k_star"] ** 2)


# (b) S goes through a channel.


def fano_success(k: np.ndarray | int, worlds: int, nats: float) -> np.ndarray:
    """Return the largest share of worlds that k samples can serve (statement 14).

    nats: what one sample may say about the world.
    """
    return np.minimum(1.0, (np.asarray(k) * nats + np.log(2)) / np.log(worlds))


def quantised_success(
    distiller: str, worlds: int, k: int, alphabet: int, generator: np.random.Generator
) -> float:
    """Return the share of worlds that a distiller serves with k symbols of an alphabet of q.

    Worlds have the means APART e_v, in units of epsilon; the symbols are the first q of them.
    samples: symbols nearest to samples of D; herding: greedily nearest mean; every choice: the best
    of all multisets; free decoder: S spells the number of the world.
    """
    means = APART * np.eye(worlds)
    points = means[:alphabet]
    if distiller == "free decoder":
        return min(1.0, float(alphabet) ** k / worlds)
    if distiller == "every choice":
        choices = combinations_with_replacement(range(alphabet), k)
        reached = np.array([points[list(choice)].mean(axis=0) for choice in choices])[:, None]
    elif distiller == "samples":
        samples = means[:, None] + generator.normal(size=(worlds, k, worlds))
        nearest = ((samples[:, :, None] - points) ** 2).sum(axis=-1).argmin(axis=-1)
        reached = points[nearest].mean(axis=1)
    else:
        total = np.zeros_like(means)
        for taken in range(1, k + 1):
            options = (total[:, None] + points) / taken
            nearest = ((options - means[:, None]) ** 2).sum(axis=-1).argmin(axis=1)
            total += points[nearest]
        reached = total / k
    served = (np.abs(reached - means) <= 1).all(axis=-1)
    return float(np.atleast_2d(served).any(axis=0).mean())


def noisy_success(distiller: str, worlds: int, k: np.ndarray | int, noise: float) -> np.ndarray:
    """Return the chance that k noisy samples serve a world, exactly; noise in units of epsilon.

    Every sample is x + N(0, noise^2 I) with x the world's mean, of length APART. mean: the mean of
    S is taken as it comes; free decoder: the reader takes the direction in which it is largest.
    """
    root = np.sqrt(np.asarray(k, dtype=float)) / noise
    if distiller == "free decoder":
        z = np.linspace(-9, 9, 2001)
        chance = stats.norm.pdf(z) * special.ndtr(z + APART * root[..., None]) ** (worlds - 1)
        return integrate.trapezoid(chance, z, axis=-1)
    return (special.ndtr(root) - special.ndtr(-root)) ** worlds


# (c) S is optimised over the reals.


def draw_family(kind: str, count: int, width: int, generator: np.random.Generator) -> Features:
    """Draw M features in d dimensions: "linear" u'x, "quadratic" (u'x)^2, or "network".

    A network has one hidden layer of 4 tanh units.
    """
    units = 4 if kind == "network" else 1
    weights = generator.normal(size=(count, units, width))
    weights /= np.linalg.norm(weights, axis=2, keepdims=True)
    if kind != "network":
        power = {"linear": 1, "quadratic": 2}[kind]
        return lambda points: (points @ weights[:, 0].T) ** power
    shifts, outer = generator.normal(size=(2, count, units))

    def network(points: np.ndarray) -> np.ndarray:
        inside = np.einsum("chd,nd->nch", 1.5 * weights, points) + shifts
        return np.einsum("ch,nch->nc", outer, np.tanh(inside))

    return network


def first(features: Features, count: int) -> Features:
    """Return the first features of a family."""
    return lambda points: features(points)[:, :count]


def rank(features: Features, points: np.ndarray) -> int:
    """Return the rank of the family's centred features at points (n, d)."""
    values = features(points)
    return int(np.linalg.matrix_rank(values - values.mean(axis=0), tol=1e-8 * len(points)))


@threadpool_limits.wrap(limits=1)  # several threads make small matrices slow
def least_size(
    features: Features, real: np.ndarray, generator: np.random.Generator, attempts: int = 6
) -> int:
    """Return the least k for which optimised points in R^d leave every gap below CLOSE.

    real: D (n, d). Least squares from `attempts` sets of real points at each k, so an upper
    estimate. Raises ValueError where twice rank + 1 points do not suffice; by Caratheodory's
    theorem rank + 1 would, with weights.
    """
    target, width = features(real).mean(axis=0), real.shape[1]

    def missed(flat: np.ndarray) -> np.ndarray:
        return features(flat.reshape(-1, width)).mean(axis=0) - target

    largest = 2 * (rank(features, real) + 1)
    # Complex steps. ftol ends the search at a least value that is not zero; none ends near zero.
    exact = {"jac": "cs", "xtol": 1e-15, "ftol": 1e-6, "gtol": 1e-15}
    for k in range(1, largest + 1):
        for _ in range(attempts):
            start = real[generator.choice(len(real), k, replace=False)].ravel()
            if np.abs(optimize.least_squares(missed, start, **exact).fun).max() < CLOSE:
                return k
    raise ValueError(f"no {largest} points match D for all configurations; allow more attempts")
