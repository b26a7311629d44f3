"""Sentences on the theory course, computed from its numbers and never typed by hand."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ddlib.files import from_root
from ddlib.stats.intervals import LEVEL, Interval
from ddlib.theory.channel import ANGLES, COPIES, Line
from ddlib.words.text import Text, between

NOTHING = 1e-9  # gaps below this count as none: rounding, and where optimisation stops
REGRESSIONS = "regressions.parquet"  # what notebook 03 leaves


def chains(table: pd.DataFrame) -> Text:
    """Say whether both bounds held on all problems, and how loose they are."""
    parts = []
    for value, name in {"distance": "distance of the weights", "gap": "gap in risk"}.items():
        bound = table[f"{value}_bound"]
        broken = int((~_kept(table[value], bound)).sum())
        known = table[value] > 0
        loose = float((bound[known] / table.loc[known, value]).median())
        held = "holds on all" if not broken else f"FAILS on {broken} of"
        parts.append(f"the bound on the {name} {held} {len(table)}, at a median {loose:.3g} times")
    expanding = int((table["rho"] >= 1).sum())
    return Text(
        f"Of {len(table)} random problems {parts[0]} what it bounds; {parts[1]}. In {expanding} "
        "no step contracts (ρ ≥ 1): the bounds hold and grow with T."
    )


def logistic(found: Mapping[str, tuple[pd.DataFrame, Mapping[str, float]]]) -> Text:
    """Say, case by case, what contracts and what does not."""
    lines = []
    for name, (table, numbers) in found.items():
        half, last = table.iloc[len(table) // 2], table.iloc[-1]
        grows = last["distance"] / half["distance"] - 1
        sure = numbers["rho_anywhere"]
        given = f"guaranteed {sure:.3f}" if sure < 1 else "nothing guaranteed: 1 at flat places"
        held = _kept(table["excess"], table["excess_bound"]).all()
        lines.append(
            f"- {name}: numerical ρ {numbers['rho']:.3f} ({given}); over the second half of the "
            f"steps the weights move {grows:+.1%} further apart, while the loss on D ends "
            f"{last['excess']:.3g} nats above its least; the PL bound {last['excess_bound']:.3g} "
            f"(μ = {numbers['mu']:.2g}) {'holds' if held else 'FAILS'}"
        )
    return Text("\n".join(lines))


def surrogates(traces: Mapping[str, pd.DataFrame]) -> Text:
    """Say what minimising each surrogate did to the gap, and which bound was tightest."""
    lines = []
    for name, table in traces.items():
        first, last = table.iloc[0], table.iloc[-1]
        names = [c for c in table.columns if c.startswith("bound_")]
        held = all(_kept(table["gap"], table[c]).all() for c in names)
        tight = min(names, key=lambda c: np.log(table[c].clip(1e-300)).mean())
        lines.append(
            f"- {name} matching: its objective falls from {first[name]:.3g} to {last[name]:.2g}, "
            f"the absolute gap from {abs(first['gap']):.3g} to {abs(last['gap']):.2g} in "
            f"{len(table) - 1} iterations; the three bounds {'hold' if held else 'FAIL'} all the "
            f"way, that of {tight.removeprefix('bound_')} matching is the tightest"
        )
    return Text("\n".join(lines))


def exponents(found: Mapping[str, tuple[Interval, float]]) -> Text:
    """Say which exponents agree with the prediction; found: {quantity: (exponent, predicted)}."""
    lines = []
    for name, (exponent, predicted) in found.items():
        agrees = exponent.low <= predicted <= exponent.high
        told = "it agrees" if agrees else "it does NOT agree"
        known = between(exponent, ".3f")
        lines.append(f"- {name}: exponent {known}, predicted {predicted:g}: {told}")
    return Text("\n".join(lines))


def floors(table: pd.DataFrame) -> Text:
    """Say which factors leave a floor: a gap that the largest k does not lower by half."""
    gaps = table.groupby(["factor", "k"], sort=False)[["gap", "excess"]].median()
    lines = []
    for factor in dict.fromkeys(table["factor"]):
        own = gaps.loc[factor, "gap"]
        last, before, k = own.iloc[-1], own.iloc[-2], own.index[-1]
        if last < NOTHING:
            told = f"no floor, the gap at k = {k} is {last:.0e}"
        else:
            told = "a floor" if last > before / 2 else "still falling"
            told += f", {last:.2g} at k = {k} against {before:.2g} at half of that"
        if factor == "label noise" and "nothing" in gaps.index:
            more = gaps.loc[factor, "excess"].iloc[-1] - gaps.loc["nothing", "excess"].iloc[-1]
            told += f"; but the risk of D's own training is {more:.2g} higher than without it"
        lines.append(f"- {factor}: {told}")
    return Text("\n".join(lines))


def sampled(line: Line, halves: tuple[Line, Line], highest: float) -> Text:
    """Say whether k* is linear in H_cov, with which slope, and how near the union bound is.

    line, halves, highest: as `theory_coverage.slopes` returns them; the slope of the union bound
    is 2 in units of sigma^2 / epsilon^2.
    """
    slope, (first, second) = line.slope, halves
    order = "rises towards" if second.slope.estimate > first.slope.estimate else "moves away from"
    return Text(
        f"k* grows by {slope.estimate:.2f} σ²/ε² a nat of H_cov ({slope.low:.2f} to "
        f"{slope.high:.2f} over seeds), R² {line.r2:.4f}. The slope {order} the union bound's 2: "
        f"{first.slope.estimate:.2f} over the smaller families, "
        f"{second.slope.estimate:.2f} over the larger. The mean worst gap is at most "
        f"{highest:.0%} of its bound."
    )


def duplicates(table: pd.DataFrame) -> Text:
    """Say what duplicates and near duplicates do to k*; table: `theory_coverage.sampled_sizes`."""
    wide = table.pivot(index="x", columns="line", values="k_star")
    wide = wide.dropna(subset=["duplicates"])
    alone = table[table["line"] == "independent"]
    alone = np.interp(wide.index - np.log(COPIES), alone["x"], alone["k_star"])
    same = np.abs(wide["duplicates"] / alone - 1).max()
    told = (
        f"With {COPIES} duplicates of each configuration k* changes by {same:.1%} at most: only "
        "the number of distinct ones counts."
    )
    for angle in ANGLES:
        near, bound = wide[f"{angle}° apart"], wide[f"statement 13 at {angle}°"]
        extra = near / alone - 1
        plain = wide["union bound of M"]
        better = "tighter" if bound.iloc[-1] < plain.iloc[-1] else "weaker"
        told += (
            f" {COPIES} near duplicates of each, {angle}° off, raise it by {extra.iloc[0]:.0%} in "
            f"the smallest family and {extra.iloc[-1]:.0%} in the largest, "
            f"{'below' if (near <= bound).all() else 'ABOVE'} the bound of statement 13, which is "
            f"{better} there than the union bound over all M members."
        )
    return Text(told)


def typical(whole: Interval, late: Interval, sizes: int) -> Text:
    """Say where between -1/2 and -1 a typical gap falls under a shift, over all and late sizes."""
    return Text(
        f"A typical |gap| under a shift falls with exponent {between(whole, '.2f')} over all "
        f"sizes, and {between(late, '.2f')} over the {sizes} largest: it is a sum of both terms, "
        "and the linear one, of exponent -1/2, is what is left in the end."
    )


def channel(table: pd.DataFrame) -> Text:
    """Say whether any distiller beat Fano's bound; columns line, k, success, bound."""
    beaten = table[table["success"] > table["bound"] + 1e-9]
    tight = table[table["bound"] < 1]  # beyond, it allows everything
    near = (tight["success"] / tight["bound"]).groupby(tight["line"]).max().sort_values()
    told = "No distiller serves more worlds than Fano's bound allows"
    if len(beaten):
        told = f"Fano's bound is beaten by {', '.join(sorted(set(beaten['line'])))}"
    return Text(
        f"{told}, in {len(table)} combinations of distiller and k. Nearest to it comes "
        f"{near.index[-1]}, with {near.iloc[-1]:.0%} of what the bound allows, where that is less "
        "than everything."
    )


def optimised(table: pd.DataFrame) -> Text:
    """Say what k* of optimised S follows: R^2 with M, with the rank, and with ln M."""
    lines = []
    for kind, rows in table.groupby("kind", sort=False):
        means = rows.groupby("count")[["rank", "k_star"]].mean().reset_index()
        if means["k_star"].nunique() == 1:
            told = f"k* is {means['k_star'].iloc[0]:g} whatever the family"
        else:
            predictors = {"M": means["count"], "its rank": means["rank"]}
            predictors["ln M"] = np.log(means["count"])
            shares = {n: np.corrcoef(x, means["k_star"])[0, 1] ** 2 for n, x in predictors.items()}
            told = "R² of k* with " + ", ".join(f"{n} {r:.2f}" for n, r in shares.items())
        last = means.iloc[-1]
        lines.append(
            f"- {kind}: {told} (M = {last['count']:g} has rank {last['rank']:g} and needs "
            f"{last['k_star']:.3g})"
        )
    return Text("\n".join(lines))


def deep_networks(folder: str) -> Text:
    """Say which regime the networks of notebook 03 resemble, from the table that it left.

    Sampled or channel: k* follows a log, H_cov; optimised: it follows M itself. H_cov must lead
    ln M in relabellings to be recognised; k* rises with M in every relabelling, so M alone decides
    nothing.
    """
    path = from_root(folder) / REGRESSIONS
    if not path.is_file():
        return Text(
            f"The table of notebook 03 is not there ({folder}/{REGRESSIONS}), so nothing is said "
            "of deep networks here. Run notebook 03 with its quick profile, then this cell again."
        )
    lines = []
    for epsilon, rows in pd.read_parquet(path).groupby("epsilon"):
        known = rows[rows["r2"].notna()].set_index("predictor")
        if not {"h_cov", "members"} <= set(known.index):
            lines.append(f"- worst gap {epsilon:g}: too few k* are known to compare regimes")
            continue
        h_cov, members = known.loc["h_cov"], known.loc["members"]
        verdict = "no regime is recognised"
        if max(h_cov["p"], h_cov["p_lead"]) <= LEVEL and h_cov["r2"] > members["r2"]:
            verdict = "weak evidence of a log, that of sampled sets, (a)"
        lines.append(
            f"- worst gap {epsilon:g}: {verdict}; R² of ln k* is {h_cov['r2']:.2f} with H_cov "
            f"(relabelling p = {h_cov['p']:.3f}) and {members['r2']:.2f} with M itself"
        )
    return Text("\n".join(lines))


def _kept(values: pd.Series, bounds: pd.Series) -> pd.Series:
    """Return where values keep to their bounds, but for rounding."""
    return values <= bounds * (1 + 1e-9) + 1e-12
