"""The k* of families: the least k that holds the worst gap over all members; and their transfer.

The law under test: the k that holds the worst gap over a family A below epsilon, k*(epsilon, A),
grows linearly with H_cov(A, r) (arXiv 2512.05817); `ddlib.stats.regressions` tests it.

`gaps`: columns configuration, k, seed, gap_error, a row an evaluation (see `gap_cube`). Gaps must
be measured from each seed's own network on D: the error of a reference that all seeds share would
pass for a difference between configurations. `families`: the names of the members by family.

A family uses the sizes and seeds that are `usable`; the tables say how many. k* beyond the sizes of
the study counts as their bound. A family that lost that size has no k* there.

Letters: M members, S seeds, K sizes, E epsilons, D draws, B relabellings.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from math import factorial

import numpy as np
import pandas as pd

from ddlib.stats.intervals import interval
from ddlib.stats.means import Cube, gap_cube
from ddlib.stats.worst import cross_fit, raw_worst, seed_weights, usable, worst_over

Families = Mapping[str, Sequence[str]]
ABOVE, BELOW = "above the largest k", "below the smallest k"


@dataclass(frozen=True)
class KStars:
    """k* of each family and epsilon, its draws, and its values under every relabelling.

    Values beyond the sizes of the study count as their bound. NaN is unknown.
    """

    table: pd.DataFrame  # see `k_star`
    draws: np.ndarray = field(repr=False)  # (rows, 1 + D), estimate first
    relabelled: np.ndarray = field(repr=False)  # (2, rows, 1 + B), cross-fitted and raw, true first


def series(names: Iterable[str]) -> dict[str, str]:
    """Return the series that each family belongs to: its name without the number at its end.

    Nested families are named `name-2`, `name-3`, those of equal size `spread of 4, 1`.
    """
    return {name: re.sub(r"(-|, )\d+$", "", name) for name in names}


def worst_member(gaps: pd.DataFrame, members: Sequence[str]) -> tuple[str, float]:
    """Return the worst member of a family and its gap, cross-fitted, from gaps at one k.

    Raises as `k_star`, and ValueError where fewer than 2 seeds have every member.
    """
    values = _lay_out(gaps, {"chosen": members}).of(members)
    _, seeds = usable(values)
    if seeds.sum() < 2:
        raise ValueError("fewer than 2 seeds have every member at this k")
    chosen, worst = cross_fit(values[:, seeds])
    return pd.Series(np.array(members)[chosen[:, 0]]).mode().iloc[0], float(worst.mean())


def transfer(gaps: pd.DataFrame, families: Families, *, draws: int = 1000) -> pd.DataFrame:
    """Compare the gaps of families under each method with those under the first method.

    Columns: family, k, gap ("worst" or "mean" over members), method, n (seeds that have every
    member under both methods; with fewer than two nothing else is known), missing (the other
    seeds), first and other (the two gaps), difference (other - first) with low and high, raw (that
    of the largest means), significant (the interval excludes 0, and raw has the same sign), without
    correction for the number of cases. Raises as `k_star`, and ValueError for one method.
    """
    first, *others = gaps["method"].unique()
    if not others:
        raise ValueError(f"only {first!r} was run; give a second method to compare it with")
    _lay_out(gaps[gaps["method"] == first], families)  # for its checks
    names, tables = gaps["configuration"] + " by " + gaps["method"], []
    cube = gap_cube(gaps.assign(configuration=names, method=""))
    for method, (family, members), kind in product(others, families.items(), ("worst", "mean")):
        pair = [cube.of([f"{name} by {m}" for name in members]) for m in (first, method)]
        _, seeds = usable(np.concatenate(pair))
        n = int(seeds.sum())
        table = pd.DataFrame({"family": family, "k": cube.ks, "gap": kind, "method": method})
        tables.append(table.assign(n=n, missing=len(seeds) - n))
        if n < 2:
            continue
        pair = [values[:, seeds] for values in pair]
        weights = seed_weights(cube.seeds[seeds], draws)
        before, after = (
            worst_over(values, weights) if kind == "worst" else weights[0] @ values.mean(axis=0)
            for values in pair
        )  # (1 + D, K)
        ends = [interval(change) for change in (after - before).T]
        change, low, high = np.array(ends, dtype=float).T
        raw = raw_worst(pair[1]) - raw_worst(pair[0]) if kind == "worst" else change
        significant = ((low > 0) & (raw > 0)) | ((high < 0) & (raw < 0))
        columns = {"first": before[0], "other": after[0], "difference": change}
        columns |= {"low": low, "high": high, "raw": raw}
        tables[-1] = tables[-1].assign(**columns, significant=significant)
    names = ["family", "k", "gap", "method", "n", "missing", "first", "other", "difference"]
    table = pd.concat(tables).reindex(columns=[*names, "low", "high", "raw", "significant"])
    return table.assign(significant=table["significant"].eq(True)).reset_index(drop=True)


def k_star(
    gaps: pd.DataFrame,
    families: Families,
    epsilons: float | Sequence[float],
    *,
    draws: int = 1000,
    relabellings: int = 999,
) -> KStars:
    """Find the least k that holds the worst gap of each family at or below each epsilon.

    Worst gaps are made to fall by isotonic regression. k* is interpolated linearly in 1/√k, in
    which gaps are nearly straight. Intervals (95 %) are percentiles over draws that reweight whole
    seeds, the same in all families: they hold the noise of seeds, not the error of interpolation.

    relabellings: how many to draw for p-values; all orders of the configurations where there are
    no more. Columns of the table: family, epsilon, k_star (cross-fitted) with low and high, raw
    (of `raw_worst`, the other end of the range), censored (where k_star lies beyond the measured
    sizes; it then is the bound, as is raw), fails_at (the largest k whose worst gap exceeds
    epsilon), holds_at (the smallest k that holds it), seeds (used), missing_seeds and missing_sizes
    (left out), reason (why there is no k*). Raises as `gap_cube`, and ValueError for a family that
    is empty or has an unknown member.
    """
    epsilons = np.atleast_1d(np.asarray(epsilons, dtype=float))
    cube = _lay_out(gaps, families)
    orders = _orders(len(cube.names), relabellings)
    rows, drawn, relabelled = [], [], []
    for family, members in families.items():
        places = [cube.names.index(name) for name in members]
        table, values = _invert(cube, cube.values[places], epsilons, draws)
        drawn.append(values)
        relabelled.append(_relabel(cube, orders[:, places], epsilons))
        for epsilon, row, raw in zip(epsilons, table, relabelled[-1][1, :, 0], strict=True):
            rows.append({"family": family, "epsilon": epsilon, **row, "raw": raw})
    names = ["family", "epsilon", "k_star", "low", "high", "raw", "censored", "fails_at"]
    names += ["holds_at", "seeds", "missing_seeds", "missing_sizes", "reason"]
    table = pd.DataFrame(rows).reindex(columns=names)
    return KStars(table, np.concatenate(drawn), np.concatenate(relabelled, axis=1))


def _lay_out(gaps: pd.DataFrame, families: Families) -> Cube:
    """Check the families against the gaps, and return the gaps of all members."""
    known = set(gaps["configuration"])
    for family, members in families.items():
        if not len(members):
            raise ValueError(f"family {family!r} is empty; list its configurations")
        if unknown := [name for name in members if name not in known]:
            have = ", ".join(sorted(known))
            raise ValueError(f"no gaps of {unknown[0]!r} in family {family!r}; there are: {have}")
    return gap_cube(gaps, [name for members in families.values() for name in members])


def _invert(cube: Cube, values, epsilons, draws: int) -> tuple[list[dict], np.ndarray]:
    """Return a family's rows of the table of `k_star`, one an epsilon, and draws (E, 1 + D)."""
    sizes, seeds = usable(values)
    row = {"seeds": int(seeds.sum()), "missing_seeds": int((~seeds).sum())}
    row |= {"missing_sizes": int((~sizes).sum()), "censored": "", "reason": ""}
    if not sizes.any():
        row["reason"] = "no k has every member in 2 seeds"
    elif seeds.sum() < 2:
        count = f"{seeds.sum()} of {len(seeds)} seeds"
        row["reason"] = f"{count} have every member at every k; 2 needed"
    if row["reason"]:
        return [row] * len(epsilons), np.full((len(epsilons), 1 + draws), np.nan)
    weights, ks = seed_weights(cube.seeds[seeds], draws), cube.ks[sizes]
    falling = _isotonic(worst_over(values[:, seeds][..., sizes], weights))
    crossed, rows = _cross(falling, ks, epsilons), []
    for epsilon, drawn in zip(epsilons, crossed, strict=True):
        estimate, low, high = interval(drawn)
        failed = int((falling[0] > epsilon).sum())
        row |= dict(zip(("fails_at", "holds_at"), [np.nan, *ks, np.nan][failed:], strict=False))
        if np.isnan(_bounded(estimate, cube.ks, sizes)):
            drawn[:] = np.nan
            end = f"above {ks[-1]:g}" if estimate else f"below {ks[0]:g}"
            rows.append(row | {"reason": f"k* is {end}, where trials are missing"})
            continue
        if low is not None:
            low, high = min(low, ks[-1]), max(high, ks[0])
        censored = {0.0: BELOW, np.inf: ABOVE}.get(estimate, "")
        k = np.clip(estimate, ks[0], ks[-1])
        rows.append(row | {"k_star": k, "low": low, "high": high, "censored": censored})
    return rows, np.clip(crossed, cube.ks[0], cube.ks[-1])


def _relabel(cube: Cube, owned: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
    """Return k* (2, E, B) of a family whose members own other curves, cross-fitted and raw.

    owned (B, M): the places of these curves in the cube. NaN where missing trials leave no k*.
    """
    sizes, seeds = usable(cube.values[owned])
    k_stars = np.full((2, len(epsilons), len(owned)), np.nan)
    patterns, kinds = np.unique(np.hstack([sizes, seeds]), axis=0, return_inverse=True)
    for kind, pattern in enumerate(patterns):
        sizes, seeds = np.split(pattern, [len(cube.ks)])
        if not sizes.any() or seeds.sum() < 2:
            continue
        rows = np.flatnonzero(kinds == kind)
        values = cube.values[owned[rows]][:, :, seeds][..., sizes]
        for end, curves in enumerate((cross_fit(values)[1].mean(axis=-2), raw_worst(values))):
            crossed = _cross(_isotonic(curves), cube.ks[sizes], epsilons)
            k_stars[end][:, rows] = _bounded(crossed, cube.ks, sizes)
    return k_stars


def _bounded(crossed: np.ndarray, ks: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return k* with 0 and infinity set to the bound of ks (K,); NaN where that size was lost.

    sizes (K,): which of ks the family has left.
    """
    lost = ((crossed == 0) & ~sizes[0]) | (np.isinf(crossed) & ~sizes[-1])
    return np.where(lost, np.nan, np.clip(crossed, ks[0], ks[-1]))


def _isotonic(values: np.ndarray) -> np.ndarray:
    """Return the least-squares falling fit of values (B, K): min over starts of max over ends."""
    sums = np.concatenate([np.zeros((len(values), 1)), values.cumsum(axis=1)], axis=1)
    count, fitted = values.shape[1], np.empty(values.shape)
    for i in range(count):
        starts, ends = np.arange(i + 1)[:, None], np.arange(i, count)[None] + 1
        means = (sums[:, ends] - sums[:, starts]) / (ends - starts)  # (B, starts, ends)
        fitted[:, i] = means.max(axis=2).min(axis=1)
    return fitted


def _cross(falling: np.ndarray, ks: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
    """Return where falling curves (B, K) reach each epsilon (E, B): 0 if before, inf if never."""
    epsilons, curves = epsilons[:, None], np.arange(len(falling))
    held = falling <= epsilons[..., None]
    after = held.argmax(axis=2)
    before = np.maximum(after - 1, 0)
    high, low, roots = falling[curves, before], falling[curves, after], 1 / np.sqrt(ks)
    part = np.where(high > low, (high - epsilons) / np.where(high > low, high - low, 1), 0.0)
    k = (roots[before] + part * (roots[after] - roots[before])) ** -2.0
    return np.where(~held.any(axis=2), np.inf, np.where(falling[:, 0] < epsilons, 0.0, k))


def _orders(count: int, relabellings: int) -> np.ndarray:
    """Return orders (1 + B, count): that of now first, then drawn ones; all where no more exist."""
    if factorial(count) <= 1 + relabellings:
        return np.array(list(permutations(range(count))))
    drawn = np.tile(np.arange(count), (1 + relabellings, 1))
    drawn[1:] = np.random.default_rng([0, 2]).permuted(drawn[1:], axis=1)
    return drawn
