"""Sentences on the coverage law, computed from the results and never typed by hand."""

import numpy as np
import pandas as pd
import scipy

from ddlib.stats.distances import Triangles
from ddlib.stats.intervals import LEVEL
from ddlib.stats.planner import CLAIMED, REACH, Pilot, Plan
from ddlib.words.scaling import no_worse
from ddlib.words.text import Text, listed

NAMES = {
    "h_cov": "H_cov",
    "log_members": "ln M",
    "members": "M",
    "constant": "a constant",
    "packing": "the packing number",
    "vendi": "the Vendi score",
    "leinster_cobbold": "the Leinster-Cobbold diversity",
    "effective_rank": "the effective rank",
    "mean_distance": "the mean distance",
}
METHOD = (
    "p: the share of relabellings, in which configurations swap their gaps, that give as large an "
    "R² (or lead in R²). It is computed twice, with k* of cross-fitted and of raw worst gaps, and "
    "the larger is said. R² is that of ln k*. Intervals hold the noise of seeds, not the error of "
    "reading k* between measured sizes."
)


def distances(triangles: Triangles, floor: float, radius: float) -> Text:
    """Say whether the distances are a metric here, and whether r stands above the seeds' noise."""
    if triangles.count:
        first, second, third = triangles.triple
        metric = (
            f"The triangle inequality fails in {triangles.count} triples ({triangles.share:.1%}), "
            f"worst by {triangles.worst:.2g} for {first}, {second}, {third}: no metric, so the "
            "bounds between covers and packings need not hold."
        )
    else:
        metric = "The triangle inequality holds for all triples."
    noise = f"Seeds alone reach a distance of {floor:.2g}; the radius used is {radius:.2g}"
    if radius <= floor:
        noise += ", no more than that: H_cov counts noise here"
    return Text(f"{metric} {noise}.")


def explained(
    regressions: pd.DataFrame, within: pd.DataFrame | None, gaps: pd.DataFrame | None = None
) -> Text:
    """Say, at each epsilon, whether k* rises with H_cov, and more than with ln M and the others.

    regressions, within: of `coverage_laws.regressions` and `within_equal`; gaps: the trials that k*
    comes from, whose gaps at or below 0 are said first.
    """
    paragraphs = [] if gaps is None else no_worse(gaps)
    for epsilon, rows in regressions.groupby("epsilon"):
        table = rows.set_index("predictor")
        h_cov, goal = table.loc["h_cov"], f"Worst gap {epsilon:g}"
        if h_cov["reason"]:
            sentences = [f"**{goal}: nothing can be said of H_cov.** {_sentence(h_cov['reason'])}"]
        else:
            verdict = f"{_rises(h_cov)}; {_against(h_cov, table.loc['log_members'])}"
            sentences = [f"**{goal}: {verdict}.**", _numbers(h_cov, table)]
        sentences.append(_rests_on(h_cov))
        if within is not None:
            sentences.append(_within(within[within["epsilon"] == epsilon]))
        paragraphs.append(" ".join(sentences))
    return Text("\n\n".join([*paragraphs, METHOD]))


def _rises(row: pd.Series) -> str:
    p = f"relabelling p = {row['p']:.3f}"
    if row["p"] <= LEVEL:
        return f"k* rises with H_cov (weak evidence, {p})"
    return f"k* is not shown to rise with H_cov ({p})"


def _against(h_cov: pd.Series, rival: pd.Series) -> str:
    name = "ln M, the paper's own regressor,"
    if rival["reason"]:
        return f"{name} cannot be compared: {rival['reason']}"
    p = f"p = {h_cov['p_lead']:.3f}"
    if h_cov["p_lead"] <= LEVEL:
        return f"{name} explains less (weak evidence, {p})"
    if h_cov["lead"] < 0:
        return f"{name} has the larger R², untested"
    return f"{name} is not shown to explain less ({p})"


def _numbers(h_cov: pd.Series, table: pd.DataFrame) -> str:
    """Say R², the slope if k* rises, what other measures reach, and the error at what is left."""
    text = f"R² of ln k*: {h_cov['r2']:.2f} with H_cov"
    if not table.loc["log_members", "reason"]:
        text += f", {table.loc['log_members', 'r2']:.2f} with ln M"
    others = table.drop(["h_cov", "members", "log_members", "constant"], errors="ignore")["r2"]
    others = others[others > h_cov["r2"]].sort_values(ascending=False)
    if len(others):
        ahead = listed([f"{NAMES[name]} ({r2:.2f})" for name, r2 in others.items()], "and")
        text += f"; larger, but untested, with {ahead}"
    if h_cov["p"] <= LEVEL:
        text += f". A nat of H_cov goes with {h_cov['slope']:.0f} more images"
        if pd.notna(h_cov["low"]):
            text += f" ({h_cov['low']:.0f} to {h_cov['high']:.0f} over draws of seeds)"
    errors = table["loo"].dropna().sort_values()
    if errors.empty:
        return f"{text}. No leave-one-out error can be computed."
    best = errors.index[0]
    text += f". Smallest error at left-out {h_cov['left_out']}: {NAMES[best]} "
    text += f"({errors[best]:.0f} images"
    if best != "h_cov" and "h_cov" in errors:
        text += f"; H_cov errs by {errors['h_cov']:.0f}"
    return f"{text})."


def _rests_on(row: pd.Series) -> str:
    """Say how many families and distinct k* a verdict rests on, and what is missing."""
    families = f"{row['n']:.0f} families have {row['distinct']:.0f} distinct k*"
    if row["censored"]:
        families += (
            f", {row['censored']:.0f} of them beyond the measured sizes and set to the bound"
        )
    if row["reduced"]:
        families += (
            f"; {row['reduced']:.0f} families lost seeds to missing trials, down to "
            f"{row['fewest']:.0f} seeds"
        )
    if row["shortened"]:
        families += f"; {row['shortened']:.0f} families lost sizes to missing trials"
    if row["unknown"]:
        families += f"; {row['unknown']:.0f} more have no k* for missing trials"
    return f"{families}."


def _within(rows: pd.DataFrame) -> str:
    row = rows[rows["predictor"] == "h_cov"].iloc[-1]  # all groups, where there are several
    if row["reason"]:
        return f"Among families of equal M nothing can be said of H_cov: {row['reason']}."
    weak = row["p"] <= LEVEL
    rises = "rises with H_cov (weak evidence, " if weak else "is not shown to rise with H_cov ("
    return (
        f"Among {row['n']:.0f} families of equal M, where ln M says nothing, k* {rises}p = "
        f"{row['p']:.3f}; R² {row['r2']:.2f}, {row['distinct']:.0f} distinct k*)."
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def transfer(compared: pd.DataFrame, first: str) -> Text:
    """Say whether sets distilled otherwise serve families better than those of the first method."""
    paragraphs = []
    for method, own in compared.groupby("method", sort=False):
        parts, judged = [], own.dropna(subset="difference")
        for kind, rows in judged.groupby("gap", sort=False):
            change = rows["difference"]
            apart = change[rows["significant"]]
            parts.append(
                f"the {kind} gap changes by {change.mean():+.3f} on average ({change.min():+.3f} "
                f"to {change.max():+.3f}); beyond the noise of {rows['n'].min()} seeds it is "
                f"smaller in {(apart < 0).sum()} and larger in {(apart > 0).sum()} of {len(rows)} "
                "cases"
            )
        lost = judged[judged["missing"] > 0].drop_duplicates("family")
        if len(lost):
            seeds = [
                f"{row.family} ({row.n} seeds, {row.missing} missing)" for row in lost.itertuples()
            ]
            parts.append(f"missing trials cost seeds in {listed(seeds, 'and')}")
        if missing := sorted(set(own["family"]) - set(judged["family"])):
            names = listed(missing, "and")
            parts.append(f"nothing is said of {names}, where fewer than 2 seeds are whole")
        paragraphs.append(f"**{method}** instead of {first}: {'; '.join(parts)}.")
    note = (
        "A case is a family at one k, judged by its 95 % interval; cases overlap, and their number "
        "is not corrected for. No change beyond the noise is not the same as no change."
    )
    return Text("\n\n".join([*paragraphs, note]))


def plan(found: Plan) -> Text:
    """Say a plan, its answer first, and what it can be trusted for."""
    goal = f"a worst gap of {found.epsilon:g}"
    if found.reason:
        return Text(f"No plan for {goal}: {found.reason}.")
    (ipc, low, high), k, ks = found.ipc, found.k.estimate, found.pilot.ks
    where = "between measured sizes" if k < ks[-1] else f"past the largest measured, {ks[-1]:g}"
    where = f"k = {k:g}, {'a measured size' if k in ks else where}"
    if np.isinf(high):
        text = f"At least {low:g} images per class are needed for {goal}, most likely {ipc:g} "
        text += f"({where}); up to k = {REACH * ks[-1]:g} no number is surely enough"
    elif low < high:
        text = f"Between {low:g} and {high:g} images per class hold {goal}, most likely {ipc:g} "
        text += f"({where})"
    else:
        fewest = ", the fewest measured," if ipc <= np.ceil(ks[0] / found.class_count) else ""
        text = f"{ipc:g} images per class{fewest} hold {goal} ({where})"
    guess = "A guess: " if found.doubt and k > ks[-1] else ""
    text = f"{guess}{text}; {found.member} decides. {trust(found.pilot)}"
    return Text(f"{text} But {found.doubt}." if found.doubt else text)


def trust(pilot: Pilot) -> str:
    """Say how often a pilot's intervals held what was left out of it, and what is missing."""
    (held, count), known = pilot.left_out, len(pilot.names)
    text = "This pilot is too small to test its intervals on itself."
    if count:
        text = f"Left out of the pilot in turn, {held} of {count} measured gaps were in their "
        text += "95 % intervals"
        narrow = scipy.stats.binom.cdf(held, count, CLAIMED) < 0.05
        text += ", so these are too narrow" if narrow else ""
        text += f"; {known} configurations alone support a level of {known / (known + 1):.0%}."
    if missing := int(np.isnan(pilot.gaps).sum()):
        text += f" {missing} of {pilot.gaps.size} trials are missing; means are over the others."
    return text


def back_test(tested: pd.DataFrame) -> Text:
    """Say how often the planner's intervals held what the pilot had not seen, and how far off.

    tested: of `planner.back_test`.
    """
    lines, measured = [], tested.dropna(subset=["error"])
    left = "; ".join(tested.attrs.get("left", []))
    left = f" Left out: {left}." if left else ""
    for refused, rows in measured.groupby(measured["refused"] != ""):
        for (kind, held), known in rows.groupby(["kind", "held_out"], sort=False):
            plural = kind.replace("family", "families").replace("ion", "ions")
            lines.append(
                f"- {plural}, held out: {held}{' (the planner refuses these)' * bool(refused)}: "
                f"{known['inside'].sum()} of {len(known)} measured gaps were in their "
                f"95 % intervals; mean error {known['error'].mean():+.3f}, root mean "
                f"square {np.sqrt((known['error'] ** 2).mean()):.3f}"
            )
    if not lines:
        return Text(f"Nothing is left to test the pilot on.{left}")
    kept = measured[measured["refused"] == ""]
    share = f"in {kept['inside'].mean():.0%} of {len(kept)} cases" if len(kept) else "in no case"
    verdict = f"**The planner's 95 % intervals held {share} that it answers.**"
    return Text(
        "\n".join([f"{verdict} Families overlap, so cases are not independent.{left}", "", *lines])
    )
