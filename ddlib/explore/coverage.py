"""The explorer of families of configurations: cover, H_cov(r), worst gap and k*."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ddlib.explore.controls import Explorer, Ticks, View, menu, slider
from ddlib.explore.planner import EPSILONS, read_pilot
from ddlib.explore.tables import Tables
from ddlib.figures.coverage import cover_map, h_cov_steps
from ddlib.figures.style import COLOURS, FAINT, INK, colour, k_axis, tips
from ddlib.stats import covers, distances, families, planner
from ddlib.stats.intervals import Interval

OWN = "your own choice"


class CoverageExplorer(Explorer):
    """Choose a family and a radius; see its smallest cover, its worst gap and its k*.

    draws: bootstrap draws of k*. Raises ValueError if no study has distances.
    """

    def __init__(self, studies: Sequence[Tables], draws: int = 200):
        self.draws, studies = draws, [s for s in studies if s.distances is not None]
        if not studies:
            raise ValueError(
                "no study here has distances between configurations; give the results folder of "
                "notebook 03"
            )
        super().__init__(
            studies,
            method=menu("Method"),
            preset=menu("Preset"),
            radius=slider("Radius r", [0.0], 0.0),
            epsilon=slider("Gap ε", EPSILONS, 0.05),
            members=Ticks("Family"),
        )

    def offer(self, tables: Tables) -> None:
        self.controls["method"].options = tables.methods
        self.controls["preset"].options = [*tables.families, OWN]
        self.controls["members"].offer(tables.distances.index, tables.distances.index)
        farthest, radius = float(tables.distances.to_numpy().max()), self.controls["radius"]
        radius.options = [float(f"{r:.3g}") for r in np.linspace(0, 1.05 * farthest, 101)]
        usual = covers.radii(tables.distances, tables.noise)[covers.QUANTILE]
        radius.value = min(radius.options, key=lambda r: abs(r - usual))

    def follow(self, control) -> None:
        super().follow(control)
        preset, members = self.controls["preset"], self.controls["members"]
        family = self.controls["study"].value.families.get(preset.value, members.value)
        if control is preset:
            members.offer(self.controls["study"].value.distances.index, family)
        elif set(family) != set(members.value):
            preset.value = OWN

    def view(self, tables, method, preset, radius, epsilon, members) -> View:
        if not members:
            raise ValueError("the family is empty; tick at least one configuration")
        family = tables.distances.loc[list(members), list(members)]
        centres = list(covers.cover(family, radius))
        points, share = distances.embed(tables.distances)
        points = points.assign(centre=family[centres].idxmin(axis=1))
        needs = pd.DataFrame([
            _need("k*, measured", _measured, tables, method, members, epsilon, self.draws),
            _need("k*, planned", _planned, tables, method, members, epsilon, self.draws),
        ])  # fmt: skip
        right = alt.vconcat(
            _steps(tables, members, radius),
            _crossing(_worst(tables, method, members), needs, epsilon, tables.sizes),
            resolve=alt.Resolve(scale={"color": "independent"}),
        )
        note = f"k* holds the worst gap at or below ε = {epsilon:g}. In brackets: 95 % intervals."
        if radius <= tables.noise:
            note += " Seeds alone reach a distance of r or more, so H_cov counts noise."
        return View(
            alt.hconcat(cover_map(points, radius).properties(width=380, height=380), right),
            f"{len(centres)} balls of radius {radius:g} cover {len(members)} configurations: "
            f"H_cov = {math.log(len(centres)):.2f}",
            f"The plane shows {share:.0%} of the distances' variance, so a ball may look too wide "
            "or too narrow. A line joins each member to its centre.",
            needs[["way", "k*", "remark"]],
            note,
        )


def _need(way: str, find: Callable[..., tuple[Interval, str]], *choice: Any) -> dict[str, Any]:
    """Return a row of the table of k*: its value and interval, or why it is unknown."""
    try:
        k, remark = find(*choice)
    except ValueError as reason:
        k, remark = Interval(np.nan, None, None), str(reason)
    text = "unknown" if math.isnan(k.estimate) else format(k, ".0f")
    return {"way": way, "k*": text, "remark": remark, "k": k.estimate, "low": k.low, "high": k.high}


def _measured(tables, method, members, epsilon: float, draws: int) -> tuple[Interval, str]:
    """Return k* from the measured gaps, and a remark."""
    gaps = tables.gaps[tables.gaps["method"] == method]
    k_stars = families.k_star(gaps, {"": members}, epsilon, draws=draws, relabellings=0)
    row = k_stars.table.iloc[0]
    if row["reason"]:
        raise ValueError(row["reason"])
    remarks = [row["censored"]]
    if not math.isnan(row["raw"]):
        remarks.append(f"{row['raw']:.0f} by the raw worst gaps")
    for kind in ("seeds", "sizes"):
        if count := row[f"missing_{kind}"]:
            remarks.append(f"{kind} left out for missing trials: {count:.0f}")
    return Interval(*row[["k_star", "low", "high"]]), "; ".join(filter(None, remarks))


def _planned(tables, method, members, epsilon: float, draws: int) -> tuple[Interval, str]:
    """Return k* from the planner, and the member that decides it."""
    pilot = read_pilot(tables, method, draws)
    plan = planner.plan(pilot, members, epsilon, tables.class_count)
    if plan.reason:
        raise ValueError(plan.reason)
    return plan.k, f"{plan.member} decides"


@cache
def _h_cov(tables: Tables, members: tuple[str, ...]) -> pd.DataFrame:
    return covers.h_cov_curve(tables.distances, members).assign(family="the family")


@cache
def _worst(tables: Tables, method: str, members: tuple[str, ...]) -> pd.DataFrame:
    """Tabulate the worst member of a family and its gap at each k: k, member, gap."""
    rows = []
    for k, gaps in tables.gaps[tables.gaps["method"] == method].groupby("k"):
        with suppress(ValueError):  # too few seeds have trials of every member
            rows.append((k, *families.worst_member(gaps, members)))
    return pd.DataFrame(rows, columns=["k", "member", "gap"])


def _steps(tables: Tables, members: tuple[str, ...], radius: float) -> alt.LayerChart:
    edge = 1.1 * max(tables.noise, float(tables.distances.to_numpy().max()))
    steps = h_cov_steps(_h_cov(tables, members), tables.noise, [radius], edge, COLOURS[1])
    title = alt.Title("H_cov(r)", subtitle="Grey: what seeds alone reach.", fontSize=12)
    return steps.properties(width=310, height=150, title=title)


def _crossing(worst, needs, epsilon: float, sizes: list[int]) -> alt.LayerChart:
    ends = needs[["k", "low", "high"]].astype(float).clip(sizes[0] / 2, 3 * sizes[-1])
    needs = needs[["way"]].assign(gap=epsilon, **ends)
    x = k_axis(pd.Series([sizes[0] / 2, 3 * sizes[-1]]), pd.Series(sizes))
    y = alt.Y("gap:Q", title="worst gap", scale=alt.Scale(domainMin=0))
    ways = colour("way", needs["way"], orient="top-right")
    line = alt.Chart(worst).encode(x, y, tooltip=tips("member:N", "k", "gap"))
    needs = alt.Chart(needs).encode(y, ways, tooltip=tips("way:N", "k", "low", "high"))
    goal = alt.Chart(pd.DataFrame({"gap": [epsilon]})).mark_rule(color=INK, strokeDash=[4, 3])
    layers = [
        line.mark_line(color=FAINT, point={"color": FAINT}),
        line.mark_text(align="left", dx=5, dy=-7).encode(text="member:N"),
        goal.encode(y),
        needs.mark_rule(strokeWidth=3, opacity=0.5).encode(alt.X("low:Q"), alt.X2("high:Q")),
        needs.mark_point(filled=True, size=80, opacity=1).encode(x),
    ]
    title = alt.Title("Worst member", subtitle="Dashes: ε, which it meets at k*.", fontSize=12)
    return alt.layer(*layers, width=310, height=150, title=title)
