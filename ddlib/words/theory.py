"""Sentences on the theory course, computed from its results."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ddlib.files import from_root
from ddlib.stats.intervals import LEVEL, Interval
from ddlib.theory.channel import ANGLES, COPIES, Line
from ddlib.words.text import Text, bullets

NOTHING = 1e-9  # smaller gaps count as zero: rounding, and the end of an optimisation
REGRESSIONS = "regressions.parquet"  # written by notebook 03


def chains(table: pd.DataFrame) -> Text:
    """Say whether both bounds held on all problems, and how loose they are."""
    lines = []
    for value, name in {"distance": "distance of the weights", "gap": "gap in risk"}.items():
        bound = table[f"{value}_bound"]
        broken = int((~_below(table[value], bound)).sum())
        positive = table[value] > 0
        loose = float((bound[positive] / table.loc[positive, value]).median())
        verdict = "holds on all" if not broken else f"FAILS on {broken} of"
        lines.append(
            f"The bound on the {name} {verdict} {len(table)} random problems. In the median it is "
            f"{loose:.3g} times the {name}."
        )
    expanding = int((table["rho"] >= 1).sum())
    lines.append(
        f"In {expanding} problems no step contracts (ρ ≥ 1): there the bounds grow with T."
    )
    return Text(bullets(lines))


def logistic(results: Mapping[str, tuple[pd.DataFrame, Mapping[str, float]]]) -> Text:
    """Say for each case how much the steps contract, and whether the PL bound holds."""
    lines = []
    for name, (table, numbers) in results.items():
        half, last = table.iloc[len(table) // 2], table.iloc[-1]
        grows = last["distance"] / half["distance"] - 1
        sure = numbers["rho_anywhere"]
        guaranteed = f"guaranteed: {sure:.3f}" if sure < 1 else "nothing below 1 is guaranteed"
        verdict = "holds" if _below(table["excess"], table["excess_bound"]).all() else "FAILS"
        lines.append(
            f"{name}: ρ measured on the paths is {numbers['rho']:.3f} ({guaranteed}). Over the "
            f"second half of the steps the weights move {grows:+.1%} further apart. The loss on D "
            f"ends {last['excess']:.3g} nats above its least, and its PL bound {verdict}: "
            f"{last['excess_bound']:.3g} (μ = {numbers['mu']:.2g})."
        )
    return Text(bullets(lines))


def surrogates(traces: Mapping[str, pd.DataFrame]) -> Text:
    """Say how minimising each surrogate changed the gap, and which bound was tightest."""
    lines = []
    for name, table in traces.items():
        first, last = table.iloc[0], table.iloc[-1]
        bounds = [column for column in table.columns if column.startswith("bound_")]
        holds = all(_below(table["gap"], table[bound]).all() for bound in bounds)
        tight = min(bounds, key=lambda bound: np.log(table[bound].clip(1e-300)).mean())
        lines.append(
            f"{name} matching: the objective falls from {first[name]:.3g} to {last[name]:.2g}, the "
            f"absolute gap from {abs(first['gap']):.3g} to {abs(last['gap']):.2g} "
            f"({len(table) - 1} iterations). All three bounds {'hold' if holds else 'FAIL'}; that "
            f"of {tight.removeprefix('bound_')} matching is the tightest."
        )
    return Text(bullets(lines))


def exponents(results: Mapping[str, tuple[Interval, float]]) -> Text:
    """Say which exponents agree with the prediction: {quantity: (exponent, predicted)}."""
    lines = []
    for name, (exponent, predicted) in results.items():
        agrees = exponent.low <= predicted <= exponent.high
        verdict = "agrees" if agrees else "does NOT agree"
        lines.append(f"{name}: {verdict} with {predicted:g}; measured exponent {exponent:.3f}.")
    return Text(bullets(lines))


def typical(whole: Interval, late: Interval, sizes: int) -> Text:
    """Say how a typical gap falls under a shift, over all sizes and over the largest."""
    return Text(
        f"Under a shift, a typical |gap| falls with exponent {whole:.2f} over all "
        f"sizes and {late:.2f} over the {sizes} largest. It is a sum of both terms, "
        "and the linear one, of exponent -1/2, remains in the end."
    )


def floors(table: pd.DataFrame) -> Text:
    """Say which factors leave a floor: a gap that doubling k to the largest does not halve."""
    medians = table.groupby(["factor", "k"], sort=False)[["gap", "excess"]].median()
    lines = []
    for factor in dict.fromkeys(table["factor"]):
        gaps = medians.loc[factor, "gap"]
        last, before, k = gaps.iloc[-1], gaps.iloc[-2], gaps.index[-1]
        if last < NOTHING:
            sentence = f"no floor; the gap at k = {k} is {last:.0e}"
        else:
            verdict = "a floor" if last > before / 2 else "still falling"
            sentence = f"{verdict}; {last:.2g} at k = {k}, {before:.2g} at half of that"
        if factor == "label noise" and "nothing" in medians.index:
            excess = medians["excess"].groupby("factor").last()
            sentence += (
                f". But the risk of D's own training is {excess[factor] - excess['nothing']:.2g} "
                "higher than without noise"
            )
        lines.append(f"{factor}: {sentence}.")
    return Text(bullets(lines))


def sampled(line: Line, halves: tuple[Line, Line], highest: float) -> Text:
    """Say how linear k* is in H_cov, with which slope, and how near the union bound is.

    line, halves, highest: as `ddlib.theory.channel.slopes` returns them. The slope of the union
    bound is 2, in units of sigma^2 / epsilon^2.
    """
    first, second = (half.slope.estimate for half in halves)
    rises = "rises towards" if second > first else "moves away from"
    return Text(
        f"k* is linear in H_cov (R² {line.r2:.4f}). It grows by {line.slope.estimate:.2f} σ²/ε² a "
        f"nat ({line.slope.ends('.2f')} over seeds). The slope {rises} the union bound's 2: it is "
        f"{first:.2f} over the smaller families and {second:.2f} over the larger. The mean worst "
        f"gap is at most {highest:.0%} of its bound."
    )


def duplicates(table: pd.DataFrame) -> Text:
    """Say how duplicates change k*; table: of `ddlib.theory.channel.sampled_sizes`."""
    wide = table.pivot(index="x", columns="line", values="k_star").dropna(subset=["duplicates"])
    alone = table[table["line"] == "independent"]
    alone = np.interp(wide.index - np.log(COPIES), alone["x"], alone["k_star"])
    change = np.abs(wide["duplicates"] / alone - 1).max()
    lines = [f"{COPIES} duplicates of each configuration change k* by at most {change:.1%}."]
    for angle in ANGLES:
        near, bound = wide[f"{angle}° apart"], wide[f"statement 13 at {angle}°"]
        extra = near / alone - 1
        tighter = bound.iloc[-1] < wide["union bound of M"].iloc[-1]
        lines.append(
            f"{COPIES} near duplicates, {angle}° apart, raise k* by {extra.iloc[0]:.0%} in the "
            f"smallest family and {extra.iloc[-1]:.0%} in the largest. That is "
            f"{'below' if (near <= bound).all() else 'ABOVE'} the bound of statement 13, which is "
            f"{'tighter' if tighter else 'weaker'} there than the union bound over all members."
        )
    return Text(bullets(lines))


def channel(table: pd.DataFrame) -> Text:
    """Say whether any distiller beat Fano's bound; columns line, k, success, bound."""
    beaten = table[table["success"] > table["bound"] + 1e-9]
    tight = table[table["bound"] < 1]  # a bound of 1 or more excludes nothing
    nearest = (tight["success"] / tight["bound"]).groupby(tight["line"]).max().sort_values()
    verdict = "No distiller serves more worlds than Fano's bound allows"
    if len(beaten):
        verdict = f"Fano's bound is BROKEN by {', '.join(sorted(set(beaten['line'])))}"
    return Text(
        f"{verdict}, in {len(table)} combinations of distiller and k. {nearest.index[-1]} comes "
        f"nearest, with {nearest.iloc[-1]:.0%} of what the bound allows."
    )


def optimised(table: pd.DataFrame) -> Text:
    """Say what k* of optimised S follows, by its R^2 with M, with the rank and with ln M."""
    lines = []
    for kind, rows in table.groupby("kind", sort=False):
        means = rows.groupby("count")[["rank", "k_star"]].mean().reset_index()
        if means["k_star"].nunique() == 1:
            sentence = f"k* is {means['k_star'].iloc[0]:g} for every family"
        else:
            predictors = {"M": means["count"], "its rank": means["rank"]}
            predictors["ln M"] = np.log(means["count"])
            shares = [
                f"{name} {np.corrcoef(x, means['k_star'])[0, 1] ** 2:.2f}"
                for name, x in predictors.items()
            ]
            sentence = f"R² of k* with {', '.join(shares)}"
        last = means.iloc[-1]
        size = f"M = {last['count']:g} has rank {last['rank']:g} and needs {last['k_star']:.3g}"
        lines.append(f"{kind}: {sentence} ({size}).")
    return Text(bullets(lines))


def deep_networks(folder: str) -> Text:
    """Say which regime the networks of notebook 03 resemble, from the table that it wrote.

    Sampled sets and channels: k* follows H_cov, a log. Optimised sets: k* follows M itself. H_cov
    must lead ln M in relabellings. k* rises with M in every relabelling, so M alone decides
    nothing.
    """
    path = from_root(folder) / REGRESSIONS
    if not path.is_file():
        return Text(
            f"The table of notebook 03 is not there ({folder}/{REGRESSIONS}), so this says "
            "nothing about deep networks. Run notebook 03 with its quick profile, then this cell "
            "again."
        )
    lines = []
    for epsilon, rows in pd.read_parquet(path).groupby("epsilon"):
        fitted = rows[rows["r2"].notna()].set_index("predictor")
        if not {"h_cov", "members"} <= set(fitted.index):
            lines.append(f"worst gap {epsilon:g}: too few k* are known to compare regimes")
            continue
        h_cov, members = fitted.loc["h_cov"], fitted.loc["members"]
        verdict = "no regime is recognised"
        if max(h_cov["p"], h_cov["p_lead"]) <= LEVEL and h_cov["r2"] > members["r2"]:
            verdict = "weak evidence of a log, that of sampled sets, (a)"
        lines.append(
            f"worst gap {epsilon:g}: {verdict}; R² of ln k* is {h_cov['r2']:.2f} with H_cov "
            f"(relabelling p = {h_cov['p']:.3f}) and {members['r2']:.2f} with M itself"
        )
    return Text(bullets(lines))


def _below(values: pd.Series, bounds: pd.Series) -> pd.Series:
    """Return where values do not exceed their bounds, up to rounding."""
    return values <= bounds * (1 + 1e-9) + 1e-12
