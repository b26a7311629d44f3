"""The figures of the coverage law: gaps by configuration, the map, H_cov, k*, and transfer."""

from collections.abc import Mapping, Sequence
from itertools import product

import altair as alt
import numpy as np
import pandas as pd
from scipy import stats

from ddlib.figures.style import (
    COLOURS,
    CONFIG,
    FAINT,
    INK,
    WIDTH,
    colour_scale,
    k_axis,
    tips,
    zoom,
)

GAP_TITLE = "gap in test error"


def gaps_by_configuration(gaps: pd.DataFrame) -> alt.ConcatChart:
    """Draw each configuration's mean gap against k, one panel a method; the worst is heavy.

    `gaps` has columns method, configuration, k, seed and gap_error.
    """
    means = gaps.groupby(["method", "configuration", "k"], sort=False, as_index=False)
    means = means["gap_error"].mean().dropna()
    worst = means.loc[means.groupby(["method", "k"])["gap_error"].idxmax()]
    low, high = means["gap_error"].min(), means["gap_error"].max()
    names = list(dict.fromkeys(means["configuration"]))
    x = k_axis(means["k"], means["k"])
    y = alt.Y("gap_error:Q", scale=alt.Scale(domain=[min(low, 0), high]), title=GAP_TITLE)
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=2)
    colour = alt.Color("configuration:N", scale=colour_scale(names), title=None, legend=legend)
    dash = alt.StrokeDash("configuration:N", scale=_dashes(names), title=None)
    shown, panels = tips(["configuration:N", "k", "gap_error"]), []
    for i, (method, rows) in enumerate(means.groupby("method", sort=False)):
        base = alt.Chart(rows).encode(x, y, colour, tooltip=shown)
        top = alt.Chart(worst[worst["method"] == method]).encode(x, y)
        layers = [
            base.mark_line(strokeWidth=1.6).encode(dash),
            top.mark_line(color=INK, strokeWidth=3.5, opacity=0.35),
            base.mark_point(filled=True, size=30, opacity=1),
        ]
        panel = alt.layer(*layers).add_params(zoom(i))
        panels.append(panel.properties(width=WIDTH // 2 - 60, height=300, title=str(method)))
    title = alt.Title(
        "Who needs most? Gap to all data, of every configuration, against k",
        subtitle="Means over seeds. The broad line is the largest of them at each k.",
    )
    return alt.concat(*panels, columns=2, title=title).configure(**CONFIG)


def configuration_map(
    points: pd.DataFrame, share: float, centres: Sequence[str], radius: float
) -> alt.LayerChart:
    """Draw the configurations in the plane, index configuration, columns x, y; centres are filled.

    share: of the distances' variance that the plane shows; centres: those of a least cover.
    """
    table = place_names(points)
    table["role"] = np.where(table["configuration"].isin(centres), "centre of the cover", "covered")
    roles = {"centre of the cover": COLOURS[0], "covered": "#FFFFFF"}
    dots = named_dots(table, plane(reach(points)), roles, COLOURS[0], alt.Legend(title=None))
    title = alt.Title(
        f"{len(centres)} balls of radius {radius:.2g} cover {len(points)} configurations",
        subtitle=f"Classical scaling; the plane shows {share:.0%} of the distances' variance, so "
        "balls cannot be drawn true to scale. Filled: centres of a least cover.",
    )
    chart = alt.layer(*dots).properties(width=560, height=560, title=title)
    return chart.configure(**CONFIG)


def place_names(points: pd.DataFrame) -> pd.DataFrame:
    """Let neighbours' names take turns at four heights, so that they can be read; see `named_dots`.

    points: index configuration, columns x and y and perhaps others.
    """
    table = points.rename_axis("configuration").reset_index()
    return table.assign(height=table["x"].rank(method="first").astype(int) % 4)


def reach(points: pd.DataFrame) -> float:
    """Return how far a map of points x, y goes to each side."""
    return 1.25 * max(float(points[["x", "y"]].abs().to_numpy().max()), 1e-9)


def plane(reach: float) -> tuple[alt.X, alt.Y]:
    """Return the axes of a map that goes as far to each side."""
    scale = alt.Scale(domain=[-reach, reach], nice=False)
    looks = {"scale": scale, "axis": alt.Axis(format=".2~g", tickCount=5), "title": None}
    return alt.X("x:Q", **looks), alt.Y("y:Q", **looks)


def named_dots(
    points: pd.DataFrame | alt.NamedData,
    axes: tuple[alt.X, alt.Y],
    roles: Mapping[str, str],
    stroke: str,
    legend: alt.Legend,
) -> list[alt.Chart]:
    """Draw the configurations of a map with their names, filled by their role.

    points: of `place_names`, with a column role; axes: of `plane`; roles: {role: colour}.
    """
    base = alt.Chart(points).encode(*axes, tooltip=tips(["configuration:N", "role:N"]))
    fill = alt.Scale(domain=list(roles), range=list(roles.values()))
    dots = base.mark_point(size=100, filled=True, stroke=stroke, strokeWidth=1, opacity=1)
    names = [
        base.transform_filter(alt.datum.height == height)
        .mark_text(dy=dy, fontSize=11, color=INK)
        .encode(text="configuration:N")
        for height, dy in enumerate((-13, 14, -25, 26))
    ]
    return [dots.encode(alt.Fill("role:N", scale=fill, legend=legend)), *names]


def h_cov_against_radius(curves: pd.DataFrame, floor: float, radii: pd.Series) -> alt.LayerChart:
    """Draw the steps of H_cov(r) of several families; below the noise floor r says nothing.

    `curves` has columns family, radius, h_cov, low, high; `radii` those that the study uses.
    """
    names = list(dict.fromkeys(curves["family"]))
    end = 1.05 * max(curves["radius"].max(), radii.max(), floor)
    last = curves.groupby("family", sort=False).tail(1).assign(radius=end)
    x = alt.X("radius:Q", scale=alt.Scale(domain=[0, end], nice=False), title="radius r")
    colour = alt.Color("family:N", scale=colour_scale(names), sort=names, title=None)
    dash = alt.StrokeDash("family:N", scale=_dashes(names), sort=names, title=None)
    base = alt.Chart(pd.concat([curves, last])).encode(x, colour)
    y = alt.Y("h_cov:Q", title="H_cov(r) = ln N(r), nats")
    lines = base.mark_line(interpolate="step-after")
    band = base.mark_area(interpolate="step-after", opacity=0.12, clip=True)
    noise = alt.Chart(pd.DataFrame({"radius": [0.0], "end": [floor]}))
    used = alt.Chart(pd.DataFrame({"radius": radii.to_numpy()}))
    layers = [
        noise.mark_rect(color="#EEEEEE").encode(x, alt.X2("end:Q")),
        used.mark_rule(color=FAINT, strokeDash=[2, 3]).encode(x, tooltip=tips(["radius"])),
        band.encode(alt.Y("low:Q", title=None), alt.Y2("high:Q")),
        lines.encode(y, dash, tooltip=tips(["family:N", "radius", "h_cov"])),
    ]
    title = alt.Title(
        "How many balls of radius r does a family need?",
        subtitle="Bands: 95 % over seeds. Dots: the radii used. Grey: distances that seeds alone "
        f"reach (r < {floor:.2g}).",
    )
    return alt.layer(*layers).properties(width=WIDTH, height=320, title=title).configure(**CONFIG)


def k_star_against(
    k_stars: pd.DataFrame, measures: pd.DataFrame, predictors: Mapping[str, str], groups: pd.Series
) -> alt.ConcatChart:
    """Draw k* of each family against each predictor, one panel a predictor, a row an epsilon.

    `k_stars` as `ddlib.stats.families.k_star` tabulates them; predictors: {column of measures:
    axis title}; groups: family -> the series or group it belongs to. A triangle marks a k* that
    lies beyond the measured sizes, a dash the raw k*, a hollow mark a family that lost seeds or
    sizes; the subtitle names families without k*.
    """
    table = k_stars.merge(measures.rename_axis("family").reset_index(), on="family")
    table = table.assign(
        group=table["family"].map(groups),
        shown=table["censored"].str.partition(" ")[0].replace("", "measured"),
        low=table["low"].clip(table["smallest"], table["largest"]),
        high=table["high"].clip(table["smallest"], table["largest"]),
        fill=np.where(table[["missing_seeds", "missing_sizes"]].any(axis=1), 0.0, 1.0),
    )
    unknown = table[table["k_star"].isna()].groupby("family", sort=False)["epsilon"]
    names = list(dict.fromkeys(table["group"]))
    colour = alt.Color("group:N", scale=colour_scale(names), sort=names, title=None)
    shapes = {"measured": "circle", "above": "triangle-up", "below": "triangle-down"}
    shapes = alt.Scale(domain=list(shapes), range=list(shapes.values()))
    hollow = alt.FillOpacity("fill:Q", scale=None, legend=None)
    shown = ["family:N", "k_star", "low", "high", "raw", "censored:N", "seeds"]
    shown += ["missing_seeds", "missing_sizes"]
    panels = []
    cases = product(table.dropna(subset="k_star").groupby("epsilon"), predictors.items())
    for (epsilon, rows), (predictor, label) in cases:
        base = alt.Chart(rows).encode(
            alt.X(f"{predictor}:Q", title=label, scale=alt.Scale(zero=False, padding=12)),
            alt.Y("k_star:Q", title=f"k* at ε = {epsilon:g}"),
            colour,
            tooltip=tips([*shown, predictor]),
        )
        bars = base.mark_rule(opacity=0.5).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
        raw = base.mark_tick(orient="horizontal", size=14, thickness=1.5).encode(alt.Y("raw:Q"))
        dots = base.mark_point(size=70, opacity=1)
        fill = alt.Fill("group:N", scale=colour_scale(names), sort=names, title=None)
        dots = dots.encode(alt.Shape("shown:N", scale=shapes, title=None), fill, hollow)
        panels.append(alt.layer(bars, raw, dots).properties(width=230, height=230))
    lines = [
        "One mark a family, with the 95 % interval over seeds; dash: from the raw worst gap.",
        "Triangle: beyond the measured sizes. Hollow: lost seeds or sizes to missing trials.",
    ]
    if len(unknown):
        lost = [f"{family} (ε = {', '.join(map('{:g}'.format, at))})" for family, at in unknown]
        lines.append(f"No k* for missing trials: {', '.join(lost)}.")
    title = alt.Title("Does H_cov say how many images a family needs?", subtitle=lines)
    return alt.concat(*panels, columns=len(predictors), title=title).configure(**CONFIG)


def transfer(gaps: pd.DataFrame, ks: Sequence[int]) -> alt.HConcatChart:
    """Draw the gap of every configuration after each method, one panel a size of `ks`.

    `gaps` has columns method, configuration, k, seed, gap_error; bars are 95 % intervals over seeds
    (Student t). Configurations stand in the order of the first method's mean gap.
    """
    cells = gaps.groupby(["method", "configuration", "k", "seed"], sort=False)["gap_error"].mean()
    table = cells.groupby(level=[0, 1, 2], sort=False).agg(["mean", "sem", "count"]).reset_index()
    half = table["sem"] * stats.t.ppf(0.975, (table["count"] - 1).clip(1))
    table = table.assign(gap=table["mean"], low=table["mean"] - half, high=table["mean"] + half)
    methods = list(dict.fromkeys(table["method"]))
    means = table[table["method"] == methods[0]].groupby("configuration")["gap"].mean()
    order = list(means.sort_values().index)
    table = table.drop(columns=["mean", "sem", "count"]).dropna(subset="gap")
    shapes = alt.Scale(domain=methods, range=["circle", "square", "diamond", "cross"])
    colour = alt.Color("method:N", scale=colour_scale(methods), sort=methods, title=None)
    shape = alt.Shape("method:N", scale=shapes, sort=methods, title=None)
    panels = []
    for i, k in enumerate(ks):
        axis = alt.Axis(labels=i == 0, grid=True)
        base = alt.Chart(table[table["k"] == k]).encode(
            alt.Y("configuration:N", scale=alt.Scale(domain=order), title=None, axis=axis),
            colour,
            tooltip=tips(["method:N", "configuration:N", "k", "gap", "low", "high"]),
        )
        bars = base.mark_rule(opacity=0.5)
        bars = bars.encode(alt.X("low:Q", title=GAP_TITLE), alt.X2("high:Q"))
        dots = base.mark_point(size=55, filled=True, opacity=1).encode(alt.X("gap:Q"), shape)
        size = {"width": 200, "height": alt.Step(19)}
        panels.append(alt.layer(bars, dots).properties(**size, title=f"k = {k}"))
    title = alt.Title(
        "Distilled on one network, or for several: the gap of every configuration",
        subtitle="Means over seeds with 95 % intervals, in the order of the first method's gaps.",
    )
    return alt.hconcat(*panels, title=title).configure(**CONFIG)


def back_test(tested: pd.DataFrame) -> alt.LayerChart:
    """Draw predicted against measured gaps of what a pilot did not see, with 95 % intervals.

    `tested` has columns name, kind, held_out, k, predicted, low, high, measured.
    """
    kinds = list(dict.fromkeys(tested["held_out"]))
    ends = tested[["predicted", "measured"]].to_numpy(float)
    bottom, top = np.nanmin(ends), np.nanmax(ends)
    domain = [bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom)]
    scale = alt.Scale(domain=domain, nice=False)
    base = alt.Chart(tested).encode(
        alt.X("measured:Q", scale=scale, title="measured gap"),
        alt.Y("predicted:Q", scale=scale, title="predicted from the pilot"),
        alt.Color("held_out:N", scale=colour_scale(kinds), sort=kinds, title="not in the pilot"),
        tooltip=tips(["name:N", "held_out:N", "k", "predicted", "low", "high", "measured"]),
    )
    line = alt.Chart(pd.DataFrame({"at": domain})).mark_line(color=FAINT, strokeDash=[4, 3])
    bars = base.mark_rule(opacity=0.35, clip=True).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    dots = base.mark_point(size=50, filled=True, opacity=1)
    layers = [line.encode(alt.X("at:Q"), alt.Y("at:Q")), bars, dots]
    title = alt.Title(
        "What the pilot predicts, and what the rest of the study measured",
        subtitle="On the dashed line the prediction is right; bars are its 95 % intervals.",
    )
    return alt.layer(*layers).properties(width=460, height=400, title=title).configure(**CONFIG)


def _dashes(names: Sequence[str]) -> alt.Scale:
    """Return dashes that tell apart names of one colour."""
    kinds = ([1, 0], [5, 2], [2, 2])
    dashes = [kinds[i // len(COLOURS) % len(kinds)] for i in range(len(names))]
    return alt.Scale(domain=list(names), range=dashes)
