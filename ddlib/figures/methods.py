"""The figures that compare methods: accuracy against k and against seconds, and differences."""

from collections.abc import Sequence
from itertools import compress

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures.style import (
    CONFIG,
    FAINT,
    WIDTH,
    k_axis,
    log_ticks,
    method_colours,
    tips,
    zoom,
)
from ddlib.stats.compare import CONTROLS

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
DODGE = 1.03  # factor in k between neighbours, so that intervals do not hide each other


def accuracy_against_k(accuracies: pd.DataFrame, full: pd.DataFrame) -> alt.LayerChart:
    """Draw every method's mean accuracy with its interval at each k, and that of full data.

    `accuracies` has columns method, k, seeds, n, accuracy, low, high; `full` one row of accuracy,
    low, high. Controls are dashed. What has no accuracy is counted under the title.
    """
    marks = _Marks(accuracies["method"])
    table = accuracies.dropna(subset="accuracy")
    y, bottom = _accuracy_axis(pd.concat([table, full]))
    offset = table["method"].map(list(marks.colours).index) - (len(marks.colours) - 1) / 2
    table = _errors(table.assign(shown=table["k"] * DODGE**offset), bottom)
    x = k_axis(accuracies["k"], accuracies["k"], "shown", 1.25)
    base = alt.Chart(table).encode(x, y, marks.colour)
    dots = base.mark_point(filled=True, size=70, opacity=1)
    fields = ["method:N", "k", "n", "accuracy", "low", "high"]
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5, clip=True)
    layers = [
        *_full_data(_errors(full, bottom), y),
        bars.transform_calculate(error="datum.error_low").encode(alt.Y2("error_high:Q")),
        base.mark_line(strokeWidth=1.8).encode(marks.dash),
        dots.encode(marks.shape, tooltip=tips(fields)),
    ]
    title = alt.Title(
        "Which method gives most per image? Accuracy against the number of distilled images",
        subtitle=[
            "Mean over seeds and its 95 % interval; controls are dashed; methods are drawn side by "
            "side around their k.",
            f"Accuracy is spaced by the logarithm of the error. {_missing(accuracies)}",
        ],
    )
    chart = alt.layer(*layers).add_params(zoom(0)).properties(width=WIDTH, height=420, title=title)
    return chart.configure(**CONFIG)


def differences(table: pd.DataFrame, baseline: str = "random") -> alt.ConcatChart | alt.Chart:
    """Draw each method's difference to `baseline` at each k as a forest plot.

    `table` has columns method, k, n, difference, low, high, p, p_holm, survives, reason. A filled
    mark survives the correction, a hollow one does not, a cross could not be tested.
    """
    title = alt.Title(
        f"What each method adds to {baseline}: difference in accuracy within seeds",
        subtitle="Mean and 95 % interval. Filled: survives Holm's correction. Hollow: does not. "
        "Cross: not testable. Scales differ.",
    )
    if table.empty:
        note = pd.DataFrame({"note": [f"no {baseline} in this study: nothing to compare with"]})
        empty = alt.Chart(note, title=title).mark_text(color=FAINT).encode(text="note:N")
        return empty.properties(width=WIDTH, height=60).configure(**CONFIG)
    marks = _Marks(table["method"])
    panels = [_forest(rows, marks).properties(title=f"k = {k}") for k, rows in table.groupby("k")]
    return alt.concat(*panels, columns=3, title=title).configure(**CONFIG)


def accuracy_against_seconds(spent: pd.DataFrame) -> alt.LayerChart:
    """Draw accuracy against seconds of distillation and one training, with the Pareto front.

    `spent` has columns method, k, accuracy, distil_seconds, train_seconds, seconds, front. A
    method's sizes are joined in order of k; the points on the front carry theirs.
    """
    marks = _Marks(spent["method"])
    known = spent.dropna(subset=["accuracy", "seconds"])
    y, bottom = _accuracy_axis(known)
    known = _errors(known, bottom).assign(label="k = " + known["k"].astype(str))
    domain = [known["seconds"].min() / 1.3, known["seconds"].max() * 1.3]
    ticks = alt.Axis(values=log_ticks(*domain), format="~g", labelOverlap=True)
    scale = alt.Scale(type="log", domain=domain, nice=False)
    title = "seconds of one core for distillation and one training (log scale)"
    x = alt.X("seconds:Q", scale=scale, axis=ticks, title=title)
    front = known[known["front"]].sort_values("seconds")
    step = alt.Chart(front).mark_line(interpolate="step-after", color=FAINT, strokeDash=[2, 3])
    base = alt.Chart(known).encode(x, y, marks.colour)
    dots = base.mark_point(filled=True, opacity=1, stroke="white", strokeWidth=0.6)
    fields = ["method:N", "k", "accuracy", "distil_seconds", "train_seconds", "seconds"]
    labels = alt.Chart(_apart(front)).mark_text(align="right", baseline="bottom", dx=-6, dy=-4)
    heading = alt.Title(
        "Which method gives most per second? Accuracy against the time spent",
        subtitle=[
            "Dotted: the front, which nothing as fast beats; its points carry their k. Thin lines "
            "join the sizes of a method, small marks to large.",
            f"Accuracy is spaced by the logarithm of the error. {_missing(spent, 'seconds')}",
        ],
    )
    size = alt.Size("k:Q", scale=alt.Scale(type="log", range=[25, 160]), legend=None)
    layers = [
        step.encode(x, y),
        base.mark_line(strokeWidth=1, opacity=0.5).encode(order="k:Q"),
        dots.encode(marks.shape, size, tooltip=tips(fields)),
        labels.encode(x, y, text="label:N"),
    ]
    chart = alt.layer(*layers).add_params(zoom(0))
    return chart.properties(width=WIDTH, height=420, title=heading).configure(**CONFIG)


class _Marks:
    """A colour, a shape and dashes for each method, the same in all layers of a figure."""

    def __init__(self, methods: pd.Series):
        self.colours = method_colours(methods)
        names, colours = list(self.colours), list(self.colours.values())
        shapes: list[str] = []
        for place, colour in enumerate(colours):
            turned = [SHAPES[(place + turn) % len(SHAPES)] for turn in range(len(SHAPES))]
            taken = set(compress(shapes, [other == colour for other in colours]))
            shapes.append(next((shape for shape in turned if shape not in taken), turned[0]))
        dashes = [[5, 4] if name.lower() in CONTROLS else [1, 0] for name in names]
        # Without a stroke: the lines' dashes would fray the symbols.
        symbols = {"symbolSize": 90, "symbolOpacity": 1, "symbolStrokeWidth": 0}
        legend = alt.Legend(orient="top", title=None, columns=8, **symbols)

        def scale(values: list) -> alt.Scale:
            return alt.Scale(domain=names, range=values)

        self.colour = alt.Color("method:N", scale=scale(colours), legend=legend)
        self.shape = alt.Shape("method:N", scale=scale(shapes), legend=legend)
        self.dash = alt.StrokeDash("method:N", scale=scale(dashes), legend=None)


def _accuracy_axis(table: pd.DataFrame) -> tuple[alt.Y, float]:
    """Return an axis of accuracy spaced by the logarithm of the error, and its least error."""
    errors = (1 - table.filter(["accuracy", "low", "high"]).astype(float)).stack().dropna()
    means = 1 - table["accuracy"].astype(float)
    least = means[means > 0].min() if (means > 0).any() else 0.01
    # An interval or a mean that reaches no error at all is cut half-way below the least mean.
    bottom = max(errors.min(), least / 2) / 1.25
    top = min(1.1 * errors.max(), 1.0) if len(errors) else 1.0
    scale = alt.Scale(type="log", domain=[bottom, top], reverse=True, nice=False)
    ticks, accuracy = log_ticks(bottom, top), "format(1 - datum.value, '~%')"
    axis = alt.Axis(values=ticks, labelExpr=accuracy, labelOverlap=True)
    return alt.Y("error:Q", scale=scale, axis=axis, title="test accuracy"), bottom


def _errors(table: pd.DataFrame, bottom: float) -> pd.DataFrame:
    ends = {"accuracy": "error", "low": "error_low", "high": "error_high"}
    errors = (1 - table.filter(list(ends)).astype(float)).clip(lower=bottom).rename(columns=ends)
    return table.assign(**errors)


def _apart(front: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the front that are far enough from each other to carry a label."""
    places = np.log(front[["seconds", "error"]].astype(float))
    reach = np.ptp(places, axis=0) * [0.1, 0.04]  # a label is wider than high
    places, kept = places / reach.replace(0, 1), []
    for i in front.sort_values("error").index:  # the best are labelled first
        if not (np.abs(places.loc[kept] - places.loc[i]) < 1).all(axis=1).any():
            kept.append(i)
    return front.loc[kept]


def _full_data(full: pd.DataFrame, y: alt.Y) -> list[alt.Chart]:
    if full["accuracy"].isna().all():
        return []
    at = alt.Chart(full.assign(label="all data"))
    interval = at.transform_filter("isValid(datum.low)")
    band = interval.transform_calculate(error="datum.error_low").mark_rect(color="#DDDDDD")
    text = at.mark_text(align="right", baseline="bottom", dx=-4, dy=-3, color=FAINT)
    return [
        band.encode(y, alt.Y2("error_high:Q")),
        at.mark_rule(color=FAINT, strokeWidth=1.5).encode(y),
        text.encode(y, x=alt.value(WIDTH), text="label:N"),
    ]


def _forest(rows: pd.DataFrame, marks: _Marks) -> alt.LayerChart:
    points = rows[["difference", "low", "high"]] * 100
    ink = rows["method"].map(marks.colours)
    fill = ink.where(rows["survives"], "white")
    rows = rows.assign(**points, ink=ink, fill=fill, untested=rows["reason"] != "")
    ends = [0.0, *points.stack().dropna()]
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    scale = alt.Scale(domain=[min(ends) - margin, max(ends) + margin], nice=False)
    axis = alt.Axis(format="+.3~r", tickCount=5)
    x = alt.X("difference:Q", scale=scale, axis=axis, title="points of accuracy")
    bare = alt.Axis(domain=False, ticks=False)
    y = alt.Y("method:N", sort=list(marks.colours), title=None, axis=bare)
    base = alt.Chart(rows).encode(y)
    shape = alt.when(alt.datum.untested).then(alt.value("cross")).otherwise(alt.value("circle"))
    dots = base.transform_filter("isValid(datum.difference)").mark_point(size=75, opacity=1)
    fields = ["method:N", "k", "n", "difference", "low", "high", "p", "p_flip", "p_holm"]
    stroke, fill = alt.Stroke("ink:N", scale=None), alt.Fill("fill:N", scale=None)
    tooltip = [*tips(fields), alt.Tooltip("reason:N")]
    zero = alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color="#888888")
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    layers = [
        zero.encode(alt.X("zero:Q", scale=scale)),
        bars.encode(alt.X("low:Q", scale=scale), alt.X2("high:Q"), stroke),
        dots.encode(x, stroke, fill, shape=shape, tooltip=tooltip),
    ]
    return alt.layer(*layers).properties(width=(WIDTH - 250) // 3, height=alt.Step(22))


def training_loss(losses: Sequence[float], points: int = 100) -> alt.Chart:
    """Draw the loss of a generator's training (steps,), averaged over equal runs of steps."""
    values = np.asarray(losses, dtype=float)
    runs = np.array_split(values, min(points, len(values)))
    ends = np.cumsum([len(run) for run in runs])
    table = pd.DataFrame({"step": ends, "loss": [run.mean() for run in runs]})
    y = alt.Y("loss:Q", scale=alt.Scale(type="log", nice=False), title="mean loss, log scale")
    line = alt.Chart(table).mark_line(color=method_colours(pd.Series(["mgd3"]))["mgd3"])
    title = f"Training of the generator: the loss ends at {table['loss'].iloc[-1]:.3g}"
    line = line.encode(alt.X("step:Q", title="training step"), y, tooltip=tips(["step", "loss"]))
    chart = line.properties(width=WIDTH // 2, height=180, title=alt.Title(title))
    return chart.configure(**CONFIG)


def _missing(table: pd.DataFrame, what: str = "accuracy") -> str:
    """Name the points that cannot be drawn, and those that stand for fewer seeds."""
    groups = {f"No {what}": table[["accuracy", what]].isna().any(axis=1)}
    if "seeds" in table:
        groups["Fewer seeds"] = table["n"].between(1, table["seeds"] - 1)
    places = table["method"] + " at k = " + table["k"].astype(str)
    return " ".join(f"{name}: {', '.join(places[at])}." for name, at in groups.items() if at.any())
