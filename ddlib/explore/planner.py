"""The planner: which method, and how many samples per class, for a gap and a budget?"""

import math
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from ddlib.explore.controls import menu, slider
from ddlib.explore.explorer import EmptyError, Explorer, View
from ddlib.explore.ipc import IPCS
from ddlib.explore.tables import Tables, fitted
from ddlib.figures.style import INK, log_axis, method_colours, scale, tips
from ddlib.stats import pilot as pilots
from ddlib.stats import planner, verdicts
from ddlib.stats.cells import OUTCOMES
from ddlib.stats.intervals import LEVEL, Interval, interval
from ddlib.stats.laws import Fit
from ddlib.stats.pilot import REACH, Pilot
from ddlib.stats.planner import Plan
from ddlib.stats.verdicts import Verdict
from ddlib.words import coverage as words
from ddlib.words.scaling import BALANCED

EPSILONS = (
    0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5
)  # fmt: skip
BUDGET = 50  # samples per class, at the start
MOST_IPC = 2000  # samples per class that the axis shows
WIDTH = 560  # pixels of a panel
ALIGNED = alt.Axis(minExtent=90)  # pixels of the labels, so that both panels start at one place
OUTCOME_DASHES = dict(zip(OUTCOMES, ([1, 0], [2, 3], [7, 3]), strict=True))


class Planner(Explorer):
    """Set a gap and a budget; see which method to take, and how many samples per class it needs.

    Raises ValueError if no study has gaps.
    """

    def __init__(self, studies: Sequence[Tables], draws: int = 1000):
        studies = [study for study in studies if len(study.gaps)]
        if not studies:
            raise ValueError(
                "no study here has gaps, as all networks on all data failed; see their pages"
            )
        super().__init__(
            studies,
            draws,
            family=menu("Used as"),
            epsilon=slider("Target gap", EPSILONS, 0.05),
            budget=slider("Budget, IPC", IPCS, BUDGET),
        )

    def offer(self, tables: Tables) -> None:
        alone = {f"{name} alone": (name,) for name in tables.configurations}
        self.controls["family"].options = tables.families | alone
        self.controls["epsilon"].value = _within_reach(tables)

    def view(self, tables, family, epsilon, budget) -> View:
        offers, refused, size = [], [], np.clip(budget, tables.ipcs[0], tables.ipcs[-1])
        for method in tables.methods:
            try:
                pilot = read_pilot(tables, method, self.draws)
                offers.append(_offer(tables, method, pilot, family, epsilon, budget, size))
            except ValueError as reason:
                refused.append({"method": method, "remark": str(reason)})
        if not offers:
            raise EmptyError(f"no method can be planned with ({refused[0]['remark']})")
        offers.sort(key=lambda offer: offer.order)
        first, rows = offers[0], [_row(offer, offers[0], size) for offer in offers]
        pilot, why = first.plan.pilot, first.judged.why
        warning = words.rejected(first.method, first.member, why, first.plan)
        warning *= first.judged.outcome == "fails"
        chart = alt.vconcat(
            _needs(offers, budget), _curves(tables, offers, epsilon, budget, warning)
        )
        return View(
            chart.resolve_scale(color="independent", strokeDash="independent"),
            _verdict(offers, budget, size),
            words.held(pilot),
            pd.DataFrame(rows + refused),
            f"{first.method}: {words.answer(first.plan)}{words.support(pilot)} {warning}"
            f"{f' {BALANCED}' if tables.trials['measure'].iloc[0] == 'balanced' else ''}",
        )


@cache
def _within_reach(tables: Tables) -> float:
    """Return the least target gap that half of the methods hold at the largest size up to BUDGET.

    For the first family of the study. Where all sizes are above BUDGET, the smallest one counts.
    """
    family, most = next(iter(tables.families.values())), max(BUDGET, tables.ipcs[0])
    gaps = tables.gaps.dropna(subset="gap_error")
    gaps = gaps[gaps["configuration"].isin(family) & (gaps["ipc"] <= most)]
    means = gaps[gaps["ipc"] == gaps["ipc"].max()].groupby(["method", "configuration"])["gap_error"]
    typical = means.mean().groupby("method").max().median()
    return next((epsilon for epsilon in EPSILONS if epsilon >= typical), EPSILONS[-1])


@cache
def read_pilot(tables: Tables, method: str, draws: int) -> Pilot:
    """Return all trials of a method in a study as the pilot of a plan."""
    return pilots.read_pilot(tables.gaps_of(method), draws=draws)


class Offer(NamedTuple):
    """What a method needs, and its worst gap at the budget (or the nearest size measured)."""

    method: str
    plan: Plan
    gap: Interval
    within: bool  # whether its need is within the budget
    member: str  # the one whose gap is largest at its need, or at the budget
    law: Fit  # a/√k + c, fitted to this member
    judged: Verdict

    @property
    def order(self) -> tuple[bool, float]:
        """Sorts methods: those within the budget first, by need, then the others, by gap."""
        return not self.within, (self.plan.ipc if self.within else self.gap).estimate


def _offer(tables: Tables, method: str, pilot: Pilot, family, epsilon, budget, size) -> Offer:
    """Plan with one method; ValueError if its pilot cannot predict for a member."""
    if reason := next(filter(None, map(pilot.refusal, family)), ""):
        raise ValueError(reason)
    plan = planner.plan(pilot, family, epsilon, tables.class_count)
    k = size * tables.class_count
    gaps, worst = pilot.predict(family, [k])[..., 0], pilot.worst(family, [k])[:, 0]
    member = plan.member or family[np.median(gaps, axis=1).argmax()]
    gap = interval(np.array([np.median(worst), *worst]))
    within = bool(plan.ipc) and plan.ipc.estimate <= budget
    fits = fitted(tables, member, method, pilot.draws, "gap_error", math.inf)
    return Offer(method, plan, gap, within, member, fits["inverse_sqrt"], verdicts.verdict(fits))


def _verdict(offers: list[Offer], budget: int, size: float) -> str:
    """Name the first method and its need."""
    first = offers[0]
    plan, goal = first.plan, f"a gap of {first.plan.epsilon:g}"
    if first.within:
        guess = plan.doubt or (plan.rests_on_law and first.judged.outcome == "fails")
        text = f"{'A guess: take' if guess else 'Take'} {first.method} with {plan.ipc:.0f} samples"
        beyond = "; the interval exceeds the budget" * (plan.ipc.high > budget)
        return f"{text} per class for {goal}{beyond}"
    nearest = f"{first.method} comes nearest with {first.gap:.3f} at {size:g}"
    reach = min((offer.plan.reach for offer in offers if not offer.plan.ipc), default=budget)
    if budget > reach:
        limit = f"this study speaks of at most {reach} samples per class"
        return f"No method is known to hold {goal}, as {limit}; {nearest}"
    samples = f"{budget} sample{'s' * (budget > 1)} per class"
    return f"No method holds {goal} within {samples}; {nearest}"


def _row(offer: Offer, first: Offer, size: float) -> dict[str, str]:
    """Return the row of a method; first: the method to take; size: where its gap is told."""
    plan, remarks = offer.plan, [offer.plan.reason or "beyond the budget" * (not offer.within)]
    if plan.ipc and first.plan.ipc and offer is not first:
        more = (plan.draws > first.plan.draws).mean()  # paired: both draws weight the same seeds
        remarks += ["need not separable from the first"] if more < 1 - LEVEL / 2 else []
    return {
        "method": offer.method,
        "samples per class": format(plan.ipc, ".0f") if plan.ipc else "unknown",
        f"gap at {size:g}": format(offer.gap, ".3f"),
        "decided by": plan.member or "",
        "a/√k + c": offer.judged.outcome,
        "remark": "; ".join(filter(None, remarks)),
    }


def _needs(offers: list[Offer], budget: int) -> alt.LayerChart:
    """Draw the samples per class that each method needs, with the budget."""
    methods = [offer.method for offer in offers]
    plans = [(o.method, o.plan) for o in offers if o.plan.ipc]
    rows = [(name, *plan.ipc, plan.member, format(plan.ipc, ".0f")) for name, plan in plans]
    table = pd.DataFrame(rows, columns=["method", "ipc", "low", "high", "member", "need"])
    ends = ["ipc", "low", "high"]  # as drawn; `need` is the text of the tooltip
    table[ends] = table[ends].astype(float).clip(upper=MOST_IPC)
    base = alt.Chart(table).encode(
        alt.Y("method:N", scale=alt.Scale(domain=methods), axis=ALIGNED, title=None),
        alt.Color("method:N", scale=scale(method_colours(pd.Series(methods))), legend=None),
        tooltip=tips("method:N", "member:N", "need:N"),
    )
    bars = base.mark_rule(strokeWidth=3, opacity=0.45).encode(alt.X("low:Q"), alt.X2("high:Q"))
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(_ipc_axis().title(None))
    title = alt.Title(
        "Samples per class that are needed",
        subtitle="Lines: 95 % intervals. Dashes: the budget.",
        fontSize=12,
    )
    size = {"width": WIDTH, "height": 24 * len(methods), "title": title}
    return alt.layer(bars, dots, _budget(budget).encode(alt.X("ipc:Q", title=None)), **size)


def _curves(tables: Tables, offers: list[Offer], epsilon, budget, warning: str) -> alt.LayerChart:
    """Draw the measured gaps of each method's worst member, and a/√k + c fitted to them."""
    gaps = tables.gaps[tables.gaps["status"] == "ok"]
    gaps = gaps.groupby(["method", "configuration", "ipc"])["gap_error"].mean()
    dots, lines = [], [pd.DataFrame(columns=["ipc", "gap", "method", "law"])]
    ks = np.geomspace(tables.sizes[0], REACH * tables.sizes[-1], 40)
    for offer in offers:
        name = {"method": offer.method, "member": offer.member, "law": offer.judged.outcome}
        measured = gaps[offer.method, offer.member].rename("gap").reset_index()
        dots.append(measured.assign(**name))
        if offer.law.fitted:
            curve = offer.law.predict(ks)
            lines.append(curve.assign(ipc=curve["k"] / tables.class_count, **name))
    dots, lines = pd.concat(dots), pd.concat(lines)
    top = 1.05 * max(gaps.max(), epsilon)
    domain = alt.Scale(domain=[min(0, gaps.min()), top], nice=False)
    y = alt.Y("gap:Q", scale=domain, axis=ALIGNED, title=None)
    legend = alt.Legend(title="a/√k + c", orient="top", symbolSize=600)
    dash = alt.StrokeDash("law:N", scale=scale(OUTCOME_DASHES), legend=legend)
    colours = scale(method_colours(pd.Series([offer.method for offer in offers])))
    named = None if all(o.plan.ipc for o in offers) else alt.Legend(orient="bottom", columns=4)
    colour = alt.Color("method:N", scale=colours, title=None, legend=named)
    tip = tips("method:N", "member:N", "law:N", "ipc", "gap")
    goal = alt.Chart(pd.DataFrame({"gap": [epsilon]})).mark_rule(color=INK, strokeDash=[4, 3])
    layers = [
        alt.Chart(lines).mark_line(clip=True).encode(_ipc_axis(), y, colour, dash, tooltip=tip),
        alt.Chart(dots)
        .mark_point(filled=True, size=40, opacity=1)
        .encode(_ipc_axis(), y, colour, tooltip=tip),
        goal.encode(y),
        _budget(budget),
    ]
    title = "Gap to all data of the member that decides"
    texts = ["Dots: measured. Lines: a/√k + c fitted to them.", *textwrap.wrap(warning, 95)]
    title = alt.Title(title, subtitle=texts, fontSize=12)
    return alt.layer(*layers, width=WIDTH, height=200, title=title)


def _ipc_axis() -> alt.X:
    return log_axis(alt.X, "ipc", 0.5, MOST_IPC, "samples per class (log scale)")


def _budget(budget: int) -> alt.Chart:
    rule = alt.Chart(pd.DataFrame({"ipc": [budget]})).mark_rule(color=INK, strokeDash=[4, 3])
    return rule.encode(_ipc_axis())
