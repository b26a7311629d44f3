"""The figures of the theory course: each function reads tidy pandas tables, returns a chart."""

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures.style import (
    CONFIG,
    FAINT,
    INK,
    MANY_COLOURS,
    WIDTH,
    colour_scale,
    log_ticks,
    tips,
)

LEAST = 1e-12  # log axes end here; what is smaller counts as nothing


def bounds_against_values(table: pd.DataFrame) -> alt.ConcatChart:
    """Draw each bound against what it bounds, one dot a random problem, on log axes.

    `table` has columns distance, distance_bound, gap, gap_bound, rho. Gaps may be negative; those
    have no place on a log axis and are counted in the title.
    """
    table = table.assign(contracts=np.where(table["rho"] < 1, "ρ < 1", "ρ ≥ 1"))
    panels = []
    named = {"distance": "distance of the weights", "gap": "gap in risk"}
    for value, label in named.items():
        shown = table[(table[value] > 0) & np.isfinite(table[f"{value}_bound"])]
        ends = shown[[value, f"{value}_bound"]].clip(1e-6, 1e8)
        scale = alt.Scale(type="log", domain=[float(ends.min().min()), float(ends.max().max())])
        x = _axis(alt.X, value, label, scale)
        y = _axis(alt.Y, f"{value}_bound", "its bound", scale)
        dots = alt.Chart(shown).mark_circle(size=14, opacity=0.5, clip=True)
        dots = dots.encode(x, y, _colour("contracts", ["ρ < 1", "ρ ≥ 1"]))
        line = pd.DataFrame({"at": scale.domain})
        line = alt.Chart(line).mark_line(color=INK, strokeDash=[4, 3]).encode(x="at:Q", y="at:Q")
        heading = alt.Title(label, subtitle=f"{len(shown)} of {len(table)} problems")
        panels.append((dots + line).properties(width=300, height=280, title=heading))
    subtitle = "Dashed: a bound that equals what it bounds; a dot below would break it."
    return _row(panels, "The chain of bounds on random problems", subtitle, 2)


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
) -> alt.ConcatChart:
    """Draw lines of y against x by the column `colour`, one panel a value of `panel`.

    labels: axis titles of x and y; log: the axes that are logarithmic ("", "x", "y", "xy");
    dashed: the lines to dash, as bounds are; marked: the lines whose points are marked; share_x:
    one range of x for all panels. Values at or below LEAST are drawn at LEAST on a log axis.
    """
    table = table.copy()
    if "y" in log:
        table[y] = table[y].clip(LEAST)
    names = list(dict.fromkeys(table[colour]))
    y_scale = _scale(table[y], "y" in log)
    groups = list(table.groupby(panel, sort=False)) if panel else [(None, table)]
    count = min(3, len(groups))
    panels = []
    for name, rows in groups:
        x_scale = _scale((table if share_x else rows)[x], "x" in log)
        base = alt.Chart(rows).encode(
            _axis(alt.X, x, labels[x], x_scale),
            _axis(alt.Y, y, labels[y], y_scale),
            _colour(colour, names),
            tooltip=tips([f"{colour}:N", x, y]),
        )
        layers = [base.mark_line(clip=True).encode(_dash(colour, names, dashed))]
        if marked:
            points = base.transform_filter(alt.FieldOneOfPredicate(colour, list(marked)))
            layers.append(points.mark_point(filled=True, size=35, opacity=1, clip=True))
        size = {"width": WIDTH // count - 80, "height": 230}
        heading = {"title": alt.Title(str(name))} if panel else {}
        panels.append(alt.layer(*layers).properties(**size, **heading))
    return _row(panels, title, subtitle, count)


def table_of_ratios(table: pd.DataFrame, title: str, subtitle: str) -> alt.LayerChart:
    """Draw a table of ratios (index: rows, columns) with its numbers, blue below 1, red above."""
    long = table.rename_axis("made by").reset_index().melt("made by", var_name="measured by")
    long["shade"] = np.log2(long["value"].clip(1 / 64, 64))
    rows, columns = list(table.index), list(table.columns)
    base = alt.Chart(long).encode(
        alt.X("measured by:N", sort=columns, axis=alt.Axis(labelAngle=0, orient="top")),
        alt.Y("made by:N", sort=rows),
        tooltip=tips(["made by:N", "measured by:N", "value"]),
    )
    scale = alt.Scale(scheme="redblue", reverse=True, domain=[-6, 6], domainMid=0)
    boxes = base.mark_rect().encode(alt.Color("shade:Q", scale=scale, legend=None))
    ink = alt.condition("abs(datum.shade) > 4", alt.value("white"), alt.value(INK))
    text = base.mark_text(fontSize=12).encode(alt.Text("value:Q", format=".2~g"), color=ink)
    size = {"width": 110 * len(columns), "height": 34 * len(rows)}
    heading = alt.Title(title, subtitle=subtitle)
    return (boxes + text).properties(**size, title=heading).configure(**CONFIG)


def regimes(tables: Mapping[str, tuple[pd.DataFrame, str, str]]) -> alt.ConcatChart:
    """Draw k* against the size of the family, one panel a regime.

    tables: {panel title: (table with columns x, k_star, line, and the titles of both axes)}.
    """
    panels = []
    for title, (table, x, y) in tables.items():
        names = list(dict.fromkeys(table["line"]))
        base = alt.Chart(table).encode(
            alt.X("x:Q", title=x),
            alt.Y("k_star:Q", title=y),
            _colour("line", names, orient="bottom", columns=1),
            tooltip=tips(["line:N", "x", "k_star"]),
        )
        layer = base.mark_line() + base.mark_point(filled=True, size=35, opacity=1)
        panels.append(layer.properties(width=WIDTH // 3 - 60, height=230, title=alt.Title(title)))
    chart = _row(panels, "What k* follows: three regimes side by side", "", 3)
    return chart.resolve_scale(color="independent")


def knobs(steps: pd.DataFrame, sizes: pd.DataFrame, k: int) -> alt.ConcatChart:
    """Draw what the sliders change: distances over steps, and worst gaps over sizes.

    steps, sizes: as `ddlib.explore.theory.knob_tables` returns them; k is marked.
    """
    names = ["bound", "distance", "mean worst gap"]
    panels = []
    for table, x, title in (
        (steps, "step", "Distance of the weights after t steps"),
        (sizes, "k", "Worst gap of the family"),
    ):
        log = x == "k"
        kind, title_x = ("log", "samples k (log scale)") if log else ("linear", "step t")
        scale = alt.Scale(type=kind, nice=False)
        axis = alt.Axis(values=[1, 10, 100, 1000] if log else list(range(0, 61, 10)))
        base = alt.Chart(table).encode(
            alt.X(f"{x}:Q", scale=scale, title=title_x, axis=axis),
            alt.Y("value:Q", title=None, scale=alt.Scale(type=kind), axis=alt.Axis(tickCount=5)),
            _colour("line", names),
            _dash("line", names, names[:1]),
        )
        layers = [base.mark_line()]
        if log:
            here = alt.Chart(pd.DataFrame({"k": [k]}))
            layers.append(here.mark_rule(color=FAINT, strokeDash=[2, 3]).encode(x="k:Q"))
        panels.append(alt.layer(*layers).properties(width=320, height=220, title=alt.Title(title)))
    return _row(panels, "Turn the knobs", "Dashed: the bounds of statements 1 and 12.", 2)


def _row(panels: list, title: str, subtitle: str, columns: int) -> alt.ConcatChart:
    heading = alt.Title(title, subtitle=subtitle) if subtitle else alt.Title(title)
    return alt.concat(*panels, columns=columns, title=heading, spacing=24).configure(**CONFIG)


def _colour(field: str, names: Sequence[str], **looks: object) -> alt.Color:
    legend = alt.Legend(title=None, labelLimit=300, **looks)
    scale = colour_scale(names, MANY_COLOURS)
    return alt.Color(f"{field}:N", scale=scale, sort=list(names), legend=legend)


def _dash(field: str, names: Sequence[str], dashed: Sequence[str]) -> alt.StrokeDash:
    dashes = alt.Scale(domain=names, range=[[5, 3] if n in dashed else [1, 0] for n in names])
    return alt.StrokeDash(f"{field}:N", scale=dashes, sort=names, title=None)


def _scale(values: pd.Series, log: bool) -> alt.Scale:
    if not log:
        return alt.Scale(nice=True)
    known = values[(values > 0) & np.isfinite(values)]
    return alt.Scale(type="log", domain=[known.min() / 1.2, known.max() * 1.2], nice=False)


def _axis(channel, field: str, title: str, scale: alt.Scale):
    if scale.type != "log":
        return channel(f"{field}:Q", title=title, scale=scale)
    low, high = scale.domain
    ticks = log_ticks(low, high)
    if high / low > 1e3:
        steps = np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1)
        every = int(np.ceil(len(steps) / 7))
        ticks = [float(f"1e{int(step)}") for step in steps[::every]]
    if field == "k":  # counts
        ticks = [tick for tick in ticks if tick == round(tick)]
    shown = "~g" if low >= 1e-3 and high <= 1e5 else "~e"
    axis = alt.Axis(values=ticks, format=shown, labelOverlap=True)
    return channel(f"{field}:Q", scale=scale, axis=axis, title=f"{title} (log scale)")
