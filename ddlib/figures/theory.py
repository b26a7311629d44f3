"""Figures of the theory course: each function returns a chart of tidy tables."""

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures.style import (
    FAINT,
    INK,
    MANY_COLOURS,
    WIDTH,
    colour_scale,
    figure,
    header,
    tips,
)

LEAST = 1e-12  # log axes end here; smaller values are drawn at this value
POWERS = alt.Axis(format="~e", tickCount=6, labelOverlap=True)


def bounds_against_values(table: pd.DataFrame) -> alt.FacetChart:
    """Draw each bound against the value that it bounds, one dot per random problem, on log axes.

    table: columns distance, distance_bound, gap, gap_bound, rho. Log axes cannot show negative
    gaps, so each panel says how many problems it shows.
    """
    panels = []
    for value, label in {"distance": "distance of the weights", "gap": "gap in risk"}.items():
        rows = table[(table[value] > 0) & np.isfinite(table[f"{value}_bound"])]
        parts = {"value": rows[value], "bound": rows[f"{value}_bound"], "rho": rows["rho"]}
        panels.append(pd.DataFrame(parts).clip(1e-6, 1e8))
        panels[-1]["panel"] = f"{label}: {len(rows)} of {len(table)} problems"
    dots = pd.concat(panels)
    dots["contracts"] = np.where(dots["rho"] < 1, "ρ < 1", "ρ ≥ 1")
    log = alt.Scale(type="log", nice=False)
    base = alt.Chart(dots).encode(alt.X("value:Q", scale=log, axis=POWERS, title="value"))
    bound = alt.Y("bound:Q", scale=log, axis=POWERS, title="its bound (log scales)")
    points = base.mark_circle(size=14, opacity=0.5).encode(
        bound, _colour("contracts", ["ρ < 1", "ρ ≥ 1"])
    )
    line = base.mark_line(color=INK, strokeDash=[4, 3]).encode(alt.Y("value:Q", scale=log))
    panel = alt.Facet("panel:N", header=header(), sort=list(dots["panel"].unique()))
    chart = (points + line).properties(width=300, height=280).facet(panel, columns=2)
    subtitle = "Dashed: bound equals value. A dot below this line would break the bound."
    chart = chart.resolve_scale(x="independent", y="independent")
    return figure(chart, "The chain of bounds on random problems", subtitle)


def curves(
    table: pd.DataFrame,
    x: str,
    y: str,
    title: str,
    *,
    labels: Mapping[str, str],
    panel: str | None = None,
    subtitle: str = "",
    log: str = "y",
    dashed: Sequence[str] = (),
    marked: Sequence[str] = (),
    colour: str = "line",
    share_x: bool = True,
) -> alt.TopLevelMixin:
    """Draw lines of y against x, one colour per value of `colour`, one panel per value of `panel`.

    labels: axis titles of x and y; log: the logarithmic axes ("", "x", "y", "xy"); dashed: lines to
    dash, such as bounds; marked: lines with marked points; share_x: one range of x for all panels.
    On a log axis, values below LEAST are drawn at LEAST.
    """
    table = table.assign(**{y: table[y].clip(LEAST)}) if "y" in log else table
    names = list(dict.fromkeys(table[colour]))
    base = alt.Chart(table).encode(
        _axis(alt.X, x, labels[x], "x" in log, table),
        _axis(alt.Y, y, labels[y], "y" in log, table),
        _colour(colour, names),
        tooltip=tips([f"{colour}:N", x, y]),
    )
    chart = base.mark_line().encode(_dash(colour, names, dashed))
    if marked:
        points = base.transform_filter(alt.FieldOneOfPredicate(colour, list(marked)))
        chart += points.mark_point(filled=True, size=35, opacity=1)
    if panel is None:
        return figure(chart.properties(width=WIDTH - 80, height=230), title, subtitle)
    panels = list(dict.fromkeys(table[panel]))
    count = min(3, len(panels))
    facet = alt.Facet(f"{panel}:N", header=header(), sort=panels)
    chart = chart.properties(width=WIDTH // count - 80, height=230).facet(facet, columns=count)
    if not share_x:
        chart = chart.resolve_scale(x="independent")
    return figure(chart, title, subtitle)


def regimes(tables: Mapping[str, tuple[pd.DataFrame, str, str]]) -> alt.ConcatChart:
    """Draw k* against the size of the family, one panel per regime.

    tables: {panel title: (table with columns x, k_star, line; x title; y title)}.
    """
    panels = []
    for title, (table, x, y) in tables.items():
        base = alt.Chart(table, title=title, width=WIDTH // 3 - 60, height=230).encode(
            alt.X("x:Q", title=x),
            alt.Y("k_star:Q", title=y),
            _colour("line", list(dict.fromkeys(table["line"])), orient="bottom", columns=1),
            tooltip=tips(["line:N", "x", "k_star"]),
        )
        panels.append(base.mark_line() + base.mark_point(filled=True, size=35, opacity=1))
    chart = alt.concat(*panels, columns=3, spacing=24).resolve_scale(color="independent")
    return figure(chart, "What k* follows: three regimes side by side")


def knobs(steps: pd.DataFrame, sizes: pd.DataFrame, k: int) -> alt.ConcatChart:
    """Draw distances over steps, and worst gaps over sizes; k is marked.

    steps, sizes: of `ddlib.explore.theory.knob_tables`.
    """
    names = ["bound", "distance", "mean worst gap"]

    def panel(table: pd.DataFrame, x: alt.X, scale: str, title: str) -> alt.Chart:
        value = alt.Y(
            "value:Q", title=None, scale=alt.Scale(type=scale), axis=alt.Axis(tickCount=5)
        )
        lines = alt.Chart(table, title=title, width=320, height=220).mark_line()
        return lines.encode(x, value, _colour("line", names), _dash("line", names, names[:1]))

    step = alt.X("step:Q", title="step t")
    size = alt.X(
        "k:Q",
        title="samples k (log scale)",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=[1, 10, 100, 1000]),
    )
    rule = alt.Chart(pd.DataFrame({"k": [k]})).mark_rule(color=FAINT, strokeDash=[2, 3])
    left = panel(steps, step, "linear", "Distance of the weights after t steps")
    right = panel(sizes, size, "log", "Worst gap of the family") + rule.encode(x="k:Q")
    chart = alt.concat(left, right, spacing=24)
    return figure(chart, "Turn the knobs", "Dashed: the bounds of statements 1 and 12.")


def _colour(field: str, names: Sequence[str], **looks: object) -> alt.Color:
    legend = alt.Legend(title=None, labelLimit=300, **looks)
    scale = colour_scale(names, MANY_COLOURS)
    return alt.Color(f"{field}:N", scale=scale, sort=list(names), legend=legend)


def _dash(field: str, names: Sequence[str], dashed: Sequence[str]) -> alt.StrokeDash:
    dashes = alt.Scale(domain=names, range=[[5, 3] if n in dashed else [1, 0] for n in names])
    return alt.StrokeDash(f"{field}:N", scale=dashes, sort=names, title=None, legend=None)


def _axis(channel: type, field: str, title: str, log: bool, table: pd.DataFrame):
    """Return a channel; a log axis of k has labels at the sizes, if they are few."""
    if not log:
        return channel(f"{field}:Q", title=title)
    axis = POWERS
    if field == "k":
        sizes = sorted(table["k"].unique())
        few = {"values": sizes} if len(sizes) < 12 else {"tickCount": 8}
        axis = alt.Axis(**few, format="d", labelOverlap=True)
    scale = alt.Scale(type="log", nice=False)
    return channel(f"{field}:Q", title=f"{title} (log scale)", scale=scale, axis=axis)
