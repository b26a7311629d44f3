"""How many configurations cover a family: distance matrix in, H_cov and its rivals out.

H_cov(A, r) = ln N(A, d, r) is the quantity in which the coverage law (arXiv 2512.05817) states
what a family A costs: N is the least number of members whose closed balls of radius r hold all of
A. Distance matrices are those of `ddlib.stats.distances`.

Letters: M members.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used

from ddlib.stats.distances import ROUNDING, matrix_of, pairs

QUANTILE = 0.25  # of the distances: the default radius, see `radii`
QUANTILES = (0.1, QUANTILE, 0.5, 0.75)


def cover(distance: pd.DataFrame, radius: float) -> tuple[str, ...]:
    """Return a least set of centres, among the members, whose closed balls hold all.

    By integer programming. Raises ValueError for a radius that is negative or infinite.
    """
    return tuple(distance.index[_cover(matrix_of(distance), radius)])


def h_cov_curve(distance: pd.DataFrame, members: Sequence[str] | None = None) -> pd.DataFrame:
    """Return H_cov of a family at every radius where it jumps: it holds from a row to the next.

    members: the family, default all. Columns: radius, covering_number, h_cov.
    """
    matrix = matrix_of(distance, members)
    radii = np.unique(np.append(0.0, matrix))

    def number(radius: float) -> int:
        return len(_cover(matrix, radius))

    places, numbers = [0], [number(0.0)]
    while numbers[-1] > 1:  # N falls with r: search for where it next does
        places.append(bisect_right(radii, -numbers[-1], key=lambda radius: -number(radius)))
        numbers.append(number(radii[places[-1]]))
    curve = pd.DataFrame({"radius": radii[places], "covering_number": numbers})
    return curve.assign(h_cov=np.log(numbers))


def vendi(kernel: np.ndarray) -> float:
    """Return the log of the Vendi score of a kernel (M, M) (Friedman & Dieng 2023).

    The entropy of the eigenvalues of K / M; its exponential is Roy & Vetterli's effective rank.
    """
    return scipy.stats.entropy(np.linalg.eigvalsh(kernel).clip(0))


def measures(
    distance: pd.DataFrame, families: Mapping[str, Sequence[str]], radius: float, bandwidth: float
) -> pd.DataFrame:
    """Tabulate H_cov and its rivals, index family; natural logs but for members, mean_distance.

    Columns: members (M); log_members (the paper's regressor); h_cov; vendi, of the kernel K =
    exp(-d / bandwidth); mean_distance (over pairs; 0 for one member). K is positive semidefinite
    for Euclidean distances and for 1 - CKA (Schoenberg 1938), but for noise: negative eigenvalues
    count as 0. Raises ValueError for a bad family, radius or bandwidth.
    """
    if not 0 < bandwidth < np.inf:
        raise ValueError(f"the bandwidth is {bandwidth}; choose a number > 0, see radii")
    rows = {}
    for name, members in families.items():
        matrix = matrix_of(distance, members, f"family {name!r}")
        kernel, m = np.exp(-matrix / bandwidth), len(members)
        rows[name] = {
            "members": m,
            "log_members": np.log(m),
            "h_cov": np.log(len(_cover(matrix, radius))),
            "vendi": vendi(kernel),
            "mean_distance": matrix.sum() / max(m * (m - 1), 1),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("family")


def radii(distance: pd.DataFrame, floor: float = 0.0) -> pd.Series:
    """Return radii to use, by quantile of the distances between all configurations.

    The radius is the lower quartile (QUANTILE), where neither all members count (r = 0) nor one
    ball holds all, and never less than `floor` (see `noise_floor`); the other quantiles are for
    varying it. The median, 0.5, serves as bandwidth. Raises ValueError for one configuration.
    """
    values = pairs(matrix_of(distance))
    if not len(values):
        raise ValueError("one configuration has no distances; give at least two")
    radii = np.maximum(np.quantile(values, QUANTILES), floor)
    return pd.Series(radii, index=pd.Index(QUANTILES, name="quantile"), name="radius")


def spread_families(
    distance: pd.DataFrame, size: int | Sequence[int], count: int
) -> dict[str, tuple[str, ...]]:
    """Pick `count` families of each size from tight to wide: {"spread of 4, 1": members, ...}.

    Candidates grow from every member by the neighbour at a fixed rank of the distance to the
    family: nearest gives tight ones, farthest wide ones. Those whose mean distances come nearest
    to `count` equal steps from least to most are taken. Raises ValueError for fewer than `count`.
    """
    if isinstance(size, Sequence):
        groups = [spread_families(distance, one, count) for one in size]
        return {name: members for group in groups for name, members in group.items()}
    matrix = matrix_of(distance)
    if not 2 <= size < len(matrix) or count < 2:
        allowed = f"2 <= size < {len(matrix)} configurations and count >= 2"
        raise ValueError(f"size={size}, count={count} give no choice; choose {allowed}")
    starts, ranks = range(len(matrix)), np.linspace(0, 1, 11)
    grown = sorted({_grow(matrix, start, size, rank) for start in starts for rank in ranks})
    if len(grown) < count:
        raise ValueError(f"only {len(grown)} distinct families of {size}; choose a lower count")
    spreads = {family: pairs(matrix[np.ix_(family, family)]).mean() for family in grown}
    taken = []
    for target in np.linspace(min(spreads.values()), max(spreads.values()), count):
        left = [family for family in grown if family not in taken]
        taken.append(min(left, key=lambda family: abs(spreads[family] - target)))
    taken.sort(key=spreads.get)
    return {
        f"spread of {size}, {i}": tuple(distance.index[list(family)])
        for i, family in enumerate(taken, 1)
    }


def _grow(matrix: np.ndarray, start: int, size: int, rank: float) -> tuple[int, ...]:
    family = [start]
    while len(family) < size:
        left = np.setdiff1d(np.arange(len(matrix)), family)
        order = left[np.argsort(matrix[np.ix_(family, left)].min(axis=0), kind="stable")]
        family.append(int(order[round(rank * (len(order) - 1))]))
    return tuple(sorted(family))


def _cover(matrix: np.ndarray, radius: float) -> np.ndarray:
    """Return the places of a least cover's centres."""
    if not 0 <= radius < np.inf:
        raise ValueError(f"the radius is {radius}; choose a finite number >= 0")
    near = matrix <= radius + ROUNDING * matrix.max()
    solution = scipy.optimize.milp(
        np.ones(len(matrix)),
        integrality=np.ones(len(matrix)),
        bounds=(0, 1),
        constraints=scipy.optimize.LinearConstraint(near.astype(float), lb=1),
    )
    if not solution.success:
        raise RuntimeError(f"the integer program was not solved: {solution.message}")
    return np.flatnonzero(solution.x > 0.5)
