"""The coverage law: worst gaps over families, k*, and what explains k*.

The law under test: the k that holds the worst gap over a family A below epsilon, k*(epsilon, A),
grows linearly with H_cov(A, r) (arXiv 2512.05817). The paper's own regressor is ln M.

`gaps`: columns configuration, k, seed, gap_error, gap_cross_entropy, a row an evaluation (those
of one distilled set are averaged; a column status, where given, must say "ok"). `families`: the
names of the members by family. `measures`: one row a family, columns the predictors. Gaps must be
measured from each seed's own network on D: the error of a reference that all seeds share would
pass for a difference between configurations.

Missing trials are never filled in. A family uses the sizes at which at least 2 seeds have every
member, and of these the seeds that have every member at every such size; the tables say how many.
k* beyond these sizes counts as their bound, but not where the study's largest (or smallest) size
is among those a family lost: it then has no k*.

The largest of noisy means leans upwards, the more the more members there are, which would make k*
grow with ln M by itself. So the worst member is chosen on all seeds but one and measured on that
one, over all seeds in turn (cross-fitted). With 5 seeds, in units of one gap's noise, M = 2, 4, 8,
16 members that do not differ read +0.25, +0.46, +0.64, +0.79 too high at the largest mean (`raw`),
and 0.00 within simulation error here. Where members differ a little the choice may miss the worst,
so this leans downwards: at M = 16, by -0.25 where they differ by half the noise (`raw`: +0.31),
-0.12 at twice the noise (+0.08). The truth is expected between the two, which are both shown, and
a p-value is the larger of the two.

Intervals (95 %) are percentiles over draws that reweight whole seeds, jointly over all families,
configurations and k: Student t for one mean (`laws.seed_multipliers`). A seed's weights depend on
its id, so families and methods stay paired where one of them lost a seed.

p-values relabel configurations (Mantel 1967): which configuration owns which curve of gaps is
permuted, the distances and families stay, and every k* is computed again. Families that nest or
share members are alike in every relabelling too, so they do not count as independent. Simulated
size, power and coverage: docs/statistics.md.

Letters: C configurations, M members, S seeds, K sizes, F families, D draws, B relabellings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from math import factorial
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddlib.stats.intervals import interval, seed_multipliers
from ddlib.stats.laws import check_measure

Families = Mapping[str, Sequence[str]]


ABOVE, BELOW = "above the largest k", "below the smallest k"


GAPS = ("worst", "mean")


class Cube(NamedTuple):
    """Gaps (C, S, K) of all configurations, NaN where a trial is missing."""

    names: list[str]
    seeds: np.ndarray  # ids
    ks: np.ndarray
    values: np.ndarray

    def of(self, members: Sequence[str]) -> np.ndarray:
        """Return the gaps (M, S, K) of the members."""
        return self.values[self.places(members)]

    def places(self, members: Sequence[str]) -> list[int]:
        """Return the rows of the members."""
        return [self.names.index(name) for name in members]


@dataclass(frozen=True)
class KStars:
    """k* of each family and epsilon: its draws, and its values under every relabelling.

    Rows as in `table`; values beyond the sizes of the study count as their bound, as do draws
    beyond those that a family has left. NaN is unknown.
    """

    table: pd.DataFrame  # see `k_star`
    draws: np.ndarray = field(repr=False)  # (rows, 1 + D), estimate first
    relabelled: np.ndarray = field(repr=False)  # (2, rows, 1 + B), cross-fitted and raw, true first


def worst_gaps(gaps: pd.DataFrame, families: Families, measure="gap_error") -> pd.DataFrame:
    """Tabulate the worst and the mean gap of each family at each k and seed.

    Columns: family, k, seed, worst (of the member that is worst on the other seeds), mean (over
    members), worst_member (that member), raw (the largest mean over seeds, which leans upwards:
    see the module), seeds (that have every member at this k), missing (the other seeds). The row of
    a missing seed is empty, and so are all where fewer than 2 seeds are left. Raises ValueError
    for one seed, an empty family, a repeated or unknown member, and an unknown measure.
    """
    cube, tables = lay_out(gaps, families, measure), []
    for (family, members), (j, k) in product(families.items(), enumerate(cube.ks)):
        values, names = cube.of(members)[..., [j]], np.array(members, dtype=object)
        _, seeds = usable(values)
        count = int(seeds.sum())
        table = pd.DataFrame({"family": family, "k": k, "seed": cube.seeds})
        table = table.assign(seeds=count, missing=len(seeds) - count)
        if count >= 2:
            chosen, own, sums = (found[:, 0] for found in _cross_fit(values, seeds))
            table["worst"], table["mean"] = own, values[..., 0].mean(axis=0)
            table["worst_member"], table["raw"] = names[chosen], sums.max() / count
            table.loc[~seeds, ["worst", "mean", "worst_member", "raw"]] = np.nan
        tables.append(table)
    names = ["family", "k", "seed", "worst", "mean", "worst_member", "raw", "seeds", "missing"]
    return pd.concat(tables, ignore_index=True).reindex(columns=names)


def transfer(
    gaps: pd.DataFrame,
    families: Families,
    measure: str = "gap_error",
    *,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare what families get from each method with what they get from the first.

    gaps: with a column method, the first of which is the one compared with; for sets distilled on
    one network against sets distilled for several. Columns: family, k, gap ("worst", see the
    module, or "mean" over members), method, n (seeds that have every member under both methods;
    with fewer than two nothing else is known), missing (the other seeds), first and other (the two
    gaps), difference (other - first) with low and high over draws that reweight the same seeds in
    both, raw (that of the largest means, which leans the other way), told (the interval excludes 0,
    and raw has its sign). Cases are not corrected for their number: families that share their worst
    member repeat one another. Raises as `worst_gaps`, and ValueError for one method.
    """
    first, *others = gaps["method"].unique()
    if not others:
        raise ValueError(f"only {first!r} was run; give a second method to compare it with")
    cube = lay_out(
        gaps.assign(configuration=gaps["configuration"] + " by " + gaps["method"], method=""),
        {f: [f"{name} by {m}" for m in (first, *others) for name in families[f]] for f in families},
        measure,
    )
    rows = []
    for method, (family, members) in product(others, families.items()):
        cells = [cube.of([f"{name} by {each}" for name in members]) for each in (first, method)]
        _, seeds = usable(np.concatenate(cells))
        n = int(seeds.sum())
        head = {"family": family, "method": method, "n": n, "missing": len(seeds) - n}
        cases = list(product(GAPS, enumerate(cube.ks)))
        if n < 2:
            rows += [head | {"gap": kind, "k": k} for kind, (_, k) in cases]
            continue
        cells, weights = [c[:, seeds] for c in cells], seed_weights(cube.seeds[seeds], draws, seed)
        raw = np.diff([values.mean(axis=1).max(axis=0) for values in cells], axis=0)[0]
        pairs = {
            "worst": [worst_over(values, weights) for values in cells],
            "mean": [weights[0] @ values.mean(axis=0) for values in cells],
        }
        for kind, (j, k) in cases:
            before, after = (values[:, j] for values in pairs[kind])
            change, low, high = interval(after - before)
            lean = raw[j] if kind == "worst" else change
            told = (low > 0 and lean > 0) or (high < 0 and lean < 0)
            row = {"gap": kind, "k": k, "first": before[0], "other": after[0], "raw": lean}
            row |= {"difference": change, "low": low, "high": high, "told": told}
            rows.append(head | row)
    columns = ["family", "k", "gap", "method", "n", "missing", "first", "other"]
    columns += ["difference", "low", "high", "raw", "told"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    return table.assign(told=table["told"].eq(True))


def k_star(
    gaps: pd.DataFrame,
    families: Families,
    epsilons: float | Sequence[float],
    measure: str = "gap_error",
    *,
    draws: int = 1000,
    relabellings: int = 999,
    seed: int = 0,
) -> KStars:
    """Find the least k that holds the worst gap of each family at or below each epsilon.

    Worst gaps are made to fall by isotonic regression, then crossed linearly in 1/√k, on which
    gaps are nearly straight (in log k, k* of a/√k + c came out up to 20 % too large between 200
    and 500). Intervals hold the noise of seeds alone, not the error of this interpolation: what was
    measured is that k* lies between `fails_at` and `holds_at`.

    relabellings: how many to draw for p-values; all orders of the configurations where there are
    no more. Columns of the table: family, epsilon, k_star (cross-fitted) with low and high, raw
    (of the uncorrected worst gaps, the other end of the range), censored (where k_star lies beyond
    the measured sizes; it then is the bound, as is raw), fails_at (the largest k whose worst gap
    exceeds epsilon), holds_at (the smallest k that holds it), smallest and largest (k used), seeds
    (used), missing_seeds and missing_sizes (left out for missing trials: see the module), reason
    (why there is no k*, such as a larger size that was lost). raw is NaN where it lies beyond sizes
    that were lost. Above the largest k, low is at most that k and high infinite; below the
    smallest, low is 0 and high at least that k. Raises as `worst_gaps`, and for an epsilon that is
    not finite.
    """
    epsilons = np.atleast_1d(np.asarray(epsilons, dtype=float))
    if not np.isfinite(epsilons).all():
        raise ValueError(f"epsilon is {epsilons[~np.isfinite(epsilons)][0]}; choose a finite gap")
    cube = lay_out(gaps, families, measure)
    orders = _orders(len(cube.names), relabellings, seed)
    rows, drawn, relabelled = [], [], []
    for family, members in families.items():
        places = cube.places(members)
        table, values = _invert(cube, places, epsilons, draws, seed)
        drawn.append(values)
        relabelled.append(_relabel(cube, orders[:, places], epsilons))
        rows += [
            {"family": family, "epsilon": epsilon, **row, "raw": raw}
            for epsilon, row, raw in zip(epsilons, table, relabelled[-1][1, :, 0], strict=True)
        ]
    names = ["family", "epsilon", "k_star", "low", "high", "raw", "censored", "fails_at"]
    names += ["holds_at", "smallest", "largest", "seeds", "missing_seeds", "missing_sizes"]
    names += ["reason"]
    table = pd.DataFrame(rows).reindex(columns=names)
    return KStars(table, np.concatenate(drawn), np.concatenate(relabelled, axis=1))


def lay_out(gaps: pd.DataFrame, families: Families, measure: str) -> Cube:
    """Check gaps and families, and lay the gaps of all members out as a cube; none is filled in."""
    if "method" in gaps and gaps["method"].nunique() > 1:
        raise ValueError(f"gaps of {gaps['method'].nunique()} methods; choose the rows of one")
    if not len(families):
        raise ValueError("no family was given; name at least one, with its configurations")
    known = set(gaps["configuration"])
    for family, members in families.items():
        if not len(members):
            raise ValueError(f"family {family!r} is empty; list its configurations")
        if twice := [name for name in dict.fromkeys(members) if list(members).count(name) > 1]:
            raise ValueError(f"family {family!r} lists {twice[0]!r} twice; name each member once")
        if unknown := [name for name in members if name not in known]:
            have = ", ".join(sorted(known))
            raise ValueError(f"no gaps of {unknown[0]!r} in family {family!r}; there are: {have}")
    if gaps["seed"].nunique() < 2:
        raise ValueError("one seed cannot tell the worst member from noise; give at least 2 seeds")
    names = list(dict.fromkeys(name for members in families.values() for name in members))
    seeds, ks = np.sort(gaps["seed"].unique()), np.sort(gaps["k"].unique())
    if ks[0] <= 0:
        raise ValueError(f"gaps at k={ks[0]:g}; every k must be > 0")
    check_measure(measure)
    gaps = gaps[(gaps.get("status", "ok") == "ok") & gaps[measure].notna()]
    cells = gaps.groupby(["configuration", "seed", "k"])[measure].mean()
    cells = cells.reindex(pd.MultiIndex.from_product([names, seeds, ks])).to_numpy(float)
    return Cube(names, seeds, ks.astype(float), cells.reshape(len(names), len(seeds), len(ks)))


def seed_weights(seeds: Sequence[int], draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of seeds to measure (1 + D, S) and to choose (1 + D, S, S).

    seeds: their ids. Row s of the latter leaves seed s out. The first draw weighs seeds equally.
    """
    count = len(seeds)
    noise = np.vstack([np.zeros((1, count)), seed_multipliers(seeds, draws, seed)])
    measure = 1 / count + (noise - noise.mean(axis=1, keepdims=True)) / np.sqrt(count * (count - 1))
    others = (1 - np.eye(count)) / (count - 1)
    apart = noise[:, None] * (1 - np.eye(count))
    apart -= apart.sum(axis=-1, keepdims=True) * others
    return measure, others + apart / np.sqrt((count - 1) * max(count - 2, 1))


def usable(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say which sizes (..., K) and seeds (..., S) of members (..., M, S, K) can be used.

    Sizes at which at least 2 seeds have every member, then the seeds that have every member there.
    """
    known = ~np.isnan(values).any(axis=-3)  # (..., S, K)
    sizes = known.sum(axis=-2) >= 2
    return sizes, (known | ~sizes[..., None, :]).all(axis=-1) & known.any(axis=-1)


def worst_over(values: np.ndarray, weights) -> np.ndarray:
    """Return the worst gap (1 + D, K) of members (M, S, K), chosen and measured on other seeds."""
    chosen = np.tensordot(weights[1], values, axes=(2, 1)).argmax(axis=2)  # (1 + D, S, K)
    seeds, sizes = np.ogrid[: values.shape[1], : values.shape[2]]
    return (weights[0][..., None] * values[chosen, seeds, sizes]).sum(axis=1)


def _cross_fit(values: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, ...]:
    """Choose the worst of members (..., M, S, K) without each seed, among `seeds` (..., S).

    Return it and its gap in that seed (..., S, K), and the members' sums over seeds (..., M, K).
    """
    counted = np.where(seeds[..., None, :, None] & ~np.isnan(values), values, 0.0)
    sums = counted.sum(axis=-2, keepdims=True)
    chosen = (sums - counted).argmax(axis=-3)
    own = np.take_along_axis(counted, chosen[..., None, :, :], axis=-3)[..., 0, :, :]
    return chosen, own, sums[..., 0, :]


def _invert(cube: Cube, places, epsilons, draws: int, seed: int) -> tuple[list[dict], np.ndarray]:
    """Return a family's rows of the table of `k_star`, one an epsilon, and draws (E, 1 + D)."""
    values = cube.values[places]
    sizes, seeds = usable(values)
    row = {"seeds": int(seeds.sum()), "missing_seeds": int((~seeds).sum())}
    row |= {"missing_sizes": int((~sizes).sum()), "censored": "", "reason": ""}
    if not sizes.any():
        row["reason"] = "no k has every member in 2 seeds"
    elif seeds.sum() < 2:
        row["reason"] = (
            f"{seeds.sum()} of {len(seeds)} seeds have every member at every k; 2 needed"
        )
    if row["reason"]:
        return [row] * len(epsilons), np.full((len(epsilons), 1 + draws), np.nan)
    weights, ks = seed_weights(cube.seeds[seeds], draws, seed), cube.ks[sizes]
    row |= {"smallest": ks[0], "largest": ks[-1]}
    falling = _isotonic(worst_over(values[:, seeds][..., sizes], weights))
    crossed, rows = _cross(falling, ks, epsilons), []
    for epsilon, drawn in zip(epsilons, crossed, strict=True):
        estimate, low, high = interval(drawn)
        censored = {0.0: BELOW, np.inf: ABOVE}.get(estimate, "")
        if low is not None:
            low, high = min(low, ks[-1]), max(high, ks[0])
        failed = int((falling[0] > epsilon).sum())
        row |= dict(zip(("fails_at", "holds_at"), [np.nan, *ks, np.nan][failed:], strict=False))
        if np.isnan(_bounded(estimate, cube.ks, sizes)):
            drawn[:] = np.nan
            rows.append(row | {"reason": _beyond_lost(cube, places, sizes, censored)})
            continue
        k = np.clip(estimate, ks[0], ks[-1])
        rows.append(row | {"k_star": k, "low": low, "high": high, "censored": censored})
    return rows, np.clip(crossed, cube.ks[0], cube.ks[-1])


def _bounded(crossed: np.ndarray, ks: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return k* with 0 and infinity set to the bound of ks (K,); NaN where that size was lost.

    sizes (K,): which of ks the family has left.
    """
    found = np.clip(crossed, ks[0], ks[-1])
    found = np.where((crossed == 0) & ~sizes[0], np.nan, found)
    return np.where(np.isinf(crossed) & ~sizes[-1], np.nan, found)


def _beyond_lost(cube: Cube, places, sizes: np.ndarray, censored: str) -> str:
    """Say which sizes were lost beyond those that are left, and for which members."""
    left = np.flatnonzero(sizes)
    above = censored == ABOVE
    lost = range(left[-1] + 1, len(sizes)) if above else range(left[0])
    missing, parts = np.isnan(cube.values[places]).sum(axis=1), []  # (M, K)
    for j in lost:
        whose = [f"{cube.names[i]} in {n}" for i, n in zip(places, missing[:, j], strict=True) if n]
        parts.append(f"k = {cube.ks[j]:g} ({', '.join(whose)} of {len(cube.seeds)} seeds)")
    end = f"{'above' if above else 'below'} {cube.ks[left[-1 if above else 0]]:g}"
    return f"k* is {end}, and trials beyond are missing: {', '.join(parts)}"


def _relabel(cube: Cube, places: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
    """Return k* (2, E, B) of a family whose members own other curves, cross-fitted and raw.

    places (B, M): whose curves they own. NaN where missing trials leave no k*.
    """
    values = cube.values[places]
    sizes, seeds = usable(values)
    _, own, sums = _cross_fit(values, seeds)
    worst = np.stack([own.sum(axis=-2), sums.max(axis=-2)])  # (2, B, K)
    worst = worst / np.maximum(seeds.sum(axis=-1), 1)[:, None]
    found = np.full((2, len(epsilons), len(places)), np.nan)
    known = sizes.any(axis=-1) & (seeds.sum(axis=-1) >= 2)
    for pattern in np.unique(sizes[known], axis=0):
        rows, ks = known & (sizes == pattern).all(axis=-1), cube.ks[pattern]
        for kind in (0, 1):
            crossed = _cross(_isotonic(worst[kind, rows][:, pattern]), ks, epsilons)
            found[kind][:, rows] = _bounded(crossed, cube.ks, pattern)
    return found


def _isotonic(values: np.ndarray) -> np.ndarray:
    """Return the least-squares falling fit of values (B, K): min over starts of max over ends."""
    sums = np.concatenate([np.zeros((len(values), 1)), values.cumsum(axis=1)], axis=1)
    count = values.shape[1]
    fitted = np.empty(values.shape)
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


def _orders(count: int, relabellings: int, seed: int) -> np.ndarray:
    """Return orders (1 + B, count): that of now first, then drawn ones; all where no more exist."""
    if factorial(count) <= 1 + relabellings:
        return np.array(list(permutations(range(count))))
    drawn = np.tile(np.arange(count), (1 + relabellings, 1))
    drawn[1:] = np.random.default_rng([seed, 2]).permuted(drawn[1:], axis=1)
    return drawn
