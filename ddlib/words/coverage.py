"""Sentences on the coverage law, computed from the results."""

import numpy as np
import pandas as pd
import scipy

from ddlib.stats.intervals import LEVEL, Interval
from ddlib.stats.pilot import PEERS, REACH, Pilot
from ddlib.stats.planner import Plan
from ddlib.stats.regressions import confirms
from ddlib.words.scaling import no_worse
from ddlib.words.text import Text, box, listed


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
        fall = " (k* falls as H_cov grows)" if row["r2"] < 0 else ""
        ps = pd.Series({
            f"that k* rises with H_cov{fall}": row["p"],
            "that H_cov fits better than ln M": row["p_lead"],
            "that k* rises among families of equal M": np.nan if equal is None else equal["p"],
        })  # fmt: skip
        if (missed := ps > LEVEL).any():
            text = f"not confirmed.** Not shown: {'; '.join(ps.index[missed])}"
        elif (untested := ps.isna()).any():
            text = f"cannot be decided.** Cannot be tested: {'; '.join(ps.index[untested])}"
        else:
            text = f"confirmed.** Shown: {'; '.join(ps.index)}"
        lines.append(f"**Worst gap {epsilon:g}: {text}.")
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
    return Text("\n\n".join(paragraphs))


def lesson(tests: pd.DataFrame, within: pd.DataFrame | None) -> Text:
    """Say whether families with a larger H_cov need more samples, and what all tests say together.

    The first sentences are on the first epsilon that can be tested, the last on all. tests, within:
    of `regress` and `within_equal` in `ddlib.stats.regressions`.
    """
    rows = tests[tests["predictor"] == "h_cov"]
    tested = rows[rows["reason"] == ""]
    if tested.empty:
        return Text(f"Nothing can be said about H_cov, as {rows['reason'].iloc[0]}.")
    row, limits = tested.iloc[0], listed(f"{epsilon:g}" for epsilon in tested["epsilon"])
    swaps = f"{100 * row['p']:.0f}" if row["p"] >= 0.01 else "fewer than 1"
    verb = "need" if row["p"] <= LEVEL else "are not shown to need"
    return Text(
        f"**Families with a larger H_cov {verb} more samples** to hold a worst gap of "
        f"{row['epsilon']:g}. If configurations swapped their gaps at random, "
        f"{swaps} of 100 such swaps would show as clear a trend.\n\n"
        "That is one of three tests. H_cov must also explain k* better than ln M (the log of the "
        "family's size) does, and k* must rise with H_cov among families of equal size. All three, "
        f"at a worst gap of {limits}: **{confirms(tests, within)}**. See notebook 06."
    )


def _equal(within: pd.DataFrame | None, epsilon: float) -> pd.Series | None:
    """Return the row of H_cov at epsilon, of families of equal M."""
    if within is None:
        return None
    return within[within["epsilon"] == epsilon].set_index("predictor").loc["h_cov"]


def by_radius(tests: pd.DataFrame) -> Text:
    """Say, for each epsilon, at which radii k* rises with H_cov.

    tests: rows of `regress` for h_cov, with a column radius.
    """
    lines = []
    for epsilon, rows in tests.drop_duplicates(["epsilon", "radius"]).groupby("epsilon"):
        radii = rows["radius"].map("{:.2g}".format)
        judged = radii + rows["p"].map(" (p = {:.3f})".format)
        sides = {
            "k* rises with H_cov at r = ": judged[rows["p"] <= LEVEL],
            "k* is not shown to rise at r = ": judged[rows["p"] > LEVEL],
            "nothing can be said at r = ": radii[rows["p"].isna()],
            "the reason: ": rows.loc[rows["p"].isna(), "reason"].unique(),
        }
        parts = [text + listed(side) for text, side in sides.items() if len(side)]
        lines.append(f"Worst gap {epsilon:g}: {'; '.join(parts)}.")
    return Text("\n\n".join(lines))


def poor(errors: pd.Series, epsilon: float) -> str:
    """Name the configurations that are poor on all data themselves; "" if none is.

    errors: of the networks on D, by configuration. The rule: an error exceeds their median by more
    than epsilon.
    """
    names = errors.index[errors > errors.median() + epsilon]
    if names.empty:
        return ""
    verb, own, one = ("are", "their", "one") if len(names) > 1 else ("is", "its", "it")
    return (
        f"{listed(f'{name} ({1 - errors[name]:.2f})' for name in names)} {verb} poor on "
        f"all data: {own} accuracy there is more than {epsilon:g} below the median accuracy of "
        f"these configurations, {1 - errors.median():.2f}. Where {one} is the worst member, k* "
        "shows how poor this training is, not how diverse the family is."
    )


def _numbers(h_cov: pd.Series, table: pd.DataFrame) -> str:
    """Say R² with H_cov and ln M, and the slope, if k* rises; a negative R² means that k* falls."""
    rival = table.loc["log_members"]
    text = f"R² of ln k*: {abs(h_cov['r2']):.2f} with H_cov (p = {h_cov['p']:.3f})"
    if rival["reason"]:
        text += f"; ln M cannot be compared: {rival['reason']}"
    else:
        text += f", {abs(rival['r2']):.2f} with ln M (p = {rival['p']:.3f}); the lead of H_cov has "
        text += f"p = {h_cov['p_lead']:.3f}"
    rows = ((h_cov, "H_cov"), (rival, "ln M"))
    if falls := [name for row, name in rows if row["r2"] < 0]:
        text += f"; k* falls as {listed(falls)} grow{'s' * (len(falls) == 1)}"
    if h_cov["p"] <= LEVEL:
        slope = Interval(*h_cov[["slope", "low", "high"]])
        more, clause = f"{slope:.0f}", ""
        if h_cov["censored"]:  # then it has no interval
            more = f"{slope.estimate:.0f}"
            clause = ", if a k* beyond the measured sizes counts as the nearest one"
        text += f". One more nat of H_cov takes {more} more samples{clause}"
    return f"{text}."


def _rests_on(row: pd.Series) -> str:
    """Say on how many families and distinct k* a verdict rests, and what is missing."""
    caveats = {
        "censored": "in {:.0f} of them k* lies beyond the measured sizes, set to the bound",
        "reduced": "families that lost seeds to missing trials: {:.0f}",
        "shortened": "families that lost sizes to missing trials: {:.0f}",
        "unknown": "families without k* for missing trials: {:.0f}",
    }
    families = f"{row['n']:.0f} families have {row['distinct']:.0f} distinct k*"
    parts = [text.format(row[count]) for count, text in caveats.items() if row[count]]
    return f"{'; '.join([families, *parts])}."


def _among_equal(row: pd.Series) -> str:
    if row["reason"]:
        return f"Families of equal M say nothing: {row['reason']}."
    fall = "k* falls as H_cov grows, and " if row["r2"] < 0 else ""
    return (
        f"Among {row['n']:.0f} families of equal M, where ln M says nothing, {fall}R² is "
        f"{abs(row['r2']):.2f} (p = {row['p']:.3f}), with {row['distinct']:.0f} distinct k*."
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
            parts.append(f"families that lost seeds to missing trials: {lost}")
        if unjudged := sorted(set(rows["family"]) - set(judged["family"])):
            parts.append(f"{listed(unjudged)} cannot be judged by fewer than 2 whole seeds")
        paragraphs.append(f"**{method}** instead of {first}: {'; '.join(parts)}.")
    return Text("\n\n".join(paragraphs))


def plan(planned: Plan) -> Text:
    """Say the answer of a plan, and what speaks against it."""
    doubt = f" But {planned.doubt}." if planned.doubt else ""
    return Text(f"{answer(planned)}{doubt}")


def answer(planned: Plan) -> str:
    """Say the samples per class of a plan and the member that decides, or why there is no plan."""
    goal, pilot = f"a worst gap of {planned.epsilon:g}", planned.pilot
    if planned.reason:
        return f"No plan for {goal}: {planned.reason}."
    (ipc, low, high), k, last = planned.ipc, planned.k.estimate, planned.last
    if np.isinf(high):
        least = f"{low:g} samples per class are" if low > 1 else "1 sample per class is"
        text = f"At least {least} needed for {goal}, most likely {ipc:g}"
    else:
        few = f"{low:g} to {high:g}, most likely {ipc:g}," if low < high else f"{ipc:g}"
        text = f"With {few} sample{'s' * (high > 1)} per class, the worst gap is at most "
        text += f"{planned.epsilon:g}"
    where = "the smallest size measured" if k <= pilot.ks[0] else "within the measured sizes"
    where = f"past {last:g}, the largest size that all members have" if k > last else where
    guess = f"A guess: {text[0].lower()}{text[1:]}" if planned.doubt else text
    text = f"{guess} (k = {k:g}, {where})"
    if np.isinf(high):
        text += f"; up to k = {REACH * last:g} no number is surely enough"
    return f"{text}; {planned.member} decides."


def support(pilot: Pilot) -> str:
    """Say what the pilot can promise for a new configuration, if anything, and what is missing."""
    size, text = len(pilot.names), ""
    if size >= PEERS:
        text = f" With {size} configurations, an interval can promise at most "
        text += f"{100 * size / (size + 1):.0f} % for a new one."
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
    """Say that a/√k + c fails for the member that decides, and whether a plan rests on it."""
    rests = " This plan does not rest on it: it lies between measured sizes."
    if planned.rests_on_law:
        rests = f" Past k = {planned.last:g} this plan rests on it: do not trust it there."
    return f"a/√k + c fails for {method} under {member}: {why}.{'' if planned.reason else rests}"
