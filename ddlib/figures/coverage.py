"""Figures of the coverage law: gaps by configuration, the map, H_cov, k*, and transfer."""

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd
from scipy import stats

from ddlib.figures import style

GAP_TITLE = "gap in test error"
DASHES = ([1, 0], [5, 2], [2, 2])  # distinguish lines of the same colour
K_STAR_SHAPES = {"measured": "circle", "above": "triangle-up", "below": "triangle-down"}


def gaps_by_configuration(gaps: pd.DataFrame) -> alt.FacetChart:
    """Draw the mean gap of each configuration against k, one panel per method.

    `gaps` has columns method, configuration, k, seed and gap_error.
    """
    means = gaps.groupby(["method", "configuration", "k"], sort=False, as_index=False)
    means = means["gap_error"].mean().dropna()
    largest = means.groupby(["method", "k"])["gap_error"].transform("max")
    table = means.assign(worst=means["gap_error"] == largest)
    names = list(means["configuration"].unique())
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=2)
    colour = alt.Color(
        "configuration:N", scale=style.colour_scale(names), title=None, legend=legend
    )
    y = alt.Y("gap_error:Q", title=GAP_TITLE)
    base = alt.Chart().encode(style.k_axis(means["k"], means["k"]), y)
    worst = base.transform_filter("datum.worst")
    lines = base.encode(colour, tooltip=style.tips(["configuration:N", "k", "gap_error"]))
    layers = [
        lines.mark_line(strokeWidth=1.6).encode(_dash("configuration", names)),
        worst.mark_line(color=style.INK, strokeWidth=3.5, opacity=0.35),
        lines.mark_point(filled=True, size=30, opacity=1),
    ]
    panels = alt.layer(*layers, data=table).add_params(style.zoom())
    panels = panels.properties(width=style.WIDTH // 2 - 60, height=300)
    methods = alt.Facet("method:N", sort=list(means["method"].unique()), header=style.header())
    return style.figure(
        panels.facet(methods, columns=2),
        "Who needs most? Gap to all data, of every configuration, against k",
        "Means over seeds. The broad line is the largest of them at each k.",
    )


def configuration_map(
    points: pd.DataFrame, share: float, centres: Sequence[str], radius: float
) -> alt.LayerChart:
    """Draw the configurations in the plane; the centres of a smallest cover are filled.

    points: index configuration, columns x, y; share: of the distances' variance that the plane
    shows.
    """
    centre, covered = "centre of the cover", "covered"
    points = points.assign(role=np.where(points.index.isin(centres), centre, covered))
    roles, blue = {centre: style.COLOURS[0], covered: "#FFFFFF"}, style.COLOURS[0]
    dots = named_dots(points, plane(points), roles, blue, alt.Legend(title=None))
    return style.figure(
        alt.layer(*dots).properties(width=560, height=560),
        f"{len(centres)} balls of radius {radius:.2g} cover {len(points)} configurations",
        f"The plane shows {share:.0%} of the distances' variance, so it cannot show balls true to "
        "scale. Filled: the centres of a smallest cover.",
    )


def plane(points: pd.DataFrame) -> tuple[alt.X, alt.Y]:
    """Return the axes of a map of points x, y, with the origin in the centre."""
    reach = 1.25 * max(float(points[["x", "y"]].abs().to_numpy().max()), 1e-9)
    domain = alt.Scale(domain=[-reach, reach], nice=False)
    looks = {"scale": domain, "axis": alt.Axis(format=".2~g", tickCount=5), "title": None}
    return alt.X("x:Q", **looks), alt.Y("y:Q", **looks)


def named_dots(
    points: pd.DataFrame,
    axes: tuple[alt.X, alt.Y],
    roles: Mapping[str, str],
    stroke: str,
    legend: alt.Legend,
) -> list[alt.Chart]:
    """Draw the configurations of a map with their names, filled by their role.

    points: index configuration, columns x, y, role; axes: of `plane`; roles: {role: colour}. Names
    of neighbours are at different heights, so that they do not overlap.
    """
    table = points.rename_axis("configuration").reset_index()
    table = table.assign(height=table["x"].rank(method="first").astype(int) % 4)
    tooltip = style.tips(["configuration:N", "role:N"])
    base = alt.Chart(table).encode(*axes, tooltip=tooltip)
    dots = base.mark_point(size=100, filled=True, stroke=stroke, strokeWidth=1, opacity=1)
    names = base.mark_text(
        fontSize=11, color=style.INK, dy=alt.expr("[-13, 14, -25, 26][datum.height]")
    )
    fill = alt.Fill("role:N", scale=style.scale(roles), legend=legend)
    return [dots.encode(fill), names.encode(text="configuration:N")]


def h_cov_against_radius(curves: pd.DataFrame, floor: float, radii: pd.Series) -> alt.LayerChart:
    """Draw H_cov(r) of several families, with the noise floor in grey.

    curves: columns family, radius, h_cov; radii: the radii that the study uses.
    """
    names = list(curves["family"].unique())
    end = 1.05 * max(curves["radius"].max(), radii.max(), floor)
    table = pd.concat([curves, curves.groupby("family", sort=False).tail(1).assign(radius=end)])
    x = alt.X("radius:Q", scale=alt.Scale(domain=[0, end], nice=False), title="radius r")
    y = alt.Y("h_cov:Q", title="H_cov(r) = ln N(r), nats")
    colour = alt.Color("family:N", scale=style.colour_scale(names), sort=names, title=None)
    base = alt.Chart(table).encode(x, colour)
    noise = alt.Chart(pd.DataFrame([{"radius": 0.0, "end": floor}])).mark_rect(color="#EEEEEE")
    used = alt.Chart(pd.DataFrame({"radius": radii.to_numpy()}))
    lines = base.mark_line(interpolate="step-after")
    layers = [
        noise.encode(x, alt.X2("end")),
        used.mark_rule(color=style.FAINT, strokeDash=[2, 3]).encode(
            x, tooltip=style.tips(["radius"])
        ),
        lines.encode(
            y, _dash("family", names), tooltip=style.tips(["family:N", "radius", "h_cov"])
        ),
    ]
    return style.figure(
        alt.layer(*layers).properties(width=style.WIDTH, height=320),
        "How many balls of radius r does a family need?",
        f"Dotted: the radii used. Grey: distances that seeds alone reach (r < {floor:.2g}).",
    )


def k_star_against(
    k_stars: pd.DataFrame, measures: pd.DataFrame, predictors: Mapping[str, str], groups: pd.Series
) -> alt.FacetChart:
    """Draw k* of each family against each predictor (columns), at each epsilon (rows).

    k_stars: the table of `ddlib.stats.families.k_star`; predictors: {column of measures: axis
    title}; groups: family -> its series or group. A triangle marks a k* beyond the measured sizes,
    a dash the raw k*, a hollow mark a family that lost seeds or sizes. The subtitle names families
    without k*.
    """
    named = measures[[*predictors]].rename(columns=predictors).rename_axis("family").reset_index()
    table = k_stars.merge(named.melt("family", var_name="predictor"), on="family")
    unknown = table[table["k_star"].isna()].groupby("family", sort=False)["epsilon"].unique()
    unknown = [
        f"{family} (ε = {', '.join(map('{:g}'.format, epsilons))})"
        for family, epsilons in unknown.items()
    ]
    table = table.dropna(subset="k_star").assign(
        group=table["family"].map(groups),
        place=table["censored"].str.partition(" ")[0].replace("", "measured"),
        high=table["high"].clip(upper=table[["k_star", "raw"]].max(axis=None)),
        whole=1.0 * (table[["missing_seeds", "missing_sizes"]].sum(axis=1) == 0),
        panel="ε = " + table["epsilon"].map("{:g}".format) + ": k* against " + table["predictor"],
    )
    names, panels = list(table["group"].unique()), list(table["panel"].unique())
    looks = {"scale": style.colour_scale(names), "sort": names, "title": None}
    fields = ["family:N", "k_star", "low", "high", "raw", "censored:N", "seeds"]
    x = alt.X("value:Q", title=None, scale=alt.Scale(zero=False, padding=12))
    base = alt.Chart().encode(x, alt.Color("group:N", **looks))
    base = base.encode(tooltip=style.tips([*fields, "missing_seeds", "missing_sizes"]))
    raw = base.mark_tick(orient="horizontal", size=14, thickness=1.5)
    layers = [
        base.mark_rule(opacity=0.5).encode(alt.Y("low:Q", title="k*"), alt.Y2("high")),
        raw.encode(alt.Y("raw:Q", title="k*")),
        base.mark_point(size=70, opacity=1).encode(
            alt.Y("k_star:Q", title="k*"),
            alt.Shape("place:N", scale=style.scale(K_STAR_SHAPES), title=None),
            alt.Fill("group:N", **looks),
            alt.FillOpacity("whole:Q", scale=None, legend=None),
        ),
    ]
    chart = alt.layer(*layers, data=table).properties(width=230, height=230)
    chart = chart.facet(
        alt.Facet("panel:N", sort=panels, header=style.header()), columns=len(predictors)
    )
    return style.figure(
        chart.resolve_scale(x="independent"),
        "Does H_cov say how many images a family needs?",
        "One mark a family, with the 95 % interval over seeds; dash: from the raw worst gap.",
        "Triangle: beyond the measured sizes. Hollow: lost seeds or sizes to missing trials.",
        *[f"No k* for missing trials: {', '.join(unknown)}."] * bool(unknown),
    )


def transfer(gaps: pd.DataFrame, ks: Sequence[int]) -> alt.FacetChart:
    """Draw the gap of every configuration for each method, one panel per size in `ks`.

    gaps: columns method, configuration, k, seed, gap_error. Bars are 95 % intervals over seeds
    (Student t). Configurations are ordered by the first method's mean gap.
    """
    cells = gaps.groupby(["method", "configuration", "k", "seed"], sort=False)["gap_error"].mean()
    table = cells.groupby(level=[0, 1, 2], sort=False).agg(["mean", "sem", "count"]).reset_index()
    half = table["sem"] * stats.t.ppf(0.975, (table["count"] - 1).clip(1))
    table = table.assign(gap=table["mean"], low=table["mean"] - half, high=table["mean"] + half)
    methods = list(table["method"].unique())
    means = table[table["method"] == methods[0]].groupby("configuration")["gap"].mean()
    order = list(means.sort_values().index)
    table = table[table["k"].isin(ks)].drop(columns=["mean", "sem"]).dropna(subset="gap")
    shapes = alt.Scale(domain=methods, range=["circle", "square", "diamond", "cross"])
    base = alt.Chart().encode(
        alt.Y("configuration:N", scale=alt.Scale(domain=order), title=None),
        alt.Color("method:N", scale=style.colour_scale(methods), sort=methods, title=None),
        tooltip=style.tips(["method:N", "configuration:N", "k", "gap", "low", "high"]),
    )
    bars = base.mark_rule(opacity=0.5).encode(alt.X("low:Q", title=GAP_TITLE), alt.X2("high"))
    dots = base.mark_point(size=55, filled=True, opacity=1)
    dots = dots.encode(alt.X("gap:Q"), alt.Shape("method:N", scale=shapes, title=None))
    panels = alt.layer(bars, dots, data=table).properties(width=200, height=alt.Step(19))
    panels = panels.facet(alt.Facet("k:O", header=style.header("k = ")), columns=len(ks))
    return style.figure(
        panels.resolve_scale(x="independent"),
        "Distilled on one network, or for several: the gap of every configuration",
        "Means over seeds with 95 % intervals, in the order of the first method's gaps.",
    )


def _dash(field: str, names: Sequence[str]) -> alt.StrokeDash:
    dashes = {name: DASHES[i // len(style.COLOURS) % len(DASHES)] for i, name in enumerate(names)}
    return alt.StrokeDash(f"{field}:N", scale=style.scale(dashes), title=None)
