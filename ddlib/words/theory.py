"""Sentences on the theory course, computed from its results."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ddlib.stats.intervals import Interval
from ddlib.theory.channel import ANGLES, COPIES, Line
from ddlib.theory.floors import verdicts
from ddlib.words.text import Text, bullets


def chains(table: pd.DataFrame) -> Text:
    """Say whether both bounds held on all problems, and how loose they are."""
    lines = []
    for value, name in {"distance": "distance of the weights", "gap": "gap in risk"}.items():
        values, bounds = table[value], table[f"{value}_bound"]
        loose = float((bounds / values)[values > 0].median())
        lines.append(
            f"The bound on the {name} {_holds(values, bounds)} on all {len(table)} random problems."
            f" In the median it is {loose:.3g} times the {name}."
        )
    expanding = int((table["rho"] >= 1).sum())
    lines.append(
        f"In {expanding} problems no step contracts (ρ ≥ 1): there the bounds grow with T."
    )
    return bullets(lines)


def logistic(results: Mapping[str, tuple[pd.DataFrame, Mapping[str, float]]]) -> Text:
    """Say for each case how much the steps contract, and whether the PL bound holds."""
    lines = []
    for name, (table, numbers) in results.items():
        half, last = table.iloc[len(table) // 2], table.iloc[-1]
        sure = numbers["rho_anywhere"]
        sure = f"guaranteed: {sure:.3f}" if sure < 1 else "nothing below 1 is guaranteed"
        lines.append(
            f"{name}: ρ measured on the paths is {numbers['rho']:.3f} ({sure}). Over the second "
            f"half of the steps the weights move {last['distance'] / half['distance'] - 1:+.1%} "
            f"further apart. The loss on D ends {last['excess']:.3g} nats above its least, and its "
            f"PL bound {_holds(table['excess'], table['excess_bound'])}: "
            f"{last['excess_bound']:.3g} (μ = {numbers['mu']:.2g})."
        )
    return bullets(lines)


def surrogates(traces: Mapping[str, pd.DataFrame]) -> Text:
    """Say how minimising each surrogate changed the gap, and which bound was tightest."""
    lines = []
    for name, table in traces.items():
        first, last, bounds = table.iloc[0], table.iloc[-1], table.filter(like="bound_")
        tight = np.log(bounds.clip(1e-300)).mean().idxmin().removeprefix("bound_")
        lines.append(
            f"{name} matching: the objective falls from {first[name]:.3g} to {last[name]:.2g}, the "
            f"absolute gap from {abs(first['gap']):.3g} to {abs(last['gap']):.2g} "
            f"({len(table) - 1} iterations). Each of the three bounds "
            f"{_holds(table['gap'], bounds.min(axis=1))}; that of {tight} matching is the tightest."
        )
    return bullets(lines)


def exponents(results: Mapping[str, tuple[Interval, float]]) -> Text:
    """Say which exponents agree with the prediction: {quantity: (exponent, predicted)}."""
    lines = []
    for name, (exponent, predicted) in results.items():
        agrees = "agrees" if exponent.low <= predicted <= exponent.high else "does NOT agree"
        lines.append(f"{name}: {agrees} with {predicted:g}; measured exponent {exponent:.3f}.")
    return bullets(lines)


def floors(table: pd.DataFrame) -> Text:
    """Say which factors leave a floor, and what label noise adds; table: of `theory.floors`."""
    k, risks = table["k"].max(), table.groupby(["k", "factor"])["excess"].median()
    lines = [
        f"{row.Index}: {row.verdict}; {row.last:.2g} at k = {k}, {row.half:.2g} at half of that."
        for row in verdicts(table).itertuples()
    ]
    more = risks[k, "label noise"] - risks[k, "nothing"]
    lines.append(f"Label noise adds {more:.2g} to the risk of D's own training.")
    return bullets(lines)


def sampled(line: Line, halves: tuple[Line, Line], highest: float) -> Text:
    """Say how linear k* is in H_cov, with which slope, and how near the union bound is.

    line, halves, highest: as `ddlib.theory.channel.slopes` returns them. The slope of the union
    bound is 2, in units of sigma^2 / epsilon^2.
    """
    first, second = (half.slope.estimate for half in halves)
    return Text(
        f"k* is linear in H_cov (R² {line.r2:.4f}). It grows by {line.slope.estimate:.2f} σ²/ε² a "
        f"nat ({line.slope.ends('.2f')} over seeds), by {first:.2f} over the smaller families and "
        f"{second:.2f} over the larger; the union bound says 2. The mean worst gap is at most "
        f"{highest:.0%} of its bound."
    )


def duplicates(table: pd.DataFrame) -> Text:
    """Say how duplicates change k*; table: of `ddlib.theory.channel.sampled_sizes`."""
    wide = table.pivot(index="x", columns="line", values="k_star").dropna(subset=["duplicates"])
    alone = table[table["line"] == "independent"]  # which has these N, too
    alone = np.interp(wide.index - np.log(COPIES), alone["x"], alone["k_star"])
    change = np.abs(wide["duplicates"] / alone - 1).max()
    lines = [f"{COPIES} duplicates of each configuration change k* by at most {change:.1%}."]
    for angle in ANGLES:
        near, bound = wide[f"{angle}° apart"], wide[f"statement 13 at {angle}°"]
        first, *_, last = near / alone - 1
        tighter = bound.iloc[-1] < wide["union bound of M"].iloc[-1]
        lines.append(
            f"{COPIES} near duplicates, {angle}° apart, raise k* by {first:.0%} in the smallest "
            f"family and {last:.0%} in the largest. The bound of statement 13 "
            f"{_holds(near, bound)}; in the largest family it is "
            f"{'tighter' if tighter else 'weaker'} than the union bound over all members."
        )
    return bullets(lines)


def channel(table: pd.DataFrame) -> Text:
    """Say whether any distiller beat Fano's bound; columns line, k, success, bound."""
    tight = table[table["bound"] < 1]  # a bound of 1 or more excludes nothing
    nearest = (tight["success"] / tight["bound"]).groupby(tight["line"]).max().sort_values()
    return Text(
        f"Fano's bound {_holds(table['success'], table['bound'])} for all {len(table)} combinations"
        f" of distiller and k. {nearest.index[-1]} comes nearest, with {nearest.iloc[-1]:.0%} of "
        "what the bound allows."
    )


def optimised(table: pd.DataFrame) -> Text:
    """Say what k* of optimised S follows, by its R^2 with M, with the rank and with ln M."""
    lines = []
    for kind, rows in table.groupby("kind", sort=False):
        means = rows.groupby("count")[["rank", "k_star"]].mean().reset_index()
        means = means.assign(log=np.log(means["count"]))
        sentence = f"k* is {means['k_star'].iloc[0]:g} for every family"
        if means["k_star"].nunique() > 1:
            r2 = means.corr()["k_star"] ** 2
            sentence = f"R² of k* with M {r2['count']:.2f}, its rank {r2['rank']:.2f}, ln M "
            sentence += f"{r2['log']:.2f}"
        last = means.iloc[-1]
        size = f"M = {last['count']:g} has rank {last['rank']:g} and needs {last['k_star']:.3g}"
        lines.append(f"{kind}: {sentence} ({size}).")
    return bullets(lines)


def assumptions(rows: Mapping[tuple[str, str], tuple[float, float]]) -> pd.DataFrame:
    """Tabulate what becomes of bounds where an assumption fails.

    rows: {(assumption, how it fails): (value, its bound)}; rows with NaN are left out.
    """
    table = pd.DataFrame(rows, index=["value", "bound"]).T.dropna()
    table = table.rename_axis(["assumption", "fails as"])
    holds = "holds: " + (table["bound"] / table["value"]).map("{:.3g}".format) + " times the value"
    held = table["value"] <= table["bound"]
    return table.map("{:.3g}".format).assign(**{"the bound": holds.where(held, "is broken")})


def _holds(values: pd.Series, bounds: pd.Series) -> str:
    """Say whether no value exceeds its bound, up to rounding."""
    return "holds" if (values <= bounds * (1 + 1e-9) + 1e-12).all() else "FAILS"
