"""Sentences on the coverage law, computed from the results."""

import numpy as np
import pandas as pd
import scipy

from ddlib.stats.intervals import LEVEL, Interval
from ddlib.stats.pilot import REACH, Pilot
from ddlib.stats.planner import Plan
from ddlib.words.scaling import no_worse
from ddlib.words.text import Text, box, listed

OTHERS = {"vendi": "the Vendi score", "mean_distance": "the mean distance"}
METHOD = (
    "A relabelling lets configurations swap their gaps. p is the share of relabellings whose R² "
    "of ln k* (or lead in R²) is at least the measured one. Of the two p, from cross-fitted and "
    "from raw worst gaps, the larger is given. Intervals hold the noise of seeds, but not the "
    "error of interpolating k* between measured sizes."
)
CASES = (
    "A case is a family at one k, judged by its 95 % interval. Cases overlap, and there is no "
    "correction for their number. No significant change does not mean no change."
)


def distances(floor: float, radius: float) -> Text:
    """Say whether the radius r is above the distances that seeds alone reach."""
    noise = ", which is not larger: H_cov counts noise here" if radius <= floor else ""
    return Text(f"Seeds alone reach a distance of {floor:.2g}; the radius is {radius:.2g}{noise}.")


def verdicts(regressions: pd.DataFrame, within: pd.DataFrame | None) -> Text:
    """Return one line a goal for the worst gap: whether the law is confirmed, and why not.

    regressions, within: `regress` and `within_equal` of `ddlib.stats.regressions`.
    """
    lines = []
    for epsilon, rows in regressions[regressions["predictor"] == "h_cov"].groupby("epsilon"):
        row, equal = rows.iloc[0], _equal(within, epsilon)
        if row["reason"]:
            why = f"Nothing can be said about H_cov, as {row['reason']}."
            lines.append(f"**Worst gap {epsilon:g}: cannot be decided.** {why}")
            continue
        ps = {"a rise of k* with H_cov": row["p"], "a closer fit than with ln M": row["p_lead"]}
        if equal is not None:
            ps["a rise among families of equal M"] = equal["p"]
        missed = [claim for claim, p in ps.items() if not p <= LEVEL]
        outcome = "not confirmed.** Not shown" if missed else "confirmed.** Shown"
        lines.append(f"**Worst gap {epsilon:g}: {outcome}: {listed(missed or ps, 'and')}.")
    return box(lines)


def explained(
    regressions: pd.DataFrame, within: pd.DataFrame | None, gaps: pd.DataFrame | None = None
) -> Text:
    """Say, for each goal, how well H_cov and ln M explain k*, and on what this rests.

    regressions, within: as in `verdicts`; gaps: the trials that k* comes from; a sentence on their
    gaps at or below 0 comes first.
    """
    paragraphs = [] if gaps is None else no_worse(gaps)
    for epsilon, rows in regressions.groupby("epsilon"):
        table = rows.set_index("predictor")
        h_cov, equal = table.loc["h_cov"], _equal(within, epsilon)
        parts = [f"**Worst gap {epsilon:g}.**", "" if h_cov["reason"] else _numbers(h_cov, table)]
        parts += [_rests_on(h_cov), "" if equal is None else _among_equal(equal)]
        paragraphs.append(" ".join(filter(None, parts)))
    return Text("\n\n".join([*paragraphs, METHOD]))


def _equal(within: pd.DataFrame | None, epsilon: float) -> pd.Series | None:
    """Return the row of H_cov at epsilon, of families of equal M."""
    if within is None:
        return None
    return within[within["epsilon"] == epsilon].set_index("predictor").loc["h_cov"]


def by_radius(tests: pd.DataFrame) -> Text:
    """Say, for each epsilon, whether the verdict on H_cov depends on the radius.

    tests: rows of `regress` for h_cov, with a column radius.
    """
    lines = []
    for epsilon, rows in tests.drop_duplicates(["epsilon", "radius"]).groupby("epsilon"):
        untested, rises = rows["reason"] != "", rows["p"] <= LEVEL
        sides = {
            "k* rises with H_cov at r = ": rows[rises & ~untested],
            "k* is not shown to rise with H_cov at r = ": rows[~rises & ~untested],
            "nothing can be said at r = ": rows[untested],
        }
        parts = [text + _radii(side) for text, side in sides.items() if len(side)]
        verdict = "depends" if len(parts) > 1 else "does not depend"
        start = f"Worst gap {epsilon:g}: the verdict {verdict} on the radius"
        lines.append(f"{start}: {'; '.join(parts)}.")
    return Text("\n\n".join(lines))


def _radii(tests: pd.DataFrame) -> str:
    """Return the radii of tests, with p or the reason why there is none."""
    radii, reason = [f"{radius:.2g}" for radius in tests["radius"]], tests["reason"].iloc[0]
    if not reason:
        radii = [f"{r} (p = {p:.3f})" for r, p in zip(radii, tests["p"], strict=True)]
    return listed(radii, "and") + f", as {reason}" * bool(reason)


def poor(errors: pd.Series, epsilon: float) -> str:
    """Name the configurations of a family that are poor on all data themselves; "" if none is.

    errors: of the networks on D, by configuration. The rule: the error exceeds the median of the
    family by more than epsilon.
    """
    names = errors.index[errors > errors.median() + epsilon]
    if names.empty:
        return ""
    verb, own, one = ("are", "their", "one") if len(names) > 1 else ("is", "its", "it")
    return (
        f"{listed((f'{name} ({1 - errors[name]:.2f})' for name in names), 'and')} {verb} poor on "
        f"all data: {own} accuracy there is more than {epsilon:g} below the family's median, "
        f"{1 - errors.median():.2f}. Where {one} is the worst member, k* is about this training, "
        "not about how diverse the family is."
    )


def _numbers(h_cov: pd.Series, table: pd.DataFrame) -> str:
    """Say R² with H_cov and ln M, larger ones of other measures, and the slope, if k* rises."""
    text = f"R² of ln k*: {h_cov['r2']:.2f} with H_cov (p = {h_cov['p']:.3f})"
    rival = table.loc["log_members"]
    if rival["reason"]:
        text += f"; ln M cannot be compared: {rival['reason']}"
    else:
        text += f", {rival['r2']:.2f} with ln M (p = {rival['p']:.3f}); the lead of H_cov has "
        text += f"p = {h_cov['p_lead']:.3f}"
    r2 = table["r2"].reindex(list(OTHERS))
    if larger := [f"{OTHERS[name]} ({r2[name]:.2f})" for name in r2.index[r2 > h_cov["r2"]]]:
        text += f"; R² is larger, but untested, with {listed(larger, 'and')}"
    if h_cov["p"] <= LEVEL:
        slope = Interval(*h_cov[["slope", "low", "high"]])
        text += f". One more nat of H_cov takes {slope:.0f} more samples"
    return f"{text}."


def _rests_on(row: pd.Series) -> str:
    """Say on how many families and distinct k* a verdict rests, and what is missing."""
    caveats = {
        "censored": "{:.0f} of these lie beyond the measured sizes, set to the bound",
        "reduced": "{:.0f} families lost seeds to missing trials",
        "shortened": "{:.0f} families lost sizes to missing trials",
        "unknown": "{:.0f} more have no k* for missing trials",
    }
    families = f"{row['n']:.0f} families have {row['distinct']:.0f} distinct k*"
    parts = [text.format(row[count]) for count, text in caveats.items() if row[count]]
    return f"{'; '.join([families, *parts])}."


def _among_equal(row: pd.Series) -> str:
    if row["reason"]:
        return f"Families of equal M say nothing: {row['reason']}."
    return (
        f"Among {row['n']:.0f} families of equal M, where ln M says nothing, R² is {row['r2']:.2f} "
        f"(p = {row['p']:.3f}), with {row['distinct']:.0f} distinct k*."
    )


def transfer(compared: pd.DataFrame, first: str) -> Text:
    """Say whether the sets of other methods serve families better than those of the first.

    compared: the table of `ddlib.stats.families.transfer`.
    """
    paragraphs = []
    for method, rows in compared.groupby("method", sort=False):
        parts, judged = [], rows.dropna(subset="difference")
        for kind, cases in judged.groupby("gap", sort=False):
            change = cases["difference"]
            apart = change[cases["significant"]]
            parts.append(
                f"the {kind} gap is significantly smaller in {(apart < 0).sum()} and larger in "
                f"{(apart > 0).sum()} of {len(cases)} cases (mean change {change.mean():+.3f}, "
                f"{change.min():+.3f} to {change.max():+.3f})"
            )
        if lost := (rows.drop_duplicates("family")["missing"] > 0).sum():
            parts.append(f"{lost} families lost seeds to missing trials")
        if unjudged := sorted(set(rows["family"]) - set(judged["family"])):
            parts.append(f"{listed(unjudged, 'and')} cannot be judged by fewer than 2 whole seeds")
        paragraphs.append(f"**{method}** instead of {first}: {'; '.join(parts)}.")
    return Text("\n\n".join([*paragraphs, CASES]))


def plan(planned: Plan) -> Text:
    """Say the answer of a plan, and how far to trust it."""
    if planned.reason:
        return Text(answer(planned))
    doubt = f" But {planned.doubt}." if planned.doubt else ""
    return Text(f"{answer(planned)} {held(planned.pilot)}{support(planned.pilot)}{doubt}")


def answer(planned: Plan) -> str:
    """Say the samples per class of a plan and the member that decides, or why there is no plan."""
    goal, pilot = f"a worst gap of {planned.epsilon:g}", planned.pilot
    if planned.reason:
        return f"No plan for {goal}: {planned.reason}."
    (ipc, low, high), k, last = planned.ipc, planned.k.estimate, pilot.ks[-1]
    if np.isinf(high):
        text = f"At least {low:g} samples per class are needed for {goal}, most likely {ipc:g}"
    elif low < high:
        text = f"{low:g} to {high:g} samples per class hold {goal}, most likely {ipc:g}"
    else:
        text = f"{ipc:g} sample{'s' * (ipc > 1)} per class hold{'s' * (ipc == 1)} {goal}"
    where = "the smallest size measured" if k <= pilot.ks[0] else "within the measured sizes"
    where = f"past the largest size measured, {last:g}" if k > last else where
    text = f"{'A guess: ' * bool(planned.doubt and k > last)}{text} (k = {k:g}, {where})"
    if np.isinf(high):
        text += f"; up to k = {REACH * last:g} no number is surely enough"
    return f"{text}; {planned.member} decides."


def support(pilot: Pilot) -> str:
    """Say which level the pilot's configurations alone support, and what is missing."""
    size, text = len(pilot.names), ""
    if pilot.left_out[1]:
        text = f" {size} configurations alone support a level of {size / (size + 1):.0%}."
    if missing := int(np.isnan(pilot.gaps).sum()):
        text += f" {missing} of {pilot.gaps.size} trials are missing; means are over the others."
    return text


def held(pilot: Pilot) -> str:
    """Say how many left-out gaps the pilot's intervals held, and how wide these are."""
    inside, count, width = pilot.left_out
    if not count:
        return "This pilot is too small to test its intervals on itself."
    narrow = scipy.stats.binom.cdf(inside, count, 1 - LEVEL) < 0.05
    return (
        f"The pilot tested on itself: {inside} of {count} gaps that were left out lie in their "
        f"95 % intervals, {width:.2g} wide (median){', so these are too narrow' * bool(narrow)}."
    )


def rejected(method: str, member: str, why: str, planned: Plan) -> str:
    """Say that a/√k + c fails for the member that decides, and whether the plan rests on it."""
    rests = "This plan rests on it: do not trust it."
    if not planned.reason and planned.k.high <= planned.pilot.ks[-1]:
        rests = "This plan does not rest on it: it lies between measured sizes."
    return f"a/√k + c fails for {method} under {member}: {why}. {rests}"
