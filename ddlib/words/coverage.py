"""Sentences on the coverage law, computed from the results."""

import numpy as np
import pandas as pd
import scipy

from ddlib.stats.intervals import LEVEL
from ddlib.stats.pilot import REACH, Pilot
from ddlib.stats.planner import Plan
from ddlib.words.scaling import no_worse
from ddlib.words.text import Text, listed

NAMES = {
    "vendi": "the Vendi score",
    "mean_distance": "the mean distance",
}
METHOD = (
    "A relabelling lets configurations swap their gaps. p is the share of relabellings whose R² "
    "of ln k* (or lead in R²) is as large as the measured one. There is a p from cross-fitted and "
    "one from raw worst gaps; the larger is given. Intervals hold the noise of seeds, but not the "
    "error of interpolating k* between measured sizes."
)


def distances(floor: float, radius: float) -> Text:
    """Say whether the radius r is above the distances that seeds alone reach."""
    text = f"Seeds alone reach a distance of {floor:.2g}; the radius is {radius:.2g}"
    return Text(
        f"{text}, which is not larger: H_cov counts noise here." if radius <= floor else f"{text}."
    )


def explained(
    regressions: pd.DataFrame, within: pd.DataFrame | None, gaps: pd.DataFrame | None = None
) -> Text:
    """Say, for each epsilon, whether k* rises with H_cov, and whether more than with ln M.

    regressions, within: `regress` and `within_equal` of `ddlib.stats.regressions`; gaps: the trials
    that k* comes from; a sentence on their gaps at or below 0 comes first.
    """
    paragraphs = [] if gaps is None else no_worse(gaps)
    for epsilon, rows in regressions.groupby("epsilon"):
        table = rows.set_index("predictor")
        h_cov, goal = table.loc["h_cov"], f"Worst gap {epsilon:g}"
        if reason := h_cov["reason"]:
            start = f"**{goal}: nothing can be said about H_cov.** {reason[0].upper()}{reason[1:]}."
        else:
            verdict = f"{_rises(h_cov)}; {_against(h_cov, table.loc['log_members'])}"
            start = f"**{goal}: {verdict}.** {_numbers(h_cov, table)}"
        equal = "" if within is None else _within(within[within["epsilon"] == epsilon])
        paragraphs.append(f"{start} {_rests_on(h_cov)} {equal}".strip())
    return Text("\n\n".join([*paragraphs, METHOD]))


def _rises(row: pd.Series) -> str:
    if row["p"] <= LEVEL:
        return f"k* rises with H_cov (weak evidence, p = {row['p']:.3f})"
    return f"k* is not shown to rise with H_cov (p = {row['p']:.3f})"


def _against(h_cov: pd.Series, rival: pd.Series) -> str:
    name, p = "ln M, the paper's own regressor,", f"p = {h_cov['p_lead']:.3f}"
    if rival["reason"]:
        return f"{name} cannot be compared: {rival['reason']}"
    if h_cov["p_lead"] <= LEVEL:
        return f"{name} explains less (weak evidence, {p})"
    if h_cov["lead"] < 0:
        return f"{name} has the larger R², untested"
    return f"{name} is not shown to explain less ({p})"


def _numbers(h_cov: pd.Series, table: pd.DataFrame) -> str:
    """Say R², larger R² of other measures, and the slope (if k* rises)."""
    text = f"R² of ln k*: {h_cov['r2']:.2f} with H_cov"
    if not table.loc["log_members", "reason"]:
        text += f", {table.loc['log_members', 'r2']:.2f} with ln M"
    r2 = table["r2"].reindex(list(NAMES))
    ahead = r2[r2 > h_cov["r2"]].sort_values(ascending=False)
    if len(ahead):
        names = listed([f"{NAMES[name]} ({r2:.2f})" for name, r2 in ahead.items()], "and")
        text += f"; larger, but untested, with {names}"
    if h_cov["p"] <= LEVEL:
        text += f". A nat of H_cov goes with {h_cov['slope']:.0f} more images"
        if pd.notna(h_cov["low"]):
            text += f" ({h_cov['low']:.0f} to {h_cov['high']:.0f} over draws of seeds)"
    return f"{text}."


def _rests_on(row: pd.Series) -> str:
    """Say on how many families and distinct k* a verdict rests, and what is missing."""
    parts = {
        "censored": "{censored:.0f} of these lie beyond the measured sizes, set to the bound",
        "reduced": "{reduced:.0f} families lost seeds to missing trials, down to {fewest:.0f}",
        "shortened": "{shortened:.0f} families lost sizes to missing trials",
        "unknown": "{unknown:.0f} more have no k* for missing trials",
    }
    families = f"{row['n']:.0f} families have {row['distinct']:.0f} distinct k*"
    caveats = [text.format(**row) for count, text in parts.items() if row[count]]
    return f"{'; '.join([families, *caveats])}."


def _within(rows: pd.DataFrame) -> str:
    row = rows[rows["predictor"] == "h_cov"].iloc[0]
    if row["reason"]:
        return f"Among families of equal M nothing can be said about H_cov: {row['reason']}."
    return (
        f"Among {row['n']:.0f} families of equal M, where ln M says nothing, {_rises(row)}; R² is "
        f"{row['r2']:.2f}, with {row['distinct']:.0f} distinct k*."
    )


def transfer(compared: pd.DataFrame, first: str) -> Text:
    """Say whether the sets of other methods serve families better than those of the first."""
    paragraphs = []
    for method, rows in compared.groupby("method", sort=False):
        parts, judged = [], rows.dropna(subset="difference")
        for kind, cases in judged.groupby("gap", sort=False):
            change = cases["difference"]
            apart = change[cases["significant"]]
            parts.append(
                f"the {kind} gap is significantly smaller in {(apart < 0).sum()} and larger in "
                f"{(apart > 0).sum()} of {len(cases)} cases (mean change {change.mean():+.3f}, "
                f"{change.min():+.3f} to {change.max():+.3f}, {cases['n'].min()} seeds)"
            )
        fewer = judged[judged["missing"] > 0].drop_duplicates("family")
        seeds = [
            f"{row.family} ({row.n} left, {row.missing} missing)" for row in fewer.itertuples()
        ]
        parts += [f"missing trials cost seeds in {listed(seeds, 'and')}"] if seeds else []
        unjudged = sorted(set(rows["family"]) - set(judged["family"]))
        names = listed(unjudged, "and")
        parts += [f"{names} cannot be judged by fewer than 2 whole seeds"] if unjudged else []
        paragraphs.append(f"**{method}** instead of {first}: {'; '.join(parts)}.")
    note = (
        "A case is a family at one k, judged by its 95 % interval. Cases overlap, and there is no "
        "correction for their number. No significant change does not mean no change."
    )
    return Text("\n\n".join([*paragraphs, note]))


def plan(planned: Plan) -> Text:
    """Say the answer of a plan, and how far to trust it."""
    goal, pilot = f"a worst gap of {planned.epsilon:g}", planned.pilot
    if planned.reason:
        return Text(f"No plan for {goal}: {planned.reason}.")
    (ipc, low, high), k, ks = planned.ipc, planned.k.estimate, pilot.ks
    where = "between measured sizes" if k < ks[-1] else f"past the largest measured, {ks[-1]:g}"
    where = f"(k = {k:g}, {'a measured size' if k in ks else where})"
    if np.isinf(high):
        text = f"At least {low:g} images per class are needed for {goal}, most likely {ipc:g} "
        text += f"{where}; up to k = {REACH * ks[-1]:g} no number is surely enough"
    elif low < high:
        text = f"{low:g} to {high:g} images per class hold {goal}, most likely {ipc:g} {where}"
    else:
        fewest = ", the fewest measured," if ipc <= np.ceil(ks[0] / planned.class_count) else ""
        text = f"{ipc:g} images per class{fewest} hold {goal} {where}"
    guess = "A guess: " if planned.doubt and k > ks[-1] else ""
    text = f"{guess}{text}; {planned.member} decides. {trust(pilot)}"
    return Text(f"{text} But {planned.doubt}." if planned.doubt else text)


def trust(pilot: Pilot) -> str:
    """Say how often the pilot's intervals held gaps that were left out, and what is missing."""
    (held, count), size = pilot.left_out, len(pilot.names)
    text = "This pilot is too small to test its intervals on itself."
    if count:
        narrow = scipy.stats.binom.cdf(held, count, 1 - LEVEL) < 0.05
        text = f"Left out of the pilot in turn, {held} of {count} measured gaps were in their "
        text += "95 % intervals, so these are too narrow" if narrow else "95 % intervals"
        text += f"; {size} configurations alone support a level of {size / (size + 1):.0%}."
    if missing := int(np.isnan(pilot.gaps).sum()):
        text += f" {missing} of {pilot.gaps.size} trials are missing; means are over the others."
    return text
