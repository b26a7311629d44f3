"""The coverage law: worst gaps over families, k*, and what explains k*.

The law under test: the k that holds the worst gap over a family A below epsilon, k*(epsilon, A),
grows linearly with H_cov(A, r) (arXiv 2512.05817), so worst gaps follow sqrt(H_cov / k).

`gaps`: columns configuration, k, seed, gap_error, gap_cross_entropy, a row an evaluation (those
of one distilled set are averaged; a column status, where given, must say "ok"). `families`: the
names of the members by family. `measures`: one row a family, columns the predictors. Gaps are
measured from each seed's own reference: the error of a reference that all seeds share would pass
for a difference between configurations.

The largest of noisy means leans upwards, the more the more members there are, which would make k*
grow with ln M by itself. So the worst member is chosen on all seeds but one and measured on that
one, over all seeds in turn. With 5 seeds, in units of one gap's noise, M = 2, 4, 8, 16 members that
do not differ read +0.25, +0.46, +0.64, +0.79 too high at the largest mean (`raw`), and 0.00 within
simulation error here. Where members differ a little the choice may miss the worst, so this leans
downwards: at M = 16, by -0.25 where they differ by half the noise (`raw`: +0.31), -0.12 at twice
the noise (+0.08). The truth is expected between the two: conclude only what holds for both.

Intervals (95 %) are percentiles over draws that reweight whole seeds, jointly over all families,
configurations and k, by Gaussian weights over sqrt(chi2/df), as in `laws.fit`: Student t for one
mean. Equal seeds give equal draws in every call, so families distilled apart can be joined.

Letters: C configurations, M members, S seeds, K sizes, F families, D draws, B rows of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from math import factorial, prod
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from ddlib import laws
from ddlib.laws import SAME, Interval

Families = Mapping[str, Sequence[str]]
ABOVE, BELOW = "above the largest k", "below the smallest k"
ORDERS = 5040  # up to this many orders (7 families) all are counted
DRAWN = 2000  # orders drawn beyond that, the observed among them
GAPS = ("worst", "mean")
FEWEST = 3  # families with a k* inside the grid that a regression needs


class Cube(NamedTuple):
    """Gaps (C, S, K) of all configurations; a failed trial takes the mean of its other seeds."""

    names: list[str]
    ks: np.ndarray
    values: np.ndarray

    def of(self, members: Sequence[str]) -> np.ndarray:
        """Return the gaps (M, S, K) of the members."""
        return self.values[[self.names.index(name) for name in members]]


@dataclass(frozen=True)
class KStars:
    """k* of each family and epsilon, and its draws."""

    table: pd.DataFrame  # see `k_star`
    draws: np.ndarray = field(repr=False)  # (rows, 1 + D), estimate first; 0 below, inf above
    raw: np.ndarray = field(repr=False)  # (rows, 1), of the uncorrected worst gaps

    @property
    def uncorrected(self) -> "KStars":
        """The k* of the uncorrected worst gaps, without draws: the other end of the truth."""
        return KStars(self.table, self.raw, self.raw)


def worst_gaps(gaps: pd.DataFrame, families: Families, measure="gap_error") -> pd.DataFrame:
    """Tabulate the worst and the mean gap of each family at each k and seed.

    Columns: family, k, seed, worst (of the member that is worst on the other seeds), mean (over
    members), worst_member (that member), raw (the largest mean over seeds, which leans upwards:
    see the module). NaN where all trials of a member failed. Raises ValueError for one seed, an
    empty family, a repeated or unknown member, and an unknown measure.
    """
    cube, seeds = lay_out(gaps, families, measure), np.sort(gaps["seed"].unique())
    weights, rows = seed_weights(len(seeds), 0, 0), []
    for family, members in families.items():
        values = cube.of(members)
        chosen, own = _choose(values, weights)
        raw, mean = values.mean(axis=1).max(axis=0), values.mean(axis=0)
        rows += [
            (family, k, seed, own[0, s, j], mean[s, j], members[chosen[0, s, j]], raw[j])
            for j, k in enumerate(cube.ks)
            for s, seed in enumerate(seeds)
        ]
    names = ["family", "k", "seed", "worst", "mean", "worst_member", "raw"]
    return pd.DataFrame(rows, columns=names)


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
    module, or "mean" over members), method, n (seeds in which no trial of the members failed; with
    fewer than two nothing else is known), first and other (the two gaps), difference (other -
    first) with low and high over draws that reweight the same seeds in both, raw (that of the
    largest means, which leans the other way), told (the interval excludes 0, and raw has its sign).
    Cases are not corrected for their number: families that share their worst member repeat one
    another. Raises as `worst_gaps`, and ValueError for one method.
    """
    first, *others = gaps["method"].unique()
    if not others:
        raise ValueError(f"only {first!r} was run; give a second method to compare it with")
    rows, sizes = [], np.sort(gaps["k"].unique())
    for method, (family, members) in product(others, families.items()):
        both = gaps[gaps["method"].isin([first, method]) & gaps["configuration"].isin(members)]
        failed = both.loc[both[measure].isna() | (both.get("status", "ok") != "ok"), "seed"]
        both = both[~both["seed"].isin(failed)]
        n = both["seed"].nunique()
        if n < 2:
            unknown = [np.nan] * 7
            rows += [(family, k, kind, method, n, *unknown) for kind in GAPS for k in sizes]
            continue
        weights = seed_weights(n, draws, seed)
        cells = [
            lay_out(both[both["method"] == each], {family: members}, measure).of(members)
            for each in (first, method)
        ]
        raw = np.diff([values.mean(axis=1).max(axis=0) for values in cells], axis=0)[0]
        pairs = {
            "worst": [worst_over(values, weights) for values in cells],
            "mean": [weights[0] @ values.mean(axis=0) for values in cells],
        }
        for kind, (j, k) in product(GAPS, enumerate(sizes)):
            before, after = (values[:, j] for values in pairs[kind])
            change, low, high = laws.interval(after - before)
            lean = raw[j] if kind == "worst" else change
            told = (low > 0 and lean > 0) or (high < 0 and lean < 0)
            case = (family, k, kind, method, n, before[0], after[0], change, low, high)
            rows.append((*case, lean, told))
    columns = ["family", "k", "gap", "method", "n", "first", "other"]
    table = pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "raw", "told"])
    return table.assign(told=table["told"].eq(True))


def k_star(
    gaps: pd.DataFrame,
    families: Families,
    epsilons: float | Sequence[float],
    measure: str = "gap_error",
    *,
    draws: int = 1000,
    seed: int = 0,
) -> KStars:
    """Find the least k that holds the worst gap of each family at or below each epsilon.

    Worst gaps are made to fall by isotonic regression, then crossed linearly in 1/√k, on which
    gaps are nearly straight (in log k, k* of a/√k + c came out up to 20 % too large between 200
    and 500). Where the largest k exceeds epsilon or the smallest is below it, `censored` says so,
    and k_star is that bound; low is 0 and high infinite where the interval leaves the grid. `raw`
    is k* of the uncorrected worst gap. A k at which a member has no trial left is not used. Raises
    as `worst_gaps`, and for an epsilon that is not finite. Simulated coverage of the intervals at 3
    and 5 seeds: 92 to 100 %, the most where members tie.
    """
    epsilons = np.atleast_1d(np.asarray(epsilons, dtype=float))
    if not np.isfinite(epsilons).all():
        raise ValueError(f"epsilon is {epsilons[~np.isfinite(epsilons)][0]}; choose a finite gap")
    cube, rows, found = lay_out(gaps, families, measure), [], []
    weights = seed_weights(cube.values.shape[1], draws, seed)
    for family, members in families.items():
        values = cube.of(members)
        known = ~np.isnan(values).any(axis=(0, 1))
        if not known.any():
            raise ValueError(f"family {family!r} has no k at which every member was trained")
        values, ks = values[..., known], cube.ks[known]
        falling = _isotonic(worst_over(values, weights))
        curves = falling, _isotonic(values.mean(axis=1).max(axis=0)[None])
        crossed = [_cross(curve, ks, epsilons) for curve in curves]
        found.append(crossed)
        for epsilon, drawn, raw in zip(epsilons, *crossed, strict=True):
            estimate, low, high = laws.interval(drawn)
            censored = {0.0: BELOW, np.inf: ABOVE}.get(estimate, "")
            ends = np.clip([estimate, raw[0]], ks[0], ks[-1])
            rows.append((family, epsilon, ends[0], low, high, censored, ends[1], ks[0], ks[-1]))
    names = ["k_star", "low", "high", "censored", "raw", "smallest", "largest"]
    table = pd.DataFrame(rows, columns=["family", "epsilon", *names])
    return KStars(table, *map(np.concatenate, zip(*found, strict=True)))


def regressions(
    k_stars: KStars, measures: pd.DataFrame, groups: Mapping[str, str] | None = None, seed: int = 0
) -> pd.DataFrame:
    """Regress k* on each measure, k* = intercept + slope x + noise, over the families of measures.

    Censored k* enter by their probability (Tobit), so none is dropped; without them this is least
    squares. One row an epsilon and predictor, "constant" first. Columns: n, censored, slope with
    low and high (over draws of seeds: what the measured families say, not families at large), r2
    (1 - exp(2 (l0 - l) / n), that of least squares where nothing is censored), p (two-sided, of r2
    with the predictor permuted over families), loo (root mean square error at families left out; a
    censored one counts the distance to its bound, if short of it), loo_group (at whole `groups`
    left out: {family: series}), aicc, delta_aicc (to the least), beats (part of the seed draws in
    which r2 exceeds that of log_members), reason. Nested families share members, so they are not
    independent: p and aicc are too sure of themselves and loo too small; trust loo_group and
    `within_equal`.
    Raises ValueError for families that k_stars does not have.
    """
    rows, orders = [], _orders([len(measures)], seed)
    folds = {"loo": range(len(measures))}
    if groups:
        folds["loo_group"] = [groups[family] for family in measures.index]
    predictors = {"constant": np.zeros(len(measures)), **measures.astype(float)}
    for epsilon, _, values, codes in _by_epsilon(k_stars, measures):
        head = {"epsilon": epsilon, "censored": int((codes[0] != 0).sum())}
        fits = {
            name: head | _assess(name, np.asarray(x), values, codes, orders, folds)
            for name, x in predictors.items()
        }
        other = fits.get("log_members", {}).get("r2_draws", np.empty(0))
        for name, fit in fits.items():
            if len(other) > 1 and "r2_draws" in fit and name != "log_members":
                ahead = (fit["r2_draws"] - other)[1:]
                fit["beats"] = float((ahead[~np.isnan(ahead)] > 0).mean())
        rows += fits.values()
    names = ["epsilon", "predictor", "n", "censored", "slope", "low", "high", "r2", "p", "loo"]
    found = pd.DataFrame(rows).reindex(columns=[*names, "loo_group", "aicc", "beats", "reason"])
    least = found.groupby("epsilon")["aicc"].transform("min")
    return found.assign(delta_aicc=found["aicc"] - least)


def k_star_on_line(k_stars: KStars, h: pd.Series, at: float) -> tuple[Interval | None, str]:
    """Read k* at H_cov = `at` off the line k* = intercept + slope H_cov through measured families.

    k_stars: at one epsilon; h: H_cov by family. The line is that of `regressions`, so censored k*
    enter by their probability; the interval is over draws of seeds: how well the line is known,
    not how far a family may lie from it. Returns None and the reason where there is no line; k*
    is never below 0. Raises ValueError for several epsilons.
    """
    if k_stars.table["epsilon"].nunique() != 1:
        raise ValueError("give the k* of one epsilon")
    [(_, _, values, codes)], x = _by_epsilon(k_stars, h.to_frame()), h.to_numpy(float)
    if reason := _refusal("H_cov", x, codes[0]):
        return None, reason
    design = np.column_stack([np.ones(len(x)), x])
    found, _ = _tobit(design, values, codes, np.ones((1, len(x))))
    return _known_interval(np.maximum(found @ np.array([1.0, at]), 0.0)), ""


def within_equal(k_stars: KStars, measures: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Ask in families of equal M, where ln M explains nothing, whether k* rises with a measure.

    Families are grouped by the column members of `measures`. Columns: epsilon, predictor, group
    (the shared number, or "all": pairs within groups), n, tau (Kendall's tau-b; censored k* tie),
    low, high (over draws of seeds), p (one-sided: of orders within groups that give as large a tau,
    all counted up to ORDERS), reason. With n families p cannot fall below 1/n!.
    """
    found = measures.groupby("members").indices
    groups = {str(number): [places] for number, places in found.items() if len(places) > 1}
    if not groups:
        raise ValueError("no two families share their members; add families of equal size")
    if len(groups) > 1:
        groups["all"] = [block for blocks in groups.values() for block in blocks]
    rows = [
        {"epsilon": epsilon, "predictor": name, "group": group}
        | _concordance(measures[name].to_numpy(float), draws, blocks, seed)
        for epsilon, draws, _, _ in _by_epsilon(k_stars, measures)
        for name in measures.columns.drop("members")
        for group, blocks in groups.items()
    ]
    names = ["epsilon", "predictor", "group", "n", "tau", "low", "high", "p", "reason"]
    return pd.DataFrame(rows, columns=names)


def root_law(
    gaps: pd.DataFrame,
    families: Families,
    measures: pd.DataFrame,
    measure: str = "gap_error",
    *,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit worst gap = a sqrt(H / k) + c over families and k, H each measure, and 1 ("constant").

    Least squares on the worst gaps of `worst_gaps`, at the k that all families have. Columns:
    predictor, n, a (column slope) with low and high over draws of seeds, intercept (c), r2, p (H
    permuted over families), loo (at each family left out), aicc (as if points were independent,
    which they are not), delta_aicc, reason.
    """
    families, count = {name: families[name] for name in measures.index}, len(measures)
    cube, rows = lay_out(gaps, families, measure), []
    weights = seed_weights(cube.values.shape[1], draws, seed)
    worst = [worst_over(cube.of(members), weights) for members in families.values()]
    worst = np.stack(worst, axis=1)  # (1 + D, F, K)
    known = ~np.isnan(worst).any(axis=(0, 1))
    ks, y = cube.ks[known], worst[..., known].reshape(len(worst), -1)
    codes, cells = np.zeros(y.shape, dtype=int), np.arange(y.shape[1]).reshape(count, -1)
    orders = cells[_orders([count], seed)].reshape(-1, cells.size)
    folds = {"loo": np.repeat(np.arange(count), len(ks))}
    for name, values in {"constant": np.ones(count), **measures}.items():
        with np.errstate(invalid="ignore"):
            x = np.sqrt(np.asarray(values, dtype=float)[:, None] / ks).ravel()
        rows.append(_assess(name, x, y, codes, orders, folds))
    names = ["slope", "low", "high", "intercept", "r2", "p", "loo", "aicc", "reason"]
    found = pd.DataFrame(rows).reindex(columns=["predictor", "n", *names])
    return found.assign(delta_aicc=found["aicc"] - found["aicc"].min())


def lay_out(gaps: pd.DataFrame, families: Families, measure: str) -> Cube:
    """Check gaps and families, and lay the gaps of all members out as a cube."""
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
    laws.check_measure(measure)
    gaps = gaps[(gaps.get("status", "ok") == "ok") & gaps[measure].notna()]
    cells = gaps.groupby(["configuration", "seed", "k"])[measure].mean()
    cells = cells.reindex(pd.MultiIndex.from_product([names, seeds, ks])).to_numpy(float)
    values = cells.reshape(len(names), len(seeds), len(ks))
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # no seed at all
        means = np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
    return Cube(names, ks.astype(float), np.where(known, values, means[:, None]))


def seed_weights(seeds: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of seeds to measure (1 + D, S) and to choose (1 + D, S, S).

    Row s of the latter leaves seed s out. The first draw weighs seeds equally.
    """
    noise = np.vstack([np.zeros((1, seeds)), laws.seed_multipliers(range(seeds), draws, seed)])
    measure = 1 / seeds + (noise - noise.mean(axis=1, keepdims=True)) / np.sqrt(seeds * (seeds - 1))
    others = (1 - np.eye(seeds)) / (seeds - 1)
    apart = noise[:, None] * (1 - np.eye(seeds))
    apart -= apart.sum(axis=-1, keepdims=True) * others
    return measure, others + apart / np.sqrt((seeds - 1) * max(seeds - 2, 1))


def _choose(values: np.ndarray, weights) -> tuple[np.ndarray, np.ndarray]:
    """Choose the worst of members (M, S, K) without each seed; return it and its gap in that seed.

    Both (1 + D, S, K).
    """
    scores = np.tensordot(weights[1], values, axes=(2, 1))  # (1 + D, S, M, K)
    chosen = scores.argmax(axis=2)
    seeds, sizes = np.ogrid[: values.shape[1], : values.shape[2]]
    return chosen, values[chosen, seeds, sizes]


def worst_over(values: np.ndarray, weights) -> np.ndarray:
    """Return the worst gap (1 + D, K) of members (M, S, K), chosen and measured on other seeds."""
    return (weights[0][..., None] * _choose(values, weights)[1]).sum(axis=1)


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


def _by_epsilon(k_stars: KStars, measures: pd.DataFrame):
    """Yield each epsilon with three (1 + D, F), families in the order of measures.

    The draws of k*; their values, bounds where they are censored; and codes as in `_assess`.
    """
    if not measures.index.is_unique:
        raise ValueError(f"measures have {measures.index[measures.index.duplicated()][0]!r} twice")
    if missing := measures.index.difference(k_stars.table["family"]).tolist():
        raise ValueError(f"no k* of family {missing[0]!r}; invert its gaps first")
    for epsilon, table in k_stars.table.reset_index().groupby("epsilon"):
        table = table.set_index("family").loc[measures.index]
        draws = k_stars.draws[table["index"]].T
        values = np.clip(draws, table["smallest"].to_numpy(), table["largest"].to_numpy())
        yield epsilon, draws, values, np.where(np.isinf(draws), 1, np.where(draws == 0, -1, 0))


def _refusal(name: str, x: np.ndarray, codes: np.ndarray) -> str:
    """Say why nothing can be regressed on x; empty if it can."""
    inside = int((codes == 0).sum())
    if inside < FEWEST:
        return f"{inside} of {len(codes)} families have k* inside the grid; it takes {FEWEST}"
    if not np.isfinite(x).all():
        return f"{name} is missing or negative for a family"
    if name != "constant" and np.ptp(x) <= SAME * np.abs(x).max():
        return f"{name} is the same in every family, so it explains nothing"
    if name != "constant" and np.ptp(x[codes == 0]) <= SAME * np.abs(x).max():
        return f"{name} is the same in every family with k* inside the grid"
    return ""


def _orders(sizes: list[int], seed: int) -> np.ndarray:
    """Return orders (B, n) of 0..n-1 that permute within blocks of these sizes; the first does not.

    All orders where they are at most ORDERS, else DRAWN at random.
    """
    blocks = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    if prod(map(factorial, sizes)) <= ORDERS:
        found = product(*(permutations(block) for block in blocks))
        return np.array([np.concatenate(parts) for parts in found])
    generator, first = np.random.default_rng([seed, 2]), np.arange(sum(sizes))
    drawn = [generator.permuted(np.tile(block, (DRAWN - 1, 1)), axis=1) for block in blocks]
    return np.vstack([first, np.concatenate(drawn, axis=1)])


def _assess(name: str, x, y, codes, orders, folds: Mapping) -> dict:
    """Fit y (1 + D, n) on x (n,), 0 for a constant alone, and judge the fit; see `regressions`.

    codes: -1, 0, 1 (1 + D, n) where y is an upper bound, a value, a lower bound; orders (B, n) of
    the permutation null, as they are first; folds: labels of the points to leave out together.
    Where nothing can be fitted, `reason` says why.
    """
    n, one = len(x), np.ones((len(x), 1))
    answer = {"predictor": name, "n": n, "reason": _refusal(name, x, codes[0])}
    if answer["reason"]:
        return answer
    design = np.column_stack([one, x]) if x.any() else one
    found, likelihoods = _tobit(design, y, codes, one.T)
    r2 = 1 - np.exp(2 / n * (_tobit(one, y, codes, one.T)[1] - likelihoods))
    p, spare = design.shape[1] + 1, n - design.shape[1] - 2
    answer |= {"intercept": found[0, 0], "r2": r2[0], "r2_draws": r2}
    answer["aicc"] = 2 * (p + p * (p + 1) / spare - likelihoods[0]) if spare > 0 else np.nan
    for fold, labels in folds.items():
        answer[fold] = _left_out(design, y[0], codes[0], labels)
    if x.any():
        answer |= zip(("slope", "low", "high"), _known_interval(found[:, 1]), strict=True)
        shuffled = _tobit(design, y[0][orders], codes[0][orders], one.T)[1]
        answer["p"] = float((shuffled >= shuffled[0] - 1e-9)[~np.isnan(shuffled)].mean())
    return answer


def _left_out(design, y, codes, labels) -> float:
    """Return the root mean square error at points left out by equal labels; NaN if not possible."""
    kept = np.array([[a != b for b in labels] for a in labels], dtype=float)
    found, _ = _tobit(design, np.tile(y, (len(y), 1)), np.tile(codes, (len(y), 1)), kept)
    misses = (found * design).sum(axis=1) - y
    return float(np.sqrt((np.where(codes * misses > 0, 0.0, misses) ** 2).mean()))


def _known_interval(values: np.ndarray) -> Interval:
    """Return `laws.interval`, without ends where over a twentieth of the draws had no answer."""
    known = values[~np.isnan(values)]
    if np.isnan(values[0]) or len(known) < 0.95 * len(values):
        return Interval(float(values[0]), None, None)
    return laws.interval(known)


def _tobit(design, y, codes, weights) -> tuple[np.ndarray, np.ndarray]:
    """Regress many y (B, n) on a design (n, p): coefficients (B, p), log likelihoods (B,).

    Normal errors, maximum likelihood; codes (B, n) as in `_assess`, weights (1 or B, n) 0 or 1.
    NaN where the uncensored do not determine it: fewer than p, or p + 1 beside censored ones.
    Least squares where nothing is censored; else Newton's method in (coefficients / sigma,
    1 / sigma), in which the likelihood is concave (Olsen 1978).
    """
    scale, size = np.abs(y).max() or 1.0, np.abs(design).max(axis=0)
    y, x = y / scale, design / size
    weights = np.broadcast_to(weights, y.shape)
    inside = weights * (codes == 0)
    censored = (inside < weights).any(axis=1)
    squares, own = (np.einsum("bn,np,nq->bpq", w, x, x) for w in (weights, inside))
    determined = (inside.sum(axis=1) >= x.shape[1] + censored) & (np.linalg.det(own) > SAME)
    squares[~determined] = np.eye(x.shape[1])
    found = np.linalg.solve(squares, ((weights * y) @ x)[..., None])[..., 0]
    rss = (weights * (y - found @ x.T) ** 2).sum(axis=1)
    sigma = np.sqrt(np.maximum(rss / np.maximum(weights.sum(axis=1), 1), SAME))
    theta = np.column_stack([found, np.ones(len(y))]) / sigma[:, None]
    value = _likelihood(theta, x, y, codes, weights)[0]
    rows = np.flatnonzero(censored & determined)
    if len(rows):
        theta[rows], value[rows] = _newton(theta[rows], x, y[rows], codes[rows], weights[rows])
    theta[~determined], value[~determined] = np.nan, np.nan
    counts = inside.sum(axis=1)
    return theta[:, :-1] / theta[:, -1:] / size * scale, value - counts * np.log(scale)


def _newton(theta, x, y, codes, weights):
    """Climb the concave likelihood by Newton steps, damped so that 1 / sigma stays above 0."""
    for _ in range(100):
        value, slope, bend = _likelihood(theta, x, y, codes, weights)
        step = -np.linalg.solve(bend, slope[..., None])[..., 0]
        length = np.sqrt(np.maximum((step * slope).sum(axis=1), 0.0))
        if length.max() < 1e-6:
            break
        theta = theta + step / (1 + np.where(length > 0.1, length, 0.0))[:, None]
    return theta, value


def _likelihood(theta, x, y, codes, weights):
    """Return Olsen's log likelihood (B,) with its slope (B, p + 1) and bend (B, p + 1, p + 1)."""
    rows = np.concatenate([np.broadcast_to(-x, (*y.shape, x.shape[1])), y[..., None]], axis=2)
    z = np.einsum("bnp,bp->bn", rows, theta)
    gamma = theta[:, -1:]
    inside, sign = codes == 0, np.where(codes == 0, 1.0, -codes)
    tail = special.log_ndtr(sign * z)  # the log chance of lying beyond the bound
    log_density = -(z**2) / 2 - np.log(2 * np.pi) / 2
    ratio = np.exp(np.where(inside, 0.0, log_density - tail))
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.where(inside, np.log(gamma) + log_density, tail)
    first = np.where(inside, -z, sign * ratio)
    second = np.where(inside, -1.0, -ratio * (ratio + sign * z))
    count = (weights * inside).sum(axis=1)
    slope = np.einsum("bn,bnp->bp", weights * first, rows)
    bend = np.einsum("bn,bnp,bnq->bpq", weights * second, rows, rows)
    slope[:, -1] += count / gamma[:, 0]
    bend[:, -1, -1] -= count / gamma[:, 0] ** 2
    return (weights * logs).sum(axis=1), slope, bend


def _concordance(x: np.ndarray, draws: np.ndarray, blocks: list[np.ndarray], seed: int) -> dict:
    """Compare x (F,) with draws of k* (1 + D, F) over pairs within blocks; see `within_equal`."""
    used, labels = np.concatenate(blocks), np.repeat(range(len(blocks)), list(map(len, blocks)))
    first, second = np.nonzero(np.triu(labels[:, None] == labels, 1))
    x, y, reason = x[used], draws[:, used], ""
    rise = np.sign(x[first] - x[second])
    later = (y[:, first] > y[:, second]) - (y[:, first] < y[:, second]).astype(float)
    if not np.isfinite(x).all():
        reason = "not known for every family"
    elif not rise.any():
        reason = "the same in every family of the group, so it explains nothing"
    elif not later[0].any():
        reason = "k* is the same, or censored, in every family of the group"
    row = {"n": len(used), "reason": reason}
    if reason:
        return row
    with np.errstate(invalid="ignore"):  # no order at all in a draw
        tau = later @ rise / np.sqrt((rise**2).sum() * (later**2).sum(axis=1))
    orders = _orders(list(map(len, blocks)), seed)
    agreed = np.sign(x[orders][:, first] - x[orders][:, second]) @ later[0]
    row |= zip(("tau", "low", "high"), _known_interval(tau), strict=True)
    return row | {"p": float((agreed >= agreed[0]).mean())}
