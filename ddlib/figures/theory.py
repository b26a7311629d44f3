"""Figures of the theory course: each function returns a chart of tidy tables."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures import style

MERGED = alt.Legend(title=None)  # with that of colours
LEAST = 1e-12  # log axes end here; smaller values are drawn at this value
VALUES = {  # of Figure 1: the measured value, and its bound
    "distance": ("distance of the weights, δ", "bound of statement 1"),
    "gap": ("gap in risk, G", "bound of statement 2"),
}
CONTRACTS = ("ρ < 1: steps contract", "ρ ≥ 1")
POWERS = alt.Axis(format="~e", tickCount=6, labelOverlap=True)


def bounds_against_values(table: pd.DataFrame) -> alt.ConcatChart:
    """Draw each bound against the value that it bounds, one dot per random problem, on log axes.

    table: columns distance, distance_bound, gap, gap_bound, rho. Log axes cannot show negative
    gaps, so each panel says how many problems it shows.
    """
    panels, log = [], {"scale": alt.Scale(type="log", nice=False), "axis": POWERS}
    for value, (label, bound) in VALUES.items():
        rows = table[(table[value] > 0) & np.isfinite(table[f"{value}_bound"])]
        dots = pd.DataFrame({"value": rows[value], "bound": rows[f"{value}_bound"]}).clip(1e-6, 1e8)
        dots["contracts"] = np.where(rows["rho"] < 1, *CONTRACTS)
        title = alt.Title(f"{len(rows)} of {len(table)} problems", fontWeight="normal", fontSize=12)
        base = alt.Chart(dots, title=title, width=300, height=280)
        base = base.encode(alt.X("value:Q", title=f"{label} (log scale)", **log))
        points = base.mark_circle(size=14, opacity=0.5).encode(
            alt.Y("bound:Q", title=f"{bound} (log scale)", **log),
            style.colour("contracts", CONTRACTS),
        )
        line = base.mark_line(color=style.INK, strokeDash=[4, 3]).encode(alt.Y("value:Q", **log))
        panels.append(points + line)
    return style.figure(
        alt.concat(*panels, columns=2, spacing=24),
        "The chain of bounds on random problems",
        "Dashed: bound equals value. A dot below this line would break the bound. "
        "Values above 1e+8 are drawn there.",
    )


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
    widths: Mapping[str, int] = MappingProxyType({}),
    height: int = 230,
    shared: bool = True,
) -> alt.TopLevelMixin:
    """Draw y against x, one colour per value of the column line, one panel per value of `panel`.

    labels: axis titles of x and y; log: the logarithmic axes ("", "x", "y", "xy"); dashed: lines to
    dash, such as bounds; marked: lines with marked points; widths: of lines on which others may lie
    (pixels; else 2); height: of a panel (pixels); shared: whether panels share their y axis. On a
    log axis, values below LEAST are drawn at LEAST.
    """
    table = table.assign(**{y: table[y].clip(LEAST)}) if "y" in log else table
    names = list(table["line"].unique())
    base = alt.Chart(table).encode(
        _axis(alt.X, x, labels[x], "x" in log, table),
        _axis(alt.Y, y, labels[y], "y" in log, table),
        style.colour("line", names, symbolType="stroke"),
        tooltip=style.tips("line:N", x, y),
    )
    sizes = [widths.get(name, 2) for name in names]
    scale = alt.Scale(domain=names, range=sizes, type="ordinal")
    width = alt.StrokeWidth("line:N", scale=scale, sort=names, legend=MERGED)
    chart = base.mark_line().encode(_dash(names, dashed), width)
    if marked:
        points = base.transform_filter(alt.FieldOneOfPredicate("line", list(marked)))
        chart += points.mark_point(filled=True, size=35, opacity=1)
    panels = list(table[panel].unique()) if panel else []
    columns = min(3, len(panels)) or 1
    chart = chart.properties(width=style.WIDTH // columns - 80, height=height)
    if panel:
        chart = style.panels(chart, panel, panels, columns)
        chart = chart.resolve_scale(x="independent", y="shared" if shared else "independent")
    return style.figure(chart, title, subtitle)


def regimes(tables: Mapping[str, tuple[pd.DataFrame, str, str]], subtitle: str) -> alt.ConcatChart:
    """Draw k* against the size of the family, one panel per regime; bounds are dashed.

    tables: {panel title: (table with columns x, k_star, line; x title; y title)}. The names of
    bounds hold "bound".
    """
    panels = []
    for title, (table, x, y) in tables.items():
        names = list(table["line"].unique())
        legend = {"orient": "bottom", "columns": 1, "symbolType": "stroke"}
        base = alt.Chart(table, title=title, width=style.WIDTH // 3 - 60, height=230).encode(
            alt.X("x:Q", title=x),
            alt.Y("k_star:Q", title=y),
            style.colour("line", names, **legend),
            tooltip=style.tips("line:N", "x", "k_star"),
        )
        lines = base.mark_line().encode(_dash(names))
        measured = base.transform_filter("!test(/bound/, datum.line)")
        panels.append(lines + measured.mark_point(filled=True, size=35, opacity=1))
    chart = alt.concat(*panels, columns=3, spacing=24)
    chart = chart.resolve_scale(color="independent", strokeDash="independent")
    return style.figure(chart, "What k* follows: three regimes side by side", subtitle)


def knobs(steps: pd.DataFrame, sizes: pd.DataFrame, k: int) -> alt.ConcatChart:
    """Draw distances over steps, and worst gaps over sizes; k is marked and bounds are dashed.

    steps, sizes: of `ddlib.explore.theory.knob_tables`.
    """
    ticks = alt.Axis(values=[1, 10, 100, 1000])
    size = alt.X("k:Q", title="samples k (log scale)", axis=ticks).scale(type="log", nice=False)
    step = alt.X("step:Q", title="step t")
    distance, gap = "distance of the weights", "worst gap of the family (log scale)"
    names = [*steps["line"].unique(), *sizes["line"].unique()]
    left, right = (
        alt.Chart(table, width=320, height=220)
        .mark_line()
        .encode(
            x,
            alt.Y("value:Q", title=y, axis=alt.Axis(tickCount=5)).scale(type=scale),
            style.colour("line", names),
            _dash(names),
        )
        for table, x, y, scale in ((steps, step, distance, "linear"), (sizes, size, gap, "log"))
    )
    rule = alt.Chart(pd.DataFrame({"k": [k]})).mark_rule(color=style.FAINT, strokeDash=[2, 3])
    chart = alt.concat(left, right + rule.encode(x="k:Q"), spacing=24)
    return style.figure(
        chart, "Turn the knobs", f"Dashed: bounds. The vertical line is at k = {k}."
    )


def _dash(names: Sequence[str], dashed: Sequence[str] = ()) -> alt.StrokeDash:
    """Return the dashes of lines: of those named, and of bounds."""
    dashes = {n: [5, 3] if n in dashed or "bound" in n else [1, 0] for n in names}
    return alt.StrokeDash("line:N", scale=style.scale(dashes), sort=list(names), legend=MERGED)


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
