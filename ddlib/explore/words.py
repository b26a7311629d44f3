"""What the explorers say in numbers: small tables and a recommendation, as HTML."""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddlib.explore.tables import Tables
from ddlib.stats import intervals, laws
from ddlib.stats.intervals import Interval
from ddlib.stats.pilot import REACH
from ddlib.stats.planner import Plan
from ddlib.words.coverage import trust
from ddlib.words.text import between, listed

CELL = "padding:3px 10px;text-align:left;border-bottom:1px solid #ddd"
TABLE = "border-collapse:collapse;font-size:13px;line-height:1.4"
KNOWN = {  # how k* is known
    "measured": "from the gaps that were measured",
    "planned": f"members' draws; past the measured sizes by {laws.LAWS['inverse_sqrt'].formula}",
}


class Need(NamedTuple):
    """One way to know k*: its name, k* with its interval if known, and a remark or a reason."""

    what: str
    k: Interval | None
    remark: str

    @property
    def value(self) -> str:
        """Say k* and its interval, or that it is unknown."""
        if self.k is None:
            return "unknown"
        if self.remark.startswith(("above", "below")):
            return f"{self.remark[:5]} {self.k.estimate:.0f}"
        return _said(self.k, "{:.0f}")

    @property
    def why(self) -> str:
        """Say why there is no k*; empty where there is one."""
        return "" if self.k else f"unknown: {self.remark}"


def at_size(
    fits: dict, k: float, least_gain: float, floor_share: float, failed: Mapping[str, str]
) -> pd.DataFrame:
    """Tabulate what fits, {(method, law): Fit}, say at k: a row a method and law.

    failed: why the curve a/√k + c fails, by method, where it does. Such a fit predicts nothing, and
    so does one of any law that misses the means.

    Columns: method, law, k, gap, low, high (predicted), gain (of the next image), k_sat (past
    which the next image gains less than least_gain), spent (where the part above the floor is down
    to floor_share of it), each of the three with _low and _high, gap_sat (the curve
    at k_sat), silent (why the fit predicts nothing), no_k_sat and no_spent (why there is none).
    """
    rows = []
    for (method, law), found in fits.items():
        silent = "" if found.fitted else found.reason
        if law == "inverse_sqrt" and method in failed:
            silent = f"fails: {failed[method]}"
        elif found.misfit is not None and found.misfit <= intervals.LEVEL:
            silent = "fails: misses the means"
        row = {"method": method, "law": law, "k": k, "silent": silent}
        if not silent:
            row |= zip(("gap", "low", "high"), found.gap(k), strict=True)
            row |= _ended("gain", found.gain, k)
            row |= _ended("k_sat", found.k_sat, least_gain)
            row |= _ended("spent", found.k_floor, floor_share)
            if row.get("k_sat", 0) > 0:
                row["gap_sat"] = found.gap(row["k_sat"]).estimate
        rows.append(row)
    ends = [f"{name}{end}" for name in ("gain", "k_sat", "spent") for end in ("", "_low", "_high")]
    numbers = ["gap", "low", "high", *ends, "gap_sat"]
    names = ["method", "law", "k", *numbers, "silent", "no_k_sat", "no_spent"]
    return pd.DataFrame(rows).reindex(columns=names).astype(dict.fromkeys(numbers, float))


def _ended(name: str, ask: Callable[[float], Interval], value: float) -> dict:
    """Return what `ask` finds for a value, with its ends, or why it finds nothing."""
    try:
        return dict(zip((name, f"{name}_low", f"{name}_high"), ask(value), strict=True))
    except ValueError as reason:
        return {f"no_{name}": str(reason)}


def compare_plans(plans: dict[str, Plan], members: Sequence[str], budget: float) -> pd.DataFrame:
    """Tabulate what every method needs, the method to take first.

    plans: of one epsilon, by method; budget: the most images per class that can be afforded.
    Columns: method, member (that decides), ipc, gap (worst gap at the budget, or at the pilot's
    reach if that is less), each with _low and _high, within (whether ipc is at most the budget),
    alike (whether draws, paired by seed, leave open if it needs more than the first; not where one
    of the two has no plan), reason (why there is no plan). Methods within the budget come first, by
    ipc; then the others, by gap.
    """
    rows = []
    for method, found in plans.items():
        pilot, gap = found.pilot, Interval(np.nan, None, None)
        if not any(map(pilot.refusal, members)):
            k = np.clip(budget * found.class_count, pilot.ks[0], REACH * pilot.ks[-1])
            worst = pilot.predict(members, [k]).max(axis=0)[:, 0]
            gap = intervals.interval(np.array([np.median(worst), *worst]))
        ipc = found.ipc or Interval(np.nan, None, None)
        row = {"method": method, "member": found.member, "reason": found.reason}
        for name, value in {"ipc": ipc, "gap": gap}.items():
            row |= zip((name, f"{name}_low", f"{name}_high"), value, strict=True)
        rows.append(row | {"within": bool(ipc.estimate <= budget)})
    table = pd.DataFrame(rows)
    table["order"] = table["ipc"].where(table["within"], table["gap"])
    table = table.sort_values(["within", "order"], ascending=[False, True], kind="stable")
    first, *others = (plans[name].draws for name in table["method"])
    told = 1 - intervals.LEVEL / 2
    table["alike"] = [False] + [
        bool(first is not None and each is not None and (each > first).mean() < told)
        for each in others
    ]
    return table.drop(columns="order").reset_index(drop=True)


def recommendation(
    table: pd.DataFrame,
    plans: dict[str, Plan],
    members: Sequence[str],
    budget: float,
) -> str:
    """Say which method to take at how many images per class, and what that rests on (HTML).

    table, plans: `compare_plans`, and what it was given.
    """
    best, where = table.iloc[0], listed(members, "and")
    found = plans[best["method"]]
    where = where if len(members) <= 3 else f"all {len(members)} configurations"
    goal, ks = f"a gap of {found.epsilon:g}", found.pilot.ks
    name, where = html.escape(best["method"]), html.escape(where)
    rests = (
        f"This rests on {len(found.pilot.seeds)} seeds at {len(ks)} sizes from k = {ks[0]:g} to "
        f"{ks[-1]:g}. {html.escape(trust(found.pilot))}"
    )
    if not best["within"]:
        text = f"<b>No method holds {goal} within {budget:g} images per class under {where}.</b>"
        if not math.isnan(best["gap"]):
            gap = between(Interval(*best[["gap", "gap_low", "gap_high"]]))
            at = min(budget, REACH * ks[-1] // found.class_count)
            text += f" {name} comes nearest: it leaves {gap} at {at:g} images per class."
        return f"{text} {rests}"
    needs = f"<b>{found.ipc.estimate:g} images per class</b>{_said_ends(found.ipc)}"
    guess = "A guess: take" if found.doubt and found.k.estimate > ks[-1] else "Take"
    text = f"{guess} <b>{name}</b> with {needs} for {goal} under {where}; "
    text += f"{html.escape(found.member)} decides. {rests}"
    if found.k.estimate > ks[-1]:
        text += f" k lies {found.k.estimate / ks[-1]:.1f} times past the largest measured."
    text += f" But {found.doubt}." if found.doubt else ""
    if alike := list(table.loc[table["alike"], "method"]):
        others = html.escape(listed(alike, "and"))
        text += f" Draws paired by seed do not tell its need from that of {others}."
    return text


def _said_ends(interval: Interval) -> str:
    high = "no bound" if math.isinf(interval.high) else f"{interval.high:g}"
    return f" (95 % interval {interval.low:g} to {high})"


def ipc_table(
    numbers: pd.DataFrame, measured: pd.DataFrame, measure: str, level: float, floor_share: float
) -> str:
    """Tabulate predicted against measured, a row a method and law; or measured alone.

    Where a fit predicts nothing, the reason stands in the place of its prediction.

    numbers: `at_size`; measured: mean and std of the risks at this size, index method, NaN where it
    was not measured; measure: of `laws.gap_matrix`; level: the mean risk on all data; floor_share:
    see `at_size`.
    """
    error = measure == "gap_error"
    what, sign = ("accuracy", -1) if error else ("cross-entropy", 1)
    full = 1 - level if error else level
    ends = ("gap", "high", "low") if error else ("gap", "low", "high")
    seen = {}
    for method, mean, sd in measured.itertuples():
        spread = "" if math.isnan(sd) else f" ± {sd:.3f}"
        reached = 1 - mean if error else mean
        seen[method] = "not measured" if math.isnan(mean) else f"{reached:.3f}{spread}"
    rows = []
    for row in numbers.to_dict("records"):
        cells = [row["method"], laws.LAWS[row["law"]].formula]
        if row["silent"]:
            rows.append([*cells, row["silent"], seen[row["method"]], *["none"] * 3])
            continue
        predicted = [full + sign * row[end] for end in ends]
        cells += [_said(predicted, "{:.3f}"), seen[row["method"]]]
        cells.append(_said(_interval(row, "gain"), "{:.2g}"))
        for name in ("k_sat", "spent"):
            cells.append(_said(_interval(row, name), "{:.0f}") or f"none: {row[f'no_{name}']}")
        rows.append(cells)
    if numbers.empty:
        rows = [[method, "no fit is ticked", "", text, "", "", ""] for method, text in seen.items()]
    head = ["method", "fit", f"predicted {what}", f"measured {what}", "the next image gains"]
    head += ["k_sat: gains less from k =", f"{floor_share:.0%} of floor at k ="]
    note = f"On all data: {what} {full:.3f}. In brackets: 95 %; ±: between seeds."
    return _table(head, rows, note)


def coverage_table(needs, worst, epsilon: float, k: int, radius: float, tables: Tables) -> str:
    """Tabulate k* as it is known in several ways, and the family's worst member at k.

    worst: that member and its gap, or "unknown" and why.
    """
    rows = [[f"k*, {need.what}", need.value, need.remark or KNOWN[need.what]] for need in needs]
    named, gap = worst
    how = f"worst gap {gap:.3f}, mean over seeds" if isinstance(gap, float) else gap
    rows.append([f"worst member at k = {k}", named, how])
    low = " r is no more than seeds alone reach: H_cov counts noise." * (radius <= tables.noise)
    note = f"k* holds the worst gap at or below ε = {epsilon:g}. In brackets: 95 %.{low}"
    return _table(["of the family", "value", "how it is known"], rows, note)


def plan_table(table: pd.DataFrame, bad: dict[str, str]) -> str:
    """Tabulate `compare_plans`; bad: why a method has no pilot, by method."""
    rows = []
    for row in table.to_dict("records"):
        reason = row["reason"] or ("" if row["within"] else "beyond the budget")
        need = _said(_interval(row, "ipc"), "{:.0f}") or "unknown"
        gap = _said(_interval(row, "gap"), "{:.3f}") or "unknown"
        rows.append([row["method"], need, gap, row["member"] or "", reason])
    rows += [[method, "unknown", "unknown", "", reason] for method, reason in bad.items()]
    head = ["method", "images per class", "gap at the budget", "decided by", "remark"]
    note = f"In brackets: 95 %. No gap is given past {REACH} times the largest size measured."
    return _table(head, rows, note)


def _table(head: Iterable[str], rows: Iterable[Sequence[str]], note: str) -> str:
    def line(cells: Iterable[str], kind: str, scope: str = "") -> str:
        opening = f'<{kind}{scope} style="{CELL}">'
        written = (f"{opening}{html.escape(str(text))}</{kind}>" for text in cells)
        return f"<tr>{''.join(written)}</tr>"

    top, body = line(head, "th", ' scope="col"'), "".join(line(row, "td") for row in rows)
    caption = f'<caption style="caption-side:bottom;text-align:left">{html.escape(note)}</caption>'
    rows = f"<thead>{top}</thead><tbody>{body}</tbody>"
    return f'<table style="{TABLE}">{rows}{caption}</table>'


def _interval(row: dict, name: str) -> Interval:
    return Interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))


def _said(interval: Sequence[float], pattern: str) -> str:
    """Return an estimate with its interval, `12 (8 to 20)`; empty for NaN, infinity is no bound."""
    estimate, *ends = interval
    if math.isnan(estimate):
        return ""
    text = "no k" if math.isinf(estimate) else pattern.format(estimate)
    if any(end is None or math.isnan(end) for end in ends):
        return f"{text} (no interval)"
    low, high = ("no bound" if math.isinf(end) else pattern.format(end) for end in ends)
    return f"{text} ({low} to {high})"
