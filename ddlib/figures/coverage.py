"""Figures of the coverage law: gaps by configuration, H_cov, k*, and transfer."""

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures import style
from ddlib.stats.intervals import Interval, student
from ddlib.stats.regressions import FEWEST

GAP_TITLE = "gap in error"  # balanced, if the study's measure is
SHAPES = ("circle", "square", "diamond", "cross")
X = "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z"  # SVG paths
STAR = "M0,-1.2L.35,-.35L1.2,0L.35,.35L0,1.2L-.35,.35L-1.2,0L-.35,-.35Z"
SERIES_SHAPES = (*SHAPES, "triangle-right", "triangle-left", X, STAR)
LABEL = (0.07, 0.04)  # room for a label: shares of the axes
DASHES = ([1, 0], [5, 2], [1, 2])  # the next where all colours are taken


def gaps_by_configuration(gaps: pd.DataFrame) -> alt.FacetChart:
    """Draw the mean gap of each configuration against k, one panel per method.

    `gaps` has columns method, configuration, k, seed and gap_error.
    """
    means = gaps.groupby(["method", "configuration", "k"], sort=False, as_index=False)
    means = means["gap_error"].mean().dropna()
    largest = means.groupby(["method", "k"])["gap_error"].transform("max")
    table = means.assign(worst=means["gap_error"] == largest)
    names = means["configuration"].unique()
    colour = style.colour("configuration", names, symbolType="stroke", symbolStrokeWidth=2)
    dashes = {name: DASHES[i // len(style.MANY_COLOURS) % 3] for i, name in enumerate(names)}
    dash = alt.StrokeDash("configuration:N", scale=style.scale(dashes), title=None)
    y = alt.Y("gap_error:Q", title=GAP_TITLE)
    base = alt.Chart().encode(style.k_axis(means["k"], means["k"]), y)
    worst = base.transform_filter("datum.worst")
    lines = base.encode(colour, tooltip=style.tips("configuration:N", "k", "gap_error"))
    layers = [
        lines.mark_line(strokeWidth=1.6).encode(dash),
        worst.mark_line(color=style.INK, strokeWidth=3.5, opacity=0.35),
        lines.mark_point(filled=True, size=30, opacity=1),
    ]
    chart = alt.layer(*layers, data=table, width=style.WIDTH // 2 - 60, height=300)
    chart = chart.add_params(style.zoom())
    return style.figure(
        style.panels(chart, "method", means["method"].unique(), columns=2),
        "Who needs most? Gap to all data, of every configuration, against k",
        "Means over seeds. The broad line is the largest of them at each k.",
    )


def h_cov_against_radius(curves: pd.DataFrame, floor: float, radii: pd.Series) -> alt.LayerChart:
    """Draw H_cov(r) of several families, with the noise floor in grey.

    curves: columns family, radius, h_cov; radii: the radii that the study uses.
    """
    end = 1.05 * max(curves["radius"].max(), radii.max(), floor)
    steps = h_cov_steps(curves, floor, radii, end, style.FAINT)
    return style.figure(
        steps.properties(width=style.WIDTH, height=320),
        "How many balls of radius r does a family need?",
        f"Dashed: the radii used. Grey: distances that seeds alone reach (r < {floor:.2g}).",
    )


def h_cov_steps(
    curves: pd.DataFrame,
    floor: float,
    radii: Sequence[float],
    end: float,
    rule: str,
    most: float | None = None,
) -> alt.LayerChart:
    """Draw H_cov(r) of families up to the radius `end`.

    rule: the colour of lines at `radii`; most: the end of the axis of H_cov, default its largest.
    """
    last = curves.groupby("family", sort=False).tail(1).assign(radius=end)
    names = curves["family"].unique()
    x = alt.X("radius:Q", scale=alt.Scale(domain=[0, end], nice=False), title="radius r")
    scale = alt.Scale(domainMax=most or alt.Undefined)
    y = alt.Y("h_cov:Q", scale=scale, title="H_cov(r) = ln N(r), nats")
    colour = style.colour("family", names)
    colour = colour if len(names) > 1 else colour.legend(None)
    tooltip = style.tips("family:N", "radius", "h_cov")
    noise = alt.Chart(pd.DataFrame([{"radius": 0.0, "end": floor}])).mark_rect(color="#EEEEEE")
    used = alt.Chart(pd.DataFrame({"radius": radii})).mark_rule(color=rule, strokeDash=[4, 3])
    lines = alt.Chart(pd.concat([curves, last])).mark_line(interpolate="step-after", clip=True)
    return alt.layer(
        noise.encode(x, alt.X2("end")),
        used.encode(x, tooltip=style.tips("radius")),
        lines.encode(x, y, colour, tooltip=tooltip),
    )


def k_star_against(
    k_stars: pd.DataFrame, measures: pd.DataFrame, predictors: Mapping[str, str], groups: pd.Series
) -> alt.FacetChart:
    """Draw k* of each family against each predictor (columns), at each epsilon (rows).

    k_stars: the table of `ddlib.stats.families.k_star`; predictors: {column of measures: axis
    title}; groups: family -> its series or group. For the marks see `k_star_marks`. The subtitle
    names families without k*.
    """
    unknown = k_stars[k_stars["k_star"].isna()]
    lost = [f"{row.family} (ε = {row.epsilon:g})" for row in unknown.itertuples()]
    panels = {
        f"ε = {epsilon:g}: k* against {title}": k_star_rows(rows, measures[name], groups)
        for epsilon, rows in k_stars.groupby("epsilon", sort=False)
        for name, title in predictors.items()
    }
    table = pd.concat(panels, names=["panel"]).reset_index("panel")
    x = alt.X("at:Q", title=None, scale=alt.Scale(zero=False, nice=False, padding=20))
    ends = table[["low", "k_star", "raw", "high"]]
    y = k_star_axis(ends.min(axis=None), ends.max(axis=None))
    width = min(style.WIDTH // len(predictors) - 40, 340)
    chart = k_star_marks(table, x, y, width=width, height=260)
    chart = style.panels(chart, "panel", panels, columns=len(predictors))
    return style.figure(
        chart.resolve_scale(x="independent"),
        "Does H_cov say how many samples a family needs?",
        "One mark a family, with the number in its name and the 95 % interval over seeds.",
        "Line: of ln k*. Short dash: from the raw worst gap. Triangle: beyond the measured sizes.",
        "Hollow: lost seeds or sizes. Series with equal values stand side by side.",
        *[f"No k* for missing trials: {', '.join(lost)}."] * bool(lost),
    )


def k_star_rows(k_stars: pd.DataFrame, measure: pd.Series, groups: pd.Series) -> pd.DataFrame:
    """Tabulate the families that have a k* at one epsilon, for `k_star_marks`.

    measure: family -> its H_cov or a rival. Adds to the columns of k_stars: value (the measure), at
    (the same, but series with equal values are moved apart), group, label (numbers in the names of
    the families at this mark, "" where there is no room), whole (1, or 0 where seeds or sizes are
    missing), fitted (least-squares line of ln k*, whose R² the sentences give; NaN where fewer than
    FEWEST families have a k* inside the sizes), interval (a text). Infinite low and high are cut.
    """
    table = k_stars.dropna(subset="k_star")
    family, k = table["family"], table[["k_star", "raw"]]
    table = table.assign(
        value=family.map(measure).astype(float),
        group=family.map(groups),
        interval=[
            format(Interval(*ends), ".0f") for ends in table[["k_star", "low", "high"]].to_numpy()
        ],
        label=family.str.extract(r"(\d+)$", expand=False).fillna(family),
        low=table["low"].clip(lower=k.min(axis=None)),
        high=table["high"].clip(upper=k.max(axis=None)),
        whole=1.0 * (table[["missing_seeds", "missing_sizes"]].sum(axis=1) == 0),
        fitted=np.nan,
    )
    place, tied = table.groupby("group", sort=False).ngroup(), table["value"].duplicated(keep=False)
    step = 0.02 * table["value"].agg(np.ptp) * tied
    table["at"] = table["value"] + step * (place - place.mean())
    alike = [table["group"], table["value"], table["k_star"].round(6)]
    table["label"] = table.groupby(alike)["label"].transform(", ".join)
    places = pd.DataFrame({"x": table["at"], "y": np.log(table["k_star"])})
    places = (places / places.agg(np.ptp).clip(lower=1e-9)).to_numpy()
    free = []  # the rows whose label hides no other, from the first on
    for row, place in enumerate(places):
        if not (np.abs(places[free] - place) < LABEL).all(axis=1).any():
            free.append(row)
    table.loc[~np.isin(range(len(table)), free), "label"] = ""
    if (table["censored"] == "").sum() >= FEWEST and table["value"].nunique() > 1:
        line = np.polynomial.Polynomial.fit(table["value"], np.log(table["k_star"]), 1)
        table["fitted"] = np.exp(line(table["value"]))
    return table


def k_star_axis(least: float, most: float) -> alt.Y:
    """Return the log axis of k* between two sizes, with room for marks."""
    return style.log_axis(alt.Y, "k_star", least / 1.5, most * 1.5, "k* (log scale)")


def k_star_marks(
    table: pd.DataFrame, x: alt.X, y: alt.Y, *more: alt.Chart, legend: str = "right", **size: object
) -> alt.LayerChart:
    """Draw k* of families against a measure; table: rows of `k_star_rows`.

    A triangle marks a k* beyond the measured sizes, a short dash the raw k*, a hollow mark a family
    that lost seeds or sizes. x: the encoding of `at`; y: a `k_star_axis`; more: layers to add;
    legend: its place; size: width, height and title.
    """
    groups = list(table["group"].unique())
    colour = style.colour("group", groups, orient=legend, columns=4 if legend == "bottom" else 1)
    shapes = style.scale(dict(zip(groups, SERIES_SHAPES * len(groups), strict=False)))
    shape = alt.Shape("group:N", scale=shapes, sort=groups, legend=colour["legend"])
    fields = ["family:N", "interval:N", "raw", "censored:N", "seeds", "value"]
    tooltip = style.tips(*fields, "missing_seeds", "missing_sizes")
    beyond = [
        alt.Chart()
        .transform_filter(f"indexof(datum.censored, '{side}') == 0")
        .mark_point(shape=f"triangle-{way}", filled=True, size=40, opacity=1, yOffset=offset)
        .encode(y)
        for side, way, offset in (("above", "up", -10), ("below", "down", 10))
    ]
    line = alt.Chart().mark_line(color=style.INK, strokeDash=[4, 3], clip=True)
    marks = [
        alt.Chart().mark_rule(opacity=0.4).encode(alt.Y("low:Q"), alt.Y2("high")),
        alt.Chart().mark_tick(orient="horizontal", size=14, thickness=1.5).encode(alt.Y("raw:Q")),
        alt.Chart()
        .mark_point(size=70, opacity=1)
        .encode(
            y,
            shape,
            alt.Fill("group:N", scale=colour["scale"], sort=groups, legend=colour["legend"]),
            alt.FillOpacity("whole:Q", scale=None, legend=None),
        ),
        *beyond,
        alt.Chart().mark_text(align="left", dx=7, dy=5).encode(y, text="label:N"),
    ]
    return alt.layer(
        line.encode(alt.X("value:Q"), alt.Y("fitted:Q")),
        alt.layer(*marks, encoding=alt.FacetedEncoding(x=x, color=colour, tooltip=tooltip)),
        *more,
        data=table,
        **size,
    )


def transfer(gaps: pd.DataFrame, ks: Sequence[int]) -> alt.FacetChart:
    """Draw the gap of every configuration for each method, one panel per size in `ks`.

    gaps: columns method, configuration, k, seed, gap_error. Bars are 95 % intervals over seeds
    (Student t). Configurations are ordered by the first method's mean gap.
    """
    keys = ["method", "configuration", "k"]
    cells = gaps.groupby([*keys, "seed"], sort=False)["gap_error"].mean()
    rows = [(*place, *student(values)) for place, values in cells.groupby(keys, sort=False)]
    table = pd.DataFrame(rows, columns=[*keys, "gap", "low", "high"])
    methods = list(table["method"].unique())
    means = table[table["method"] == methods[0]].groupby("configuration")["gap"].mean()
    others = table["configuration"]  # of which the first method has no trial
    order = alt.Scale(domain=list(dict.fromkeys([*means.sort_values().index, *others])))
    table = table[table["k"].isin(ks)].dropna(subset="gap")
    base = alt.Chart().encode(
        alt.Y("configuration:N", scale=order, title=None),
        style.colour("method", methods),
        tooltip=style.tips("method:N", "configuration:N", "k", "gap", "low", "high"),
    )
    shape = alt.Shape("method:N", scale=alt.Scale(domain=methods, range=SHAPES), title=None)
    bars = base.mark_rule(opacity=0.5).encode(alt.X("low:Q", title=GAP_TITLE), alt.X2("high"))
    dots = base.mark_point(size=55, filled=True, opacity=1).encode(alt.X("gap:Q"), shape)
    chart = alt.layer(bars, dots, data=table, width=200, height=alt.Step(19))
    return style.figure(
        style.panels(chart, "k", ks, len(ks), "k = ").resolve_scale(x="independent"),
        "Distilled on one network, or for several: the gap of every configuration",
        "Means over seeds with 95 % intervals, in the order of the first method's gaps.",
    )
