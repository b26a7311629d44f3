"""Which method, and how many images per class, for a gap and a budget?"""

import math
from collections.abc import Sequence
from functools import cache

import altair as alt
import numpy as np
import pandas as pd

from ddlib.explore.controls import Explorer, View, menu, slider
from ddlib.explore.ipc import IPCS
from ddlib.explore.tables import Tables
from ddlib.figures.style import INK, method_colours, tips
from ddlib.stats import planner
from ddlib.stats.intervals import Interval, interval
from ddlib.stats.planner import CLAIMED, REACH, Pilot, Plan
from ddlib.words import coverage as words
from ddlib.words.text import between

EPSILONS = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)
MOST_IPC = 2000  # images per class that the axis shows


class Planner(Explorer):
    """Set a gap and a budget: the method to take, and how many images per class it needs."""

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
        plans, refused = {}, []
        for method in tables.methods:
            try:
                pilot = read_pilot(tables, method, self.draws)
            except ValueError as reason:
                refused.append({"method": method, "remark": str(reason)})
            else:
                plans[method] = planner.plan(pilot, family, epsilon, tables.class_count)
        if not plans:
            raise ValueError(f"no method can be planned with ({refused[0]['remark']})")
        gaps = {method: _gap(plan, family, budget) for method, plan in plans.items()}
        order = sorted(plans, key=lambda method: _order(plans[method], gaps[method], budget))
        plans, first = {method: plans[method] for method in order}, order[0]
        rows = [
            {"method": method, **_row(plan, gaps[method], budget, plans[first])}
            for method, plan in plans.items()
        ]
        return View(
            _chart(plans, budget),
            _verdict(first, plans[first], gaps[first], budget),
            "Dots: images per class that are needed, with 95 % intervals. Dashes: the budget.",
            pd.DataFrame(rows + refused),
            f"{first}: {words.plan(plans[first])}",
        )


@cache
def read_pilot(tables: Tables, method: str, draws: int) -> Pilot:
    """Return all that a study measured of a method as the pilot of a plan."""
    return planner.read_pilot(tables.gaps[tables.gaps["method"] == method], draws=draws)


def _within(plan: Plan, budget: float) -> bool:
    return plan.ipc is not None and plan.ipc.estimate <= budget


def _gap(plan: Plan, members: Sequence[str], budget: float) -> Interval:
    """Return the worst gap at the budget, or at the pilot's reach if that is less."""
    pilot = plan.pilot
    if any(map(pilot.refusal, members)):
        return Interval(np.nan, None, None)
    k = np.clip(budget * plan.class_count, pilot.ks[0], REACH * pilot.ks[-1])
    worst = pilot.predict(members, [k]).max(axis=0)[:, 0]
    return interval(np.array([np.median(worst), *worst]))


def _order(plan: Plan, gap: Interval, budget: float) -> tuple[bool, float]:
    """Order methods within the budget by their need, then the others by their gap there."""
    within = _within(plan, budget)
    return not within, plan.ipc.estimate if within else np.nan_to_num(gap.estimate, nan=np.inf)


def _verdict(method: str, plan: Plan, gap: Interval, budget: float) -> str:
    goal = f"a gap of {plan.epsilon:g}"
    if _within(plan, budget):
        guess = "A guess: take" if plan.doubt and plan.k.estimate > plan.pilot.ks[-1] else "Take"
        return f"{guess} {method} with {between(plan.ipc, '.0f')} images per class for {goal}"
    none = f"No method holds {goal} within {budget:g} images per class"
    near = f"; {method} comes nearest with {between(gap, '.3f')}"
    return none if math.isnan(gap.estimate) else none + near


def _row(plan: Plan, gap: Interval, budget: float, first: Plan) -> dict[str, str]:
    """Return what the table says of a plan; first: that of the method to take."""
    remarks = [plan.reason or "beyond the budget" * (not _within(plan, budget))]
    if plan.ipc and first.ipc and plan is not first:
        more = (plan.draws > first.draws).mean()  # paired: both reweight the same seeds
        remarks += ["need not separable from the first"] if more < (1 + CLAIMED) / 2 else []
    return {
        "images per class": between(plan.ipc, ".0f") if plan.ipc else "unknown",
        f"gap at {budget:g}": "unknown" if math.isnan(gap.estimate) else between(gap, ".3f"),
        "decided by": plan.member or "",
        "remark": "; ".join(filter(None, remarks)),
    }


def _chart(plans: dict[str, Plan], budget: float) -> alt.LayerChart:
    """Draw the needs of methods, in their order, and the budget."""
    known = [(method, *plan.ipc, plan.member) for method, plan in plans.items() if plan.ipc]
    table = pd.DataFrame(known, columns=["method", "ipc", "low", "high", "member"])
    colours = method_colours(pd.Series(list(plans)))
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    shared = {
        "scale": alt.Scale(type="log", domain=[0.5, MOST_IPC], nice=False, clamp=True),
        "axis": alt.Axis(format="~g", values=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]),
        "title": "images per class (log scale)",
    }
    base = alt.Chart(table.assign(high=table["high"].astype(float).clip(upper=MOST_IPC))).encode(
        alt.Y("method:N", scale=alt.Scale(domain=list(plans)), title=None),
        alt.Color("method:N", scale=scale, legend=None),
        tooltip=tips(["method:N", "member:N", "ipc", "low", "high"]),
    )
    bars = base.mark_rule(strokeWidth=3, opacity=0.45)
    dots = base.mark_point(filled=True, size=90, opacity=1)
    rule = alt.Chart(pd.DataFrame({"ipc": [budget]})).mark_rule(color=INK, strokeDash=[4, 3])
    layers = [
        bars.encode(alt.X("low:Q", **shared), alt.X2("high:Q")),
        dots.encode(alt.X("ipc:Q", **shared)),
        rule.encode(alt.X("ipc:Q", **shared)),
    ]
    return alt.layer(*layers, width=560, height=24 * len(plans))
