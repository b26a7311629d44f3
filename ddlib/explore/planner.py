"""The planner: which method, and how many samples per class, for a gap and a budget?"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from ddlib.explore.controls import Explorer, View, menu, slider
from ddlib.explore.ipc import IPCS
from ddlib.explore.tables import Tables
from ddlib.figures.style import INK, log_axis, method_colours, scale, tips
from ddlib.stats import pilot as pilots
from ddlib.stats import planner
from ddlib.stats.intervals import LEVEL, Interval, interval
from ddlib.stats.pilot import REACH, Pilot
from ddlib.stats.planner import Plan
from ddlib.words import coverage as words

EPSILONS = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)
MOST_IPC = 2000  # samples per class that the axis shows


class Planner(Explorer):
    """Set a gap and a budget; see which method to take, and how many samples per class it needs."""

    def __init__(self, studies: Sequence[Tables], draws: int = 200):
        self.draws = draws
        super().__init__(
            studies,
            family=menu("Used as"),
            epsilon=slider("Target gap", EPSILONS, 0.05),
            budget=slider("Budget, IPC", IPCS, 50),
        )

    def offer(self, tables: Tables) -> None:
        alone = {f"{name} alone": (name,) for name in tables.configurations}
        self.controls["family"].options = tables.families | alone

    def view(self, tables, family, epsilon, budget) -> View:
        offers, refused = [], []
        for method in tables.methods:
            try:
                pilot = read_pilot(tables, method, self.draws)
                offers.append(_offer(method, pilot, family, epsilon, budget, tables.class_count))
            except ValueError as reason:
                refused.append({"method": method, "remark": str(reason)})
        if not offers:
            raise ValueError(f"no method can be planned with ({refused[0]['remark']})")
        offers.sort(key=lambda offer: offer.order)
        first, rows = offers[0], [_row(offer, offers[0], budget) for offer in offers]
        return View(
            _chart(offers, budget),
            _verdict(first, budget),
            "Dots: samples per class that are needed, with 95 % intervals. Dashes: the budget.",
            pd.DataFrame(rows + refused),
            f"{first.method}: {words.plan(first.plan)}",
        )


@cache
def read_pilot(tables: Tables, method: str, draws: int) -> Pilot:
    """Return all trials of a method in a study as the pilot of a plan."""
    return pilots.read_pilot(tables.gaps[tables.gaps["method"] == method], draws=draws)


class Offer(NamedTuple):
    """What a method needs, and its worst gap at the budget (or at the pilot's largest k)."""

    method: str
    plan: Plan
    gap: Interval
    within: bool  # whether its need is within the budget

    @property
    def order(self) -> tuple[bool, float]:
        """Sorts methods: those within the budget first, by need, then the others, by gap."""
        return not self.within, (self.plan.ipc if self.within else self.gap).estimate


def _offer(method: str, pilot: Pilot, family, epsilon: float, budget: int, classes: int) -> Offer:
    """Plan with one method; ValueError if its pilot cannot predict for a member."""
    if reason := next(filter(None, map(pilot.refusal, family)), ""):
        raise ValueError(reason)
    plan = planner.plan(pilot, family, epsilon, classes)
    k = np.clip(budget * classes, pilot.ks[0], REACH * pilot.ks[-1])
    worst = pilot.predict(family, [k]).max(axis=0)[:, 0]
    gap = interval(np.array([np.median(worst), *worst]))
    return Offer(method, plan, gap, bool(plan.ipc) and plan.ipc.estimate <= budget)


def _verdict(first: Offer, budget: int) -> str:
    plan, goal = first.plan, f"a gap of {first.plan.epsilon:g}"
    if first.within:
        guess = "A guess: take" if plan.doubt and plan.k.estimate > plan.pilot.ks[-1] else "Take"
        return f"{guess} {first.method} with {plan.ipc:.0f} samples per class for {goal}"
    nearest = f"{first.method} comes nearest with {first.gap:.3f}"
    return f"No method holds {goal} within {budget} samples per class; {nearest}"


def _row(offer: Offer, first: Offer, budget: int) -> dict[str, str]:
    """Return the row of a method; first: the method to take."""
    plan, remarks = offer.plan, [offer.plan.reason or "beyond the budget" * (not offer.within)]
    if plan.ipc and first.plan.ipc and offer is not first:
        more = (plan.draws > first.plan.draws).mean()  # paired: both draws weight the same seeds
        remarks += ["need not separable from the first"] if more < 1 - LEVEL / 2 else []
    return {
        "method": offer.method,
        "samples per class": format(plan.ipc, ".0f") if plan.ipc else "unknown",
        f"gap at {budget}": format(offer.gap, ".3f"),
        "decided by": plan.member or "",
        "remark": "; ".join(filter(None, remarks)),
    }


def _chart(offers: list[Offer], budget: int) -> alt.LayerChart:
    methods = [offer.method for offer in offers]
    rows = [(o.method, *o.plan.ipc, o.plan.member) for o in offers if o.plan.ipc]
    table = pd.DataFrame(rows, columns=["method", "ipc", "low", "high", "member"])
    ends = ["ipc", "low", "high"]
    table[ends] = table[ends].astype(float).clip(upper=MOST_IPC)
    x = log_axis(alt.X, "ipc", 0.5, MOST_IPC, "samples per class (log scale)")
    colours = scale(method_colours(pd.Series(methods)))
    base = alt.Chart(table).encode(
        alt.Y("method:N", scale=alt.Scale(domain=methods), title=None),
        alt.Color("method:N", scale=colours, legend=None),
        tooltip=tips("method:N", "member:N", "ipc", "low", "high"),
    )
    bars = base.mark_rule(strokeWidth=3, opacity=0.45).encode(alt.X("low:Q"), alt.X2("high:Q"))
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x)
    rule = alt.Chart(pd.DataFrame({"ipc": [budget]})).mark_rule(color=INK, strokeDash=[4, 3])
    return alt.layer(bars, dots, rule.encode(x), width=560, height=24 * len(methods))
