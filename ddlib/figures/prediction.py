"""The figure of what fitted laws predict at one k, on axes that depend on the study alone."""

from collections.abc import Mapping
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures import style
from ddlib.figures.scaling import log_axes

WIDTH, HEIGHT, LABEL = 680, 300, 13  # pixels of the figure, and of a label's height
DASHES = {"fitted": [1, 0], "extrapolated": [5, 4]}
SHAPES = {"prediction": "square", "four times": "square", "k_sat": "triangle-down"}
BANDS = 4  # the bands of more curves hide each other


class Axes(NamedTuple):
    """The axes of k and of the gap, and the ends of the latter."""

    x: alt.X
    y: alt.Y
    bottom: float
    top: float
    log: bool

    def holds_apart(self, gaps: pd.Series) -> bool:
        """Tell whether labels at these gaps are in the figure and do not hide each other."""
        places = np.array([self.bottom, *gaps.sort_values(), self.top])
        steps = np.diff(np.log(places) if self.log else places)
        steps = steps / steps.sum() * HEIGHT
        return bool((steps >= 0).all() and (steps[1:-1] > LABEL).all())


def axes(gaps: pd.DataFrame, log: bool) -> Axes:
    """Return axes that hold all gaps (columns method, k, gap), and twice the largest k."""
    ends = pd.DataFrame({"k": [gaps["k"].min() / 1.5, 2.0 * gaps["k"].max()]})  # room for labels
    x, y, bottom, top = log_axes(gaps, ends, "gap to all data (log scale)")
    if not log:
        bottom, top = min(0.0, gaps["gap"].min()), max(0.0, 1.05 * gaps["gap"].max())
        scale = alt.Scale(domain=[bottom, top], nice=False)
        y = alt.Y("gap:Q", scale=scale, title="gap to all data")
    return Axes(x, y, bottom, top, log)


def predictions(
    gaps: pd.DataFrame, curves: pd.DataFrame, marks: pd.DataFrame, k: int, axes: Axes
) -> alt.LayerChart | alt.FacetChart:
    """Draw seeds, fitted curves and their marks; a panel a method where there are several fits.

    gaps: columns method, k, seed, gap; curves: method, fit, part (see DASHES), k, gap, low, high;
    marks: method, fit, mark (see SHAPES), k, gap, low, high; k: the rule across. Colours tell
    methods, in panels fits. Labels at the curves' left ends replace the legend where there is
    room. A step leads from the prediction at k to that at 4k. Log axes omit what lies below them.
    """
    methods, fits = style.method_colours(gaps["method"]), curves["fit"].unique()
    several = len(fits) > 1
    colours = {fit: style.LAW_COLOURS[fit] for fit in fits} if several else methods
    tables = {"seed": gaps, "curve": curves, "mark": marks}
    if axes.log:
        tables = {kind: rows[rows["gap"] >= axes.bottom] for kind, rows in tables.items()}
    starts = tables["curve"].drop_duplicates(["method", "fit"])
    if labelled := len(starts) > 0 and not several and axes.holds_apart(starts["gap"]):
        tables["start"] = starts
    table = pd.concat([rows.assign(kind=kind) for kind, rows in tables.items()])
    table = table.infer_objects()  # Altair writes no null for what is missing in empty columns
    table = table.assign(at=k, series=table["fit" if several else "method"])
    table["low"] = table["low"].clip(lower=axes.bottom)
    chart = alt.layer(
        *_layers(axes, colours, several, labelled),
        data=table,
        width=WIDTH // min(3, len(methods)) - 40 if several else WIDTH,
        height=HEIGHT // 2 if several else HEIGHT,
    )
    return style.panels(chart, "method", list(methods), 3) if several else chart


def _layers(axes: Axes, colours: Mapping[str, str], several: bool, labelled: bool) -> list:
    legend = None if labelled else alt.Legend(title=None, orient="top", columns=6, symbolOpacity=1)
    colour = alt.Color("series:N", scale=style.scale(colours), legend=legend)
    dash = alt.StrokeDash("part:N", scale=style.scale(DASHES), legend=None)
    shape = alt.Shape("mark:N", scale=style.scale(SHAPES), legend=None)
    tips = style.tips("method:N", "fit:N", "mark:N", "k", "gap", "low", "high")
    base = alt.Chart().encode(axes.x, axes.y)
    seeds, curves, marks, starts = (
        base.transform_filter(alt.datum.kind == kind) for kind in ("seed", "curve", "mark", "start")
    )
    dots = seeds.mark_point(filled=True, size=26, opacity=0.6)
    lines = curves.encode(colour, alt.Detail("fit:N"), dash)
    steps = marks.transform_filter(alt.datum.mark != "k_sat")
    band = curves.mark_area(opacity=0.15, clip=True)
    band = band.encode(colour, alt.Detail(["fit:N", "part:N"]), alt.Y("low:Q"), alt.Y2("high"))
    return [
        *([band] if len(colours) <= BANDS and not several else []),
        lines.mark_line(clip=True).encode(tooltip=tips[:2] + tips[3:5]),
        dots.encode(
            color=alt.value(style.FAINT) if several else colour,
            tooltip=style.tips("method:N", "k", "seed", "gap"),
        ),
        alt.Chart().mark_rule(color=style.INK, strokeDash=[2, 3]).encode(alt.X("at:Q")),
        steps.mark_line(interpolate="step-after", strokeWidth=1, clip=True).encode(
            colour, alt.Detail(["method:N", "fit:N"])
        ),
        marks.mark_point(size=90, clip=True).encode(colour, shape, tooltip=tips),
        starts.mark_text(align="right", dx=-6).encode(colour, text="series:N"),
    ]
