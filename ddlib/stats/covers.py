"""How far apart training configurations are, and how many of them cover a family.

H_cov(A, r) = ln N(A, d, r) is the quantity in which the coverage law (arXiv 2512.05817) states
what a family A costs: N is the least number of members whose closed balls of radius r hold all of
A. Here are three distances d between configurations, covers, and the rivals of H_cov. Arrays
only: who trained the networks does not matter. A distance matrix is a DataFrame (M, M) with the
names of the configurations on both axes.

Letters: M configurations, S seeds, N probe images, C classes, F features, D draws.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used

from ddlib.stats.distances import as_matrix, pair_values, tolerance
from ddlib.stats.intervals import SAME

EXACT = 60  # up to this many configurations covers and packings are solved exactly


QUANTILE = 0.25  # of the distances: the default radius, see `radii`


QUANTILES = (0.1, QUANTILE, 0.5, 0.75)


"""Distances by name: `distance(arrays, names)` gives the matrix between configurations, and
`take(observed)` the array of one of them, from what `Result.observed` gives of it."""


def greedy_cover(distance: pd.DataFrame, radius: float) -> tuple[str, ...]:
    """Return centres, among the members, of closed balls that hold all: farthest point first.

    Starts from the member whose farthest is nearest (Gonzalez 1985). The centres are more than
    r apart, so they are a packing as well: N(r) <= their number <= P(r) <= N(r/2), the last where
    the triangle inequality holds. Any M; see `cover` for N.
    """
    return tuple(distance.index[_greedy(as_matrix(distance), radius)])


def cover(distance: pd.DataFrame, radius: float) -> tuple[str, ...]:
    """Return a least set of centres, among the members, whose closed balls hold all.

    Integer programming: minimise sum x, every ball of a member holding a centre; the centres of
    `greedy_cover` for more than EXACT members. Raises ValueError for a radius that is negative or
    infinite.
    """
    return tuple(distance.index[_cover(as_matrix(distance), radius)])


def packing(distance: pd.DataFrame, radius: float) -> tuple[str, ...]:
    """Return a largest set of members of which any two are more than `radius` apart.

    Integer programming: maximise sum x, of two neighbours one at most; the centres of
    `greedy_cover` for more than EXACT members. Raises as `cover`.
    """
    return tuple(distance.index[_packing(as_matrix(distance), radius)])


def h_cov_curve(
    distance: pd.DataFrame, members: Sequence[str] | None = None, draws: np.ndarray | None = None
) -> pd.DataFrame:
    """Return H_cov of a family at every radius where it jumps: it holds from a row to the next.

    members: the family, default all. draws: (D, all, all), such as `prediction_draws`, for a 95 %
    band of H_cov at these radii; draws are noisier than the estimate, which lifts the band where
    r is near the noise. Columns: radius, covering_number, h_cov, and low, high with draws.
    Beyond EXACT members the numbers are those of `greedy_cover`. Raises as `measures`, and for
    draws of another shape.
    """
    chosen = list(distance.index if members is None else members)
    matrix = as_matrix(distance, chosen)
    levels = np.unique(np.append(0.0, matrix))

    @cache
    def number(place: int) -> int:
        return len(_cover(matrix, levels[place]))

    def jumps(low: int, high: int) -> list[int]:
        """Return the places after low, up to high, where N falls; not between two of equal N."""
        if high - low < 2 or number(low) == number(high):
            return [high] if number(high) < number(low) else []
        middle = (low + high) // 2
        return jumps(low, middle) + jumps(middle, high)

    places = [0, *jumps(0, len(levels) - 1)]
    numbers = [number(place) for place in places]
    curve = pd.DataFrame({"radius": levels[places], "covering_number": numbers})
    curve["h_cov"] = np.log(curve["covering_number"])
    if draws is None:
        return curve
    if np.shape(draws)[1:] != distance.shape:
        raise ValueError(f"draws have shape {np.shape(draws)}; give (D, *{distance.shape})")
    places = np.ix_(range(len(draws)), *[distance.index.get_indexer(chosen)] * 2)
    numbers = [[len(_cover(drawn, r)) for r in curve["radius"]] for drawn in draws[places]]
    low, high = np.quantile(np.log(numbers), [0.025, 0.975], axis=0)
    return curve.assign(low=low, high=high)


def measures(
    distance: pd.DataFrame, families: Mapping[str, Sequence[str]], radius: float, bandwidth: float
) -> pd.DataFrame:
    """Tabulate H_cov and its rivals, index family; natural logs but for members, mean_distance.

    Columns: members (M); log_members; h_cov, packing (exact, at `radius`); vendi (entropy of the
    eigenvalues of K/M, Friedman & Dieng 2023); leinster_cobbold (-mean ln(K p), p = 1/M, order 1,
    Leinster & Cobbold 2012); effective_rank; mean_distance (over pairs; 0 for one member). The
    effective rank of K/M of Roy & Vetterli (2007) is the Vendi score by definition, so this is
    the participation ratio of the same eigenvalues, -ln sum lambda^2. A repeated configuration
    leaves h_cov and packing alone, but shifts the weights of the others. Beyond EXACT members both
    count the centres of `greedy_cover`, which lie between them.

    K = exp(-d / bandwidth) is positive semidefinite wherever d is of negative type (Schoenberg
    1938): Euclidean distances are, and 1 - CKA, half a squared one, is too; a Gaussian kernel
    would ask d itself to be Euclidean. Noise may break it: negative eigenvalues count as 0.
    Raises ValueError for a family that is empty, repeats a name, or names an unknown one; and for
    a bandwidth that is not positive.
    """
    if not 0 < bandwidth < np.inf:
        raise ValueError(f"the bandwidth is {bandwidth}; choose a number > 0, see radii")
    rows = {}
    for name, members in families.items():
        matrix, m = as_matrix(distance, members, f"family {name!r}"), len(members)
        kernel = np.exp(-matrix / bandwidth) / m
        eigenvalues = np.maximum(np.linalg.eigvalsh(kernel), 0)
        eigenvalues = eigenvalues[eigenvalues > SAME] / eigenvalues.sum()
        rows[name] = {
            "members": m,
            "log_members": np.log(m),
            "h_cov": np.log(len(_cover(matrix, radius))),
            "packing": np.log(len(_packing(matrix, radius))),
            "vendi": -(eigenvalues * np.log(eigenvalues)).sum(),
            "leinster_cobbold": -np.log(kernel.sum(axis=1)).mean(),
            "effective_rank": -np.log((eigenvalues**2).sum()),
            "mean_distance": matrix.sum() / max(m * (m - 1), 1),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("family")


def radii(distance: pd.DataFrame, floor: float = 0.0) -> pd.Series:
    """Return radii to use, by quantile of the distances between all configurations.

    The rule: r is the lower quartile (QUANTILE) of the distances, where neither all members count
    (r = 0) nor one ball holds all, and never less than `floor` (see `noise_floor`); the other
    quantiles are for varying it. The median, 0.5, serves as bandwidth. Raises ValueError where
    the matrix holds a single configuration.
    """
    pairs = pair_values(as_matrix(distance))
    if not len(pairs):
        raise ValueError("one configuration has no distances; give at least two")
    values = np.maximum(np.quantile(pairs, QUANTILES), floor)
    return pd.Series(values, index=pd.Index(QUANTILES, name="quantile"), name="radius")


def spread_families(distance: pd.DataFrame, size: int, count: int) -> dict[str, tuple[str, ...]]:
    """Pick `count` families of `size` members from tight to wide: {"spread 1": members, ...}.

    Candidates grow from every member by the neighbour at a fixed rank of the distance to the
    family: nearest gives tight, farthest wide ones, ranks between them the rest. Those whose mean
    distances come nearest to `count` equal steps from least to most are taken. No draws. Raises
    ValueError where there are fewer than `count` such families.
    """
    matrix = as_matrix(distance)
    if not 2 <= size < len(matrix) or count < 2:
        allowed = f"2 <= size < {len(matrix)} configurations and count >= 2"
        raise ValueError(f"size={size}, count={count} give no choice; choose {allowed}")
    ranks = np.linspace(0, 1, 11)
    grown = {_grow(matrix, start, size, rank) for start in range(len(matrix)) for rank in ranks}
    spreads = {
        family: pair_values(matrix[np.ix_(family, family)]).mean() for family in sorted(grown)
    }
    if len(spreads) < count:
        raise ValueError(f"only {len(spreads)} distinct families of {size}; choose a lower count")
    taken = []
    for target in np.linspace(min(spreads.values()), max(spreads.values()), count):
        left = [family for family in spreads if family not in taken]
        taken.append(min(left, key=lambda family: abs(spreads[family] - target)))
    taken.sort(key=spreads.get)
    return {f"spread {i}": tuple(distance.index[list(f)]) for i, f in enumerate(taken, 1)}


def _grow(matrix: np.ndarray, start: int, size: int, rank: float) -> tuple[int, ...]:
    family = [start]
    while len(family) < size:
        left = np.setdiff1d(np.arange(len(matrix)), family)
        nearest = matrix[np.ix_(family, left)].min(axis=0)
        order = left[np.argsort(nearest, kind="stable")]
        family.append(int(order[round(rank * (len(order) - 1))]))
    return tuple(sorted(family))


def _reach(matrix: np.ndarray, radius: float) -> float:
    if not 0 <= radius < np.inf:
        raise ValueError(f"the radius is {radius}; choose a finite number >= 0")
    return radius + tolerance(matrix)


def _greedy(matrix: np.ndarray, radius: float) -> list[int]:
    """Return the places of the centres that `greedy_cover` takes."""
    reach = _reach(matrix, radius)
    centres = [int(matrix.max(axis=1).argmin())]
    while (left := matrix[centres].min(axis=0)).max() > reach:
        centres.append(int(left.argmax()))
    return centres


def _cover(matrix: np.ndarray, radius: float) -> Sequence[int]:
    """Return the places of a least cover's centres; of a greedy one's beyond EXACT members."""
    if len(matrix) > EXACT:
        return _greedy(matrix, radius)
    near = matrix <= _reach(matrix, radius)
    return _solve(np.ones(len(matrix)), scipy.optimize.LinearConstraint(near.astype(float), lb=1))


def _packing(matrix: np.ndarray, radius: float) -> Sequence[int]:
    """Return the places of a largest packing; of a greedy one beyond EXACT members."""
    if len(matrix) > EXACT:
        return _greedy(matrix, radius)
    near = matrix <= _reach(matrix, radius)
    pairs = np.argwhere(np.triu(near))[..., None] == np.arange(len(near))
    constraint = scipy.optimize.LinearConstraint(pairs.any(axis=1).astype(float), ub=1)
    return _solve(-np.ones(len(near)), constraint)


def _solve(costs: np.ndarray, constraint: "scipy.optimize.LinearConstraint") -> np.ndarray:
    """Return the places of the ones in the binary x that minimises costs."""
    found = scipy.optimize.milp(
        costs, integrality=np.ones(len(costs)), bounds=(0, 1), constraints=constraint
    )
    if not found.success:
        raise RuntimeError(f"the integer program was not solved: {found.message}")
    return np.flatnonzero(found.x > 0.5)
