"""Sentences on the coverage law, computed from the results and never typed by hand."""

import numpy as np
import pandas as pd
import scipy

from ddlib.comparison import LEVEL
from ddlib.coverage import Triangles
from ddlib.planner import CLAIMED, REACH, Pilot, Plan
from ddlib.reading import NEAR, Text, ends, listed

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


def explained(regressions: pd.DataFrame, within: pd.DataFrame | None) -> Text:
    """Say, at each epsilon, whether H_cov explains k*, and better than ln M and the others do.

    regressions, within: of `coverage_laws.regressions` and `within_equal`.
    """
    paragraphs = []
    for epsilon, rows in regressions.groupby("epsilon"):
        table = rows.set_index("predictor")
        h_cov, rival = table.loc["h_cov"], table.loc["log_members"]
        bounded = f", {h_cov['censored']:.0f} of them only bounded" if h_cov["censored"] else ""
        sentences = [f"**Worst gap {epsilon:g}.** k* of {h_cov['n']:.0f} families{bounded}."]
        if h_cov["reason"]:
            sentences.append(f"Nothing can be said: {h_cov['reason']}.")
        else:
            sentences += [_slope(h_cov), _against(h_cov, rival, table)]
        if within is not None:
            sentences.append(_within(within[within["epsilon"] == epsilon]))
        paragraphs.append(" ".join(sentences))
    return Text("\n\n".join(paragraphs))


def _slope(row: pd.Series) -> str:
    text = f"A nat of H_cov goes with {row['slope']:.0f} more images"
    if pd.isna(row["low"]):
        return f"{text}, without an interval, as too many draws leave the measured sizes."
    sure = row["low"] > 0 or row["high"] < 0
    text += f" ({row['low']:.0f} to {row['high']:.0f} over draws of seeds)"
    text += "" if sure else ", which may be none"
    order = "not by chance" if row["p"] <= LEVEL else "no more than chance gives"
    return f"{text}; R² {row['r2']:.2f}, {order} (permutation p = {row['p']:.3f})."


def _against(h_cov: pd.Series, rival: pd.Series, table: pd.DataFrame) -> str:
    text = _left_out(table)
    if rival["reason"]:
        return f"{text}. ln M explains nothing: {rival['reason']}.{_better(h_cov, table)}"
    ahead = rival["aicc"] - h_cov["aicc"]
    verdict = "explain k* alike"
    if ahead > NEAR:
        verdict = "differ: H_cov explains k* better"
    elif ahead < -NEAR:
        verdict = "differ: ln M explains k* better"
    text += f". H_cov and ln M {verdict} (AICc {ahead:+.1f} in favour of H_cov"
    if pd.notna(h_cov["beats"]):
        text += f"; larger R² in {h_cov['beats']:.0%} of the draws"
    return f"{text}).{_better(h_cov, table)}"


def _better(h_cov: pd.Series, table: pd.DataFrame) -> str:
    """Name the measures of diversity with which k* rises clearly more surely than with H_cov."""
    others = table.drop(["h_cov", "members", "log_members", "constant"], errors="ignore")
    ahead = h_cov["aicc"] - others.loc[others["slope"] > 0, "aicc"]
    names = [NAMES[name] for name in ahead[ahead > NEAR].sort_values(ascending=False).index]
    if not names:
        return ""
    most = f"up to {ahead.max():.1f} AICc units" if len(names) > 1 else f"{ahead.max():.1f} units"
    return f" Better than H_cov by {most}: {listed(names, 'and')}."


def _left_out(table: pd.DataFrame) -> str:
    """Name the predictor of least error at what is left out, and that of H_cov.

    That is whole series of families, or single families where there is one series only.
    """
    column = "loo_group" if table["loo_group"].notna().any() else "loo"
    errors = table[column].dropna().sort_values()
    if errors.empty:
        return "What a left-out family needs cannot be predicted: the others do not tell"
    best, left = NAMES[errors.index[0]], "series" if column == "loo_group" else "families"
    text = f"Least wrong at left-out {left} is {best} ({errors.iloc[0]:.0f} images)"
    if best != "H_cov" and "h_cov" in errors:
        text += f", H_cov errs by {errors['h_cov']:.0f}"
    return text


def _within(rows: pd.DataFrame) -> str:
    row = rows[rows["predictor"] == "h_cov"].iloc[-1]  # all groups, where there are several
    if row["reason"]:
        return f"Among families of equal M nothing can be said of H_cov: {row['reason']}."
    told = "rises with H_cov" if row["p"] <= LEVEL else "is not shown to rise with H_cov"
    return (
        f"Among {row['n']:.0f} families of equal M, where ln M says nothing, k* {told} "
        f"(τ = {row['tau']:.2f}, one-sided p = {row['p']:.3f})."
    )


def root_law(fitted: pd.DataFrame) -> Text:
    """Say which measure H makes worst gaps most like a sqrt(H / k) + c."""
    table = fitted.set_index("predictor")
    known = table[table["aicc"].notna()].sort_values("aicc")
    if known.empty:
        return Text(f"Nothing can be fitted: {table['reason'].iloc[0]}.")
    name, best = known.index[0], known.iloc[0]
    text = (
        f"Worst gaps are nearest to a sqrt(H / k) + c with H = {NAMES[name]} "
        f"(R² {best['r2']:.2f}, a = {best['slope']:.2f}, {ends(best['low'], best['high'], '.2f')})."
    )
    for rival in ("h_cov", "log_members", "constant"):
        if rival in known.index and rival != name:
            row = known.loc[rival]
            text += f" {NAMES[rival]}: {row['delta_aicc']:.1f} AICc units behind."
    return Text(text)


def transfer(compared: pd.DataFrame, first: str) -> Text:
    """Say whether sets distilled otherwise serve families better than those of the first method."""
    paragraphs = []
    for method, own in compared.groupby("method", sort=False):
        parts, judged = [], own.dropna(subset="difference")
        for kind, rows in judged.groupby("gap", sort=False):
            change, told = rows["difference"], rows[rows["told"]]["difference"]
            parts.append(
                f"the {kind} gap changes by {change.mean():+.3f} on average ({change.min():+.3f} "
                f"to {change.max():+.3f}); beyond the noise of {rows['n'].min()} seeds it is "
                f"smaller in {(told < 0).sum()} and larger in {(told > 0).sum()} of {len(rows)} "
                "cases"
            )
        if missing := sorted(set(own["family"]) - set(judged["family"])):
            names = listed(missing, "and")
            parts.append(f"nothing is said of {names}, where trials of most seeds failed")
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
    """Say how often the planner's intervals held what the pilot had not seen, and how far off."""
    lines, measured = [], tested.dropna(subset=["error"])
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
        return Text("The pilot saw everything: nothing is left to test it on.")
    kept = measured[measured["refused"] == ""]
    share = f"in {kept['inside'].mean():.0%} of {len(kept)} cases" if len(kept) else "in no case"
    verdict = f"**The planner's 95 % intervals held {share} that it answers.**"
    return Text(
        "\n".join([f"{verdict} Families overlap, so cases are not independent.", "", *lines])
    )
