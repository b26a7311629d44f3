"""Figures that compare methods: accuracy against k and against seconds, and differences."""

from collections.abc import Collection

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures import style
from ddlib.stats.compare import BASELINE, CONTROLS

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
ALL_DATA = "all data"
CLICK = "Click on methods in the legend to highlight them (Shift for several)."
DODGE = 1.03  # factor in k between neighbours, so that intervals do not hide each other


def accuracy_against_k(
    accuracies: pd.DataFrame, full: pd.DataFrame, controls: Collection[str] = CONTROLS
) -> alt.LayerChart | alt.FacetChart:
    """Draw the mean accuracy of every method at each k, and that of all data, with intervals.

    accuracies: columns method, k, seeds, n, accuracy, low, high; full: one row of accuracy, low,
    high. Where both have a column labels, there is one panel a label regime, and full has a row
    for each. The lines of controls are dashed. The subtitle names points without an accuracy.
    """
    table, y = _with_errors(pd.concat([accuracies, full.assign(method=ALL_DATA)]))
    methods = list(accuracies["method"].unique())
    offset = table["method"].map({name: i for i, name in enumerate(methods)})
    table = table.assign(beside=table["k"] * DODGE ** (offset - (len(methods) - 1) / 2))
    dashes = {name: [5, 4] if name in controls else [1, 0] for name in methods}
    colour, shape = method_marks(accuracies["method"])
    x = style.k_axis(accuracies["k"], accuracies["k"], "beside", 1.25)
    tips = style.tips("method:N", "k", "n", "accuracy", "low", "high")
    whole = alt.Chart().transform_filter(alt.datum.method == ALL_DATA).encode(y)
    name = whole.mark_text(align="right", baseline="bottom", dx=-4, dy=-3, text=ALL_DATA)
    chosen, opacity = _chosen()
    base = alt.Chart().transform_filter(alt.datum.method != ALL_DATA)
    base = base.encode(x, y, colour, opacity=opacity)
    ends = alt.Y("error_low:Q"), alt.Y2("error_high")
    known = "isValid(datum.low)"
    dash = alt.StrokeDash("method:N", scale=style.scale(dashes), legend=None)
    layers = [
        whole.transform_filter(known).mark_rect(color="#DDDDDD").encode(*ends),
        whole.mark_rule(color=style.FAINT, strokeWidth=1.5),
        name.encode(x=alt.value("width")),
        base.transform_filter(known).mark_rule(strokeWidth=1.5, clip=True).encode(*ends),
        base.mark_line(strokeWidth=1.8).encode(dash),
        base.mark_point(filled=True, size=70).encode(shape, tooltip=tips).add_params(chosen),
    ]
    regimes = list(accuracies["labels"].unique()) if "labels" in accuracies else []
    width = style.WIDTH // len(regimes) - 20 if regimes else style.WIDTH
    chart = alt.layer(*layers, data=table, width=width, height=320 if regimes else 420)
    chart = chart.add_params(style.zoom())
    title = "Which method gives most per sample? Accuracy against distilled samples"
    if regimes:
        chart = style.panels(chart, "labels", regimes, len(regimes), "labels: ")
        title = "What the labels give: the same sets under each label regime"
    return style.figure(
        chart,
        title,
        "Mean over seeds and its 95 % interval, side by side around their k. Controls are dashed.",
        CLICK,
        f"Accuracy is spaced by the logarithm of the error. {_missing(accuracies)}",
    )


def accuracy_against_seconds(costs: pd.DataFrame) -> alt.FacetChart:
    """Draw accuracy against all seconds that a set costs, with the front, one panel a label regime.

    costs: the table `cost_table` of `ddlib.stats.scores`, of all regimes, with a column labels.
    Lines join the sizes of a method; marks grow with k.
    """
    table, y = _with_errors(costs.dropna(subset="seconds"))
    ends = table["seconds"].min() / 1.3, table["seconds"].max() * 1.3
    x = style.log_axis(alt.X, "seconds", *ends, "seconds of one core in all (log scale)")
    colour, shape = method_marks(costs["method"])
    area = alt.Scale(type="log", range=[25, 160])
    size = alt.Size("k:Q", scale=area, legend=alt.Legend(values=sorted(table["k"].unique())))
    spent = [name for name in costs if name.endswith("seconds")]
    tips = style.tips("method:N", "k", "accuracy", *spent)
    chosen, opacity = _chosen()
    base = alt.Chart().encode(x, y)
    front = base.transform_filter("datum.front")
    dots = base.mark_point(filled=True, stroke="white", strokeWidth=0.6).add_params(chosen)
    layers = [
        front.mark_line(interpolate="step-after", color=style.FAINT, strokeDash=[2, 3]),
        base.mark_line(strokeWidth=1).encode(colour, opacity=opacity, order="k:Q"),
        dots.encode(colour, shape, size, opacity=opacity, tooltip=tips),
    ]
    names = list(costs["labels"].unique())
    chart = alt.layer(*layers, data=table, width=style.WIDTH // len(names) - 20, height=360)
    searched = ", ".join(costs.dropna(subset="search_seconds")["method"].unique())
    return style.figure(
        style.panels(chart, "labels", names, len(names), "labels: "),
        "Which method gives most per second? Accuracy against all seconds that a set costs",
        f"Search for settings ({searched or 'not counted'}), preparation, teacher, distillation, "
        "and one training on the set.",
        "Dotted: the front (no cheaper set is more accurate). Lines join the sizes of a method. "
        f"{CLICK}",
        f"Accuracy is spaced by the logarithm of the error. {_missing(costs, 'seconds')}",
    )


def differences(table: pd.DataFrame) -> alt.FacetChart | alt.Chart:
    """Draw the difference of each method to BASELINE, one panel per size k.

    `table` has columns method, k, n, difference, low, high, p, p_holm, survives, reason.
    """
    if table.empty:
        text = f"no {BASELINE} in this study: nothing to compare with"
        note = alt.Chart(pd.DataFrame([{}])).mark_text(color=style.FAINT, text=text)
        return style.figure(note.properties(width=style.WIDTH, height=60), "Nothing to compare")
    ends, colours = ["difference", "low", "high"], style.method_colours(table["method"])
    ink = table["method"].map(colours)
    fill = ink.where(table["survives"].astype(bool), "white")
    shape = np.where(table["reason"] == "", "circle", "cross")
    table = table.assign(**table[ends] * 100, ink=ink, fill=fill, shape=shape, zero=0)
    x = {"axis": alt.Axis(format="+.3~r", tickCount=5), "title": "points of accuracy"}
    y = alt.Y("method:N", sort=list(colours), title=None, axis=alt.Axis(domain=False, ticks=False))
    stroke, fill = alt.Stroke("ink:N", scale=None), alt.Fill("fill:N", scale=None)
    shape = alt.Shape("shape:N", scale=None)
    tips = style.tips("method:N", "reason:N", "k", "n", *ends, "p", "p_holm")
    base = alt.Chart().encode(y)
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    dots = base.transform_filter("isValid(datum.difference)").mark_point(size=75, opacity=1)
    layers = [
        alt.Chart().mark_rule(color="#888888").encode(alt.X("zero:Q", **x)),
        bars.encode(alt.X("low:Q", **x), alt.X2("high"), stroke),
        dots.encode(alt.X("difference:Q", **x), stroke, fill, shape, tooltip=tips),
    ]
    chart = alt.layer(*layers, data=table, width=style.WIDTH // 3 - 40, height=alt.Step(22))
    chart = style.panels(chart, "k", sorted(table["k"].unique().tolist()), 3, "k = ")
    return style.figure(
        chart.resolve_scale(x="independent"),
        f"What each method adds to {BASELINE}: difference in accuracy within seeds",
        "Mean and 95 % interval. Filled: significant after Holm's correction. Hollow: not. Cross: "
        "not testable. Scales differ.",
    )


def method_marks(methods: pd.Series) -> tuple[alt.Color, alt.Shape]:
    """Return the colour and the shape of each method; no two methods share both."""
    colours = style.method_colours(methods)
    repeats = pd.Series(colours).groupby(list(colours.values())).cumcount()
    palette = style.MANY_COLOURS + style.OTHER_COLOURS
    shapes = {
        name: SHAPES[(palette.index(colour) + repeats[name]) % len(SHAPES)]
        for name, colour in colours.items()
    }
    legend = alt.Legend(orient="top", title=None, columns=8, symbolSize=90, symbolOpacity=1)
    legend.symbolStrokeWidth = 0  # otherwise the dashes of the lines appear in the symbols
    colour = alt.Color("method:N", scale=style.scale(colours), legend=legend)
    return colour, alt.Shape("method:N", scale=style.scale(shapes), legend=legend)


def _chosen() -> tuple[alt.Parameter, dict]:
    """Return the methods that clicks in the legend choose, and an opacity that fades others."""
    chosen = alt.selection_point(fields=["method"], bind="legend")
    return chosen, alt.condition(chosen, alt.value(1), alt.value(0.12))


def _with_errors(table: pd.DataFrame) -> tuple[pd.DataFrame, alt.Y]:
    """Return the rows that have an accuracy, with their errors, and a log axis of the error.

    An error of 0 is drawn at the end of the axis, half of the smallest other mean.
    """
    table = table.dropna(subset="accuracy")
    names = {"accuracy": "error", "low": "error_low", "high": "error_high"}
    errors = (1 - table.filter(list(names)).astype(float)).rename(columns=names)
    least = errors["error"][errors["error"] > 0].min()
    least = max(errors.min(axis=None), (0.01 if np.isnan(least) else least) / 2) / 1.25
    domain = [least, min(1.1 * errors.max(axis=None), 1.0)]
    log = alt.Scale(type="log", domain=domain, reverse=True, nice=False)
    accuracy = "format(1 - datum.value, '~%')"
    axis = alt.Axis(values=style.log_ticks(*domain), labelExpr=accuracy, labelOverlap=True)
    y = alt.Y("error:Q", scale=log, axis=axis, title="test accuracy")
    return table.assign(**errors.clip(lower=least)), y


def _missing(table: pd.DataFrame, what: str = "accuracy") -> str:
    """Name the points that cannot be drawn, and those with fewer seeds."""
    groups = {f"No {name}": table[name].isna() for name in ("accuracy", what)}
    if "seeds" in table:
        groups["Fewer seeds"] = table["n"].between(1, table["seeds"] - 1)
    regimes = " (" + table["labels"] + " labels)" if "labels" in table else ""
    places = table["method"] + regimes + " at k = " + table["k"].astype(str)
    return " ".join(f"{name}: {', '.join(places[at])}." for name, at in groups.items() if at.any())
