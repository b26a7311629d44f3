"""Figures of all findings: exponents, and gains over the controls."""

import altair as alt
import pandas as pd

from ddlib.figures import style
from ddlib.stats.cells import GAINS, OUTCOMES, ordered

LARGEST = 2.0  # a larger exponent is drawn at this edge, as a triangle
OUTCOME_COLOURS = dict(zip(OUTCOMES, (style.COLOURS[0], style.COLOURS[1], "#888888"), strict=True))
OUTCOME_SHAPES = dict(zip(OUTCOMES, ("circle", "cross", "square"), strict=True))
GAIN_COLOURS = dict(zip(GAINS, ("#5FA8DC", "#B9DAF0", "#F1F1F1", "#F0A875"), strict=True))
GAIN_SIGNS = dict(zip(GAINS, ("++", "+", "=", "−"), strict=True))


def exponents(cells: pd.DataFrame) -> alt.FacetChart:
    """Draw the free exponent of each cell with its interval against 1/2, a panel a data set.

    cells: the table of `ddlib.stats.cells.cells`. The headings count missing trials;
    the subtitle names cells without an exponent.
    """
    table, without = cells.dropna(subset="b"), cells[cells["b"].isna()]
    without = [f"{row.method} on {row.data}" for row in without.itertuples()]
    missing = cells.groupby("data", sort=False)["missing"].sum()[table["data"].unique()]
    panels = {name: name + f"\ntrials missing: {n}" * bool(n) for name, n in missing.items()}
    beyond = (table["b"] > LARGEST) | (table["high"] > LARGEST)
    ends = table[["high", "low"]].clip(upper=LARGEST).set_axis(["to", "from"], axis=1)
    table = table.assign(panel=table["data"].map(panels), beyond=beyond, **ends)
    y = alt.Y("method:N", sort=_order(table), title=None)
    axis = alt.Axis(values=[0, 0.5, 1, 1.5, 2], format="~g", labelOverlap=False)
    domain = alt.Scale(domain=[0, LARGEST], nice=False)
    x = alt.X("b:Q", scale=domain, axis=axis, title="exponent b")
    tips = style.tips("data:N", "method:N", "outcome:N", "b", "low", "high", "r2", "missing")
    base = alt.Chart().encode(y, tooltip=tips)
    legend = alt.Legend(title="a/√k + c", orient="top")
    hue = alt.Color("outcome:N", scale=style.scale(OUTCOME_COLOURS), legend=legend)
    shape = alt.Shape("outcome:N", scale=style.scale(OUTCOME_SHAPES), legend=legend)
    beyond = base.transform_filter("datum.beyond").encode(alt.XDatum(LARGEST), hue)
    inside = base.transform_filter(f"datum.b <= {LARGEST}")
    layers = [
        alt.Chart().mark_rule(color=style.INK, strokeDash=[4, 3]).encode(alt.XDatum(0.5)),
        base.mark_rule(strokeWidth=2).encode(alt.X("from:Q", scale=domain), alt.X2("to"), hue),
        beyond.mark_point(shape="triangle-right", filled=True, size=60, opacity=1),
        inside.mark_point(filled=True, size=75, opacity=1).encode(x, hue, shape),
    ]
    columns = min(len(panels), 4) or 1
    width = min(style.WIDTH // columns - 45, 300)
    chart = alt.layer(*layers, data=table, width=width, height=alt.Step(17))
    chart = style.panels(chart, "panel", panels.values(), columns)
    return style.figure(
        chart.resolve_axis(x="independent"),
        "Does the gap fall like 1/√k? The exponent of every cell, with its 95 % interval",
        "Dashes: 1/2. A cell is one method on one data set; controls, which select real samples,",
        "come last. A cell may fail with an interval that holds 1/2: its curve has another shape.",
        *[f"Triangles: the exponent or its interval goes beyond {LARGEST:g}."]
        * bool(table["beyond"].any()),
        *[f"Without an exponent: {', '.join(without)}."] * bool(without),
    )


def gains(table: pd.DataFrame) -> alt.FacetChart:
    """Draw where methods beat random samples and the other controls: a panel a data set.

    table: that of `ddlib.stats.cells.gains`.
    """
    table = table.dropna(subset="outcome")
    table = table.assign(sign=table["outcome"].map(GAIN_SIGNS))
    names = list(table["data"].unique())
    x = alt.X("ipc:O", title="samples per class", axis=alt.Axis(labelAngle=0))
    y = alt.Y("method:N", sort=_order(table), title=None)
    tips = style.tips("data:N", "method:N", "k", "outcome:N", "difference", "low", "high")
    base = alt.Chart().encode(x, y, tooltip=tips)
    legend = alt.Legend(title=None, orient="top", labelLimit=200, symbolType="square")
    hue = alt.Color("outcome:N", scale=style.scale(GAIN_COLOURS), legend=legend)
    cells = base.mark_rect(stroke="white").encode(hue)
    signs = base.mark_text(fontSize=11).encode(alt.Text("sign:N"))
    columns = min(len(names), 3) or 1
    width = style.WIDTH // columns - 75
    chart = alt.layer(cells, signs, data=table, width=width, height=alt.Step(16))
    chart = style.panels(chart, "data", names, columns)
    return style.figure(
        chart.resolve_scale(x="independent", y="independent"),
        "Where does distillation beat random real samples, and coresets?",
        "++ better than each control; + better than random; − worse than random; = no significant",
        "difference; white: not run or not testable. Paired t tests, Holm's correction per size.",
    )


def _order(table: pd.DataFrame) -> list[str]:
    return ordered(dict(zip(table["method"], table["kind"], strict=True)))
