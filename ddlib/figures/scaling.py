"""Figures of the scaling law: distilled images, the gap against k, and rival laws."""

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures import style

AIC_EDGE = 20  # a larger difference in AIC is drawn at this edge, as a triangle
MARKS = {"seed": ("circle", 40, 0.45), "mean": ("diamond", 95, 1.0)}  # shape, size, opacity


def distilled_images(pictures: pd.DataFrame) -> alt.FacetChart:
    """Draw one picture per class (columns) and k (rows), one block per method.

    pictures: columns method, k, ipc, class_name and url (a PNG data URL). Raises ValueError if a
    method, k and class have several rows.
    """
    twice = pictures[pictures.duplicated(["method", "k", "class_name"])]
    for row in twice.itertuples():
        place = f"class {row.class_name} for {row.method} at k={row.k}"
        raise ValueError(f"several pictures of {place}; give one")
    classes, methods = (list(pictures[name].unique()) for name in ("class_name", "method"))
    side = int(np.clip((style.WIDTH / min(len(methods), 2) - 80) / len(classes), 24, 64))
    bare = {"domain": False, "ticks": False, "grid": False}
    angle = 0 if max(map(len, classes)) * 7 < side else -45
    x_axis = alt.Axis(orient="top", labelAngle=angle, **bare)
    y_axis = alt.Axis(labelExpr="'k = ' + datum.label", **bare)
    blocks = alt.Chart(pictures).mark_image(width=side - 2, height=side - 2, smooth=False)
    blocks = blocks.encode(
        alt.X("class_name:N", sort=classes, title=None, axis=x_axis),
        alt.Y("k:O", title=None, axis=y_axis),
        alt.Url("url:N"),
        tooltip=style.tips(["class_name:N", "k", "ipc"]),
    ).properties(width=alt.Step(side), height=alt.Step(side))
    blocks = blocks.facet(alt.Facet("method:N", sort=methods, header=style.header()), columns=2)
    return style.figure(
        blocks.resolve_axis(x="independent"),
        "What each method keeps: one image of every class at every size k",
        "k counts the images of all classes; where a class has several, one is shown.",
    )


def gap_against_k(
    gaps: pd.DataFrame, curves: pd.DataFrame, floors: pd.DataFrame, measure_title: str
) -> alt.FacetChart:
    """Draw seeds, means, the curve a/√k + c and its floor on log axes, one panel per method.

    gaps: columns method, k, seed, gap; curves: method, k, gap, low, high; floors: method, outcome
    (of the law), floor, low, high; measure_title: the gap and its unit. A gap that the log axis
    cannot show is a triangle at its lower edge, and the panel's heading counts these.
    """
    x, y, bottom, top = _log_axes(gaps, curves, measure_title)
    ends = curves[["low", "high"]].astype(float).clip(bottom / 10, top * 10)
    curves = curves.assign(**ends, kind="curve")[curves["high"] > 0]
    levels = floors[["method", "floor"]].rename(columns={"floor": "gap"}).assign(kind="floor")
    dots = pd.concat([gaps.assign(kind="seed"), _means(gaps).assign(kind="mean")])
    dots = dots.dropna(subset="gap").rename(columns={"gap": "value"})
    below = dots["value"] < bottom
    dots = dots.assign(gap=dots["value"].mask(below, 1.1 * bottom), below=below)
    colours = style.method_colours(gaps["method"])
    headings = {name: _heading(name, gaps, floors, bottom) for name in colours}
    table = pd.concat(
        [curves, levels, dots[["method", "seed", "k", "gap", "value", "kind", "below"]]]
    )
    table["panel"] = table["method"].map(headings)

    base = alt.Chart().encode(x, y, alt.Color("method:N", scale=style.scale(colours), legend=None))
    curve = base.transform_filter("datum.kind == 'curve'")
    floor = base.transform_filter(f"datum.kind == 'floor' && datum.gap >= {bottom}")
    layers = [
        curve.mark_area(clip=True, opacity=0.16).encode(alt.Y("low:Q").stack(None), alt.Y2("high")),
        curve.transform_filter("datum.gap > 0").mark_line(clip=True),
        floor.mark_rule(strokeDash=[6, 4]).encode(x=alt.value(0), x2=alt.value("width")),
    ]
    for kind, (shape, size, opacity) in MARKS.items():
        marks = base.transform_filter(f"datum.kind == '{kind}'").mark_point(
            filled=True, clip=True, stroke="white", strokeWidth=0.6, size=size, opacity=opacity
        )
        down = alt.when(alt.datum.below).then(alt.value("triangle-down"))
        fields = ["method:N", *["seed"] * (kind == "seed"), "k", "value"]
        shape = down.otherwise(alt.value(shape))
        layers.append(marks.encode(shape=shape, tooltip=style.tips(fields)))
    columns = min(len(colours), 2 if len(colours) in (2, 4) else 3)
    panels = alt.layer(*layers, data=table).add_params(style.zoom())
    panels = panels.properties(width=style.WIDTH // columns - 40, height=220)
    facet = alt.Facet("panel:N", sort=list(headings.values()), header=style.header())
    return style.figure(
        panels.facet(facet, columns=columns),
        "Gap to training on all real data, against the number of distilled images",
        "Log axes. Dots: seeds. Diamonds: means. Line, band and verdict: a/√k + c and its 95 % "
        "interval. Dashes: its floor c, where the axis can show it.",
    )


def rivals(
    gaps: pd.DataFrame, curves: pd.DataFrame, summary: pd.DataFrame, measure_title: str
) -> alt.HConcatChart:
    """Draw the fitted laws with the mean gaps, and beside them the ΔAIC of each law.

    gaps: columns method, k, seed, gap; curves: method, law, k, gap; summary: method, law,
    delta_aic, loo_error, r2, r2_null, identifiable (numbers may be missing).
    """
    x, y, *_ = _log_axes(gaps, curves, measure_title)
    colours, dashes = zip(*style.STYLES.values(), strict=True)
    formulas = [style.FORMULAS[law] for law in style.STYLES]
    colour, dash = (alt.Scale(domain=formulas, range=values) for values in (colours, dashes))
    legend = alt.Legend(orient="top", columns=6, symbolSize=500, symbolStrokeWidth=2, title=None)
    table = pd.concat([curves.assign(formula=curves["law"].map(style.FORMULAS)), _means(gaps)])
    base = alt.Chart().encode(x, y, tooltip=style.tips(["formula:N", "k", "gap"]))
    lines = base.transform_filter("isValid(datum.formula)").mark_line(clip=True, strokeWidth=1.8)
    lines = lines.encode(
        alt.Color("formula:N", scale=colour, legend=legend),
        alt.StrokeDash("formula:N", scale=dash, legend=legend),
    )
    means = base.transform_filter("!isValid(datum.formula)")
    means = means.mark_point(
        shape="diamond", filled=True, color=style.INK, size=95, opacity=1, clip=True
    )
    row = alt.Row(
        "method:N", sort=list(style.method_colours(gaps["method"])), header=style.header()
    )
    left = alt.layer(lines, means, data=table[table["gap"] > 0]).properties(width=370, height=170)
    both = alt.hconcat(left.facet(row=row), _evidence(summary, colour).facet(row=row), spacing=20)
    return style.figure(
        both,
        "Which law describes the gap? Left: mean gap and laws, log axes. Right: ΔAIC, 0 is best",
        "In the grey band (ΔAIC up to 2) a law is as good as the best; beyond 10 it has next to no "
        "support. Hollow: parameters not identifiable.",
    )


def _evidence(summary: pd.DataFrame, colour: alt.Scale) -> alt.LayerChart:
    numbers = summary[["delta_aic", "loo_error", "r2", "r2_null"]].astype(float)
    table = numbers.assign(
        method=summary["method"],
        formula=summary["law"].map(style.FORMULAS),
        identifiable=summary["identifiable"].astype(bool),
        text=[style.number(delta, ".1f", "no AIC") for delta in numbers["delta_aic"]],
    )
    x = alt.X(
        "delta_aic:Q",
        scale=alt.Scale(domain=[-1, AIC_EDGE], nice=False, clamp=True),
        axis=alt.Axis(values=[0, 2, 5, 10, 15, 20]),
        title="ΔAIC to the best law",
    )
    bare = alt.Axis(domain=False, ticks=False)
    base = alt.Chart().encode(alt.Y("formula:N", sort=colour.domain, title=None, axis=bare))
    far, certain = alt.when(alt.datum.delta_aic > AIC_EDGE), alt.when(alt.datum.identifiable)
    dots = base.transform_filter("isValid(datum.delta_aic)").mark_point(size=90, opacity=1)
    dots = dots.encode(
        x,
        alt.Stroke("formula:N", scale=colour, legend=None),
        alt.Fill("formula:N", scale=colour, legend=None),
        shape=far.then(alt.value("triangle-right")).otherwise(alt.value("circle")),
        fillOpacity=certain.then(alt.value(1)).otherwise(alt.value(0)),
        tooltip=style.tips(["formula:N", "delta_aic", "loo_error", "r2", "r2_null"]),
    )
    good = alt.Chart().mark_rect(color="#EEEEEE").encode(alt.XDatum(-1), alt.X2Datum(2))
    text = base.mark_text(align="left").encode(alt.Text("text:N"), x=alt.value(250))
    return alt.layer(good, dots, text, data=table).properties(width=240, height=170)


def _log_axes(
    gaps: pd.DataFrame, curves: pd.DataFrame, measure_title: str
) -> tuple[alt.X, alt.Y, float, float]:
    """Return the axes of k and gap, and the ends of the gap axis, which may omit gaps near zero."""
    seeds, means = (table.loc[table["gap"] > 0, "gap"] for table in (gaps, _means(gaps)))
    top = 1.3 * seeds.max() if len(seeds) else 1.0
    bottom = max(seeds.min(), means.min() / 5) / 1.25 if len(means) else top / 100
    log = alt.Scale(type="log", domain=[bottom, top], nice=False)
    axis = alt.Axis(values=style.log_ticks(bottom, top), format="~g", labelOverlap=True)
    y = alt.Y("gap:Q", scale=log, axis=axis, title=measure_title)
    return style.k_axis(pd.concat([gaps["k"], curves["k"]]), gaps["k"]), y, bottom, top


def _means(gaps: pd.DataFrame) -> pd.DataFrame:
    return gaps.groupby(["method", "k"], sort=False, as_index=False)["gap"].mean().dropna()


def _heading(method: str, gaps: pd.DataFrame, floors: pd.DataFrame, bottom: float) -> str:
    """Return the verdict on the law, its floor, and the number of trials the panel cannot show."""
    gap = gaps.loc[gaps["method"] == method, "gap"]
    judged = floors.set_index("method").loc[method]
    heading = f"{method}: {judged['outcome']}"
    if not np.isnan(judged["floor"]):
        ends = (style.number(judged[end], ".2g") for end in ("floor", "low", "high"))
        heading += "\nfloor {} ({} to {})".format(*ends)
    heading += f"\n{len(gap)} trials"
    if missing := gap.isna().sum():
        heading += f", {missing} without a gap"
    if below := (gap < bottom).sum():
        heading += f", ▼ {below} below the axis ({(gap <= 0).sum()} ≤ 0)"
    return heading
