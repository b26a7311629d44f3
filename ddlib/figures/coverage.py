"""Figures of the coverage law: gaps by configuration, the map, H_cov, k*, and transfer."""

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures import style
from ddlib.stats.intervals import student
from ddlib.stats.regressions import FEWEST

GAP_TITLE = "gap in error"  # balanced, if the study's measure is
SHAPES = ("circle", "square", "diamond", "cross")
ROLES = {"centre of a ball": style.COLOURS[1], "covered": style.COLOURS[0]}
ROLES["not in the family"] = "white"
K_STAR_SHAPES = {"measured": "circle", "above": "triangle-up", "below": "triangle-down"}


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
    dashes = {name: [5, 2] if i >= len(style.COLOURS) else [1, 0] for i, name in enumerate(names)}
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


def configuration_map(points: pd.DataFrame, share: float, radius: float) -> alt.LayerChart:
    """Draw the configurations in the plane with the balls of a smallest cover.

    points: see `cover_map`; share: of the distances' variance that the plane shows.
    """
    return style.figure(
        cover_map(points, radius).properties(width=560, height=560),
        f"{points['centre'].nunique()} balls of radius {radius:.2g} cover {len(points)} "
        "configurations",
        f"The plane shows {share:.0%} of the distances' variance, so a ball may look too wide or "
        "too narrow. A line joins each member to its centre.",
    )


def cover_map(points: pd.DataFrame, radius: float) -> alt.LayerChart:
    """Draw configurations, the balls of a cover, and lines from members to their centres.

    points: index configuration, columns x, y, centre (of the ball that holds it; missing outside
    the family). Names of neighbours are at different heights, so that they do not overlap.
    """
    centre, covered, outside = ROLES
    table = points.rename_axis("configuration").reset_index()
    central, inside = table["configuration"].isin(table["centre"]), table["centre"].notna()
    height = table["x"].rank(method="first").astype(int) % 4
    table = table.assign(
        role=np.select([central, inside], [centre, covered], outside), height=height
    )
    centres = table.loc[central, ["configuration", "x", "y"]].rename(
        columns={"configuration": "ball"}
    )
    spokes = table.merge(centres, left_on="centre", right_on="ball", suffixes=("", "2"))
    angles = np.linspace(0, 2 * np.pi, 49)
    circle = pd.DataFrame({"order": angles, "dx": np.cos(angles), "dy": np.sin(angles)})
    balls = centres.merge(circle, how="cross")
    balls = balls.assign(x=balls["x"] + radius * balls["dx"], y=balls["y"] + radius * balls["dy"])

    reach = 1.25 * max(float(points[["x", "y"]].abs().to_numpy().max()), 1e-9)
    looks = {"axis": alt.Axis(format=".2~g", tickCount=5), "title": None}
    looks["scale"] = alt.Scale(domain=[-reach, reach], nice=False)
    x, y = alt.X("x:Q", **looks), alt.Y("y:Q", **looks)
    fill = alt.Fill("role:N", scale=style.scale(ROLES), title=None).legend(orient="bottom")
    ball = {"fill": ROLES[centre], "fillOpacity": 0.06, "color": ROLES[centre], "clip": True}
    ball = alt.Chart(balls).mark_line(**ball).encode(x, y, detail="ball:N", order="order:Q")
    spoke = alt.Chart(spokes[["x", "y", "x2", "y2"]]).mark_rule(color=ROLES[centre], opacity=0.5)
    named = alt.Chart(table).encode(x, y, tooltip=style.tips("configuration:N", "role:N"))
    dots = named.mark_point(size=100, filled=True, stroke=style.INK, strokeWidth=1, opacity=1)
    names = named.mark_text(color=style.INK, dy=alt.expr("[-13, 14, -25, 26][datum.height]"))
    return alt.layer(
        ball,
        spoke.encode(x, y, alt.X2("x2:Q"), alt.Y2("y2:Q")),
        dots.encode(fill),
        names.encode(text="configuration:N"),
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
    curves: pd.DataFrame, floor: float, radii: Sequence[float], end: float, rule: str
) -> alt.LayerChart:
    """Draw H_cov(r) of families up to the radius `end`; rule: the colour of lines at `radii`."""
    last = curves.groupby("family", sort=False).tail(1).assign(radius=end)
    names = curves["family"].unique()
    x = alt.X("radius:Q", scale=alt.Scale(domain=[0, end], nice=False), title="radius r")
    y = alt.Y("h_cov:Q", title="H_cov(r) = ln N(r), nats")
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
    title}; groups: family -> its series or group. A triangle marks a k* beyond the measured sizes,
    a dash the raw k*, a hollow mark a family that lost seeds or sizes. A line is the least-squares
    fit of ln k*, whose R² the sentences give, if FEWEST families have a measured k*. The subtitle
    names families without k*.
    """
    named = measures[[*predictors]].rename(columns=predictors).rename_axis("family").reset_index()
    unknown = k_stars[k_stars["k_star"].isna()]
    lost = [f"{row.family} (ε = {row.epsilon:g})" for row in unknown.itertuples()]
    table = k_stars.dropna(subset="k_star").merge(named.melt("family", var_name="predictor"))
    table = table.assign(
        group=table["family"].map(groups),
        place=table["censored"].str.partition(" ")[0].replace("", "measured"),
        low=table["low"].clip(lower=table[["k_star", "raw"]].min(axis=None)),
        high=table["high"].clip(upper=table[["k_star", "raw"]].max(axis=None)),
        whole=1.0 * (table[["missing_seeds", "missing_sizes"]].sum(axis=1) == 0),
        panel="ε = " + table["epsilon"].map("{:g}".format) + ": k* against " + table["predictor"],
    )
    table["fitted"] = np.nan
    for _, rows in table.groupby("panel"):
        if (rows["censored"] == "").sum() >= FEWEST and rows["value"].nunique() > 1:
            line = np.polynomial.Polynomial.fit(rows["value"], np.log(rows["k_star"]), 1)
            table.loc[rows.index, "fitted"] = np.exp(line(rows["value"]))
    colour = style.colour("group", table["group"].unique())
    fields = ["family:N", "k_star", "low", "high", "raw", "censored:N", "seeds"]
    scale, title = alt.Scale(type="log", nice=False, padding=8), "k* (log scale)"
    y = {
        name: alt.Y(f"{name}:Q", scale=scale, title=title)
        for name in ("low", "raw", "k_star", "fitted")
    }
    x = alt.X("value:Q", title=None, scale=alt.Scale(zero=False, padding=12))
    base = alt.Chart().encode(x, colour)
    base = base.encode(tooltip=style.tips(*fields, "missing_seeds", "missing_sizes"))
    raw = base.mark_tick(orient="horizontal", size=14, thickness=1.5)
    layers = [
        alt.Chart().mark_line(color=style.INK, strokeDash=[4, 3]).encode(x, y["fitted"]),
        base.mark_rule(opacity=0.5).encode(y["low"], alt.Y2("high")),
        raw.encode(y["raw"]),
        base.mark_point(size=70, opacity=1).encode(
            y["k_star"],
            alt.Shape("place:N", scale=style.scale(K_STAR_SHAPES), title=None),
            alt.Fill("group:N", scale=colour["scale"], legend=None),
            alt.FillOpacity("whole:Q", scale=None, legend=None),
        ),
    ]
    chart = alt.layer(*layers, data=table, width=230, height=230)
    chart = style.panels(chart, "panel", table["panel"].unique(), columns=len(predictors))
    return style.figure(
        chart.resolve_scale(x="independent"),
        "Does H_cov say how many samples a family needs?",
        "One mark a family, with the 95 % interval over seeds; dash: from the raw worst gap.",
        "Dashes: line of ln k*. Triangle: beyond the measured sizes. Hollow: lost seeds or sizes.",
        *[f"No k* for missing trials: {', '.join(lost)}."] * bool(lost),
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
    order = alt.Scale(domain=list(means.sort_values().index))
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
