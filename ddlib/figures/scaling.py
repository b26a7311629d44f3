"""The figures of the scaling law: distilled images, the gap against k, and rival laws."""

from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures.style import (
    CONFIG,
    FAINT,
    FORMULAS,
    INK,
    STYLES,
    WIDTH,
    k_axis,
    log_ticks,
    method_colours,
    number,
    tips,
    zoom,
)

AIC_EDGE = 20  # larger differences in AIC are drawn at this edge, with their value


class LogAxes(NamedTuple):
    """The two logarithmic axes that all panels of a figure share, and the range of gaps shown."""

    x: alt.X
    y: alt.Y
    bottom: float
    top: float


def distilled_images(pictures: pd.DataFrame) -> alt.ConcatChart:
    """Draw one picture for every class (columns) and k (rows), one block a method.

    `pictures` has columns method, k, ipc, class_name and url (a PNG data URL), at most one row
    for each method, k and class. Raises ValueError where there are more.
    """
    key = ["method", "k", "class_name"]
    if pictures.duplicated(key).any():
        method, k, name = pictures.loc[pictures.duplicated(key), key].iloc[0]
        raise ValueError(f"several pictures of class {name} for {method} at k={k}; give one")
    classes = list(pictures["class_name"].unique())
    colours = method_colours(pictures["method"])
    side = int(np.clip((WIDTH / min(len(colours), 2) - 80) / len(classes), 24, 64))
    angle = 0 if max(map(len, classes)) * 7 < side else -45
    bare = {"domain": False, "ticks": False, "grid": False}
    top = {"orient": "top", "labelAngle": angle, **bare}
    x = alt.X("class_name:N", sort=classes, title=None, axis=top)
    blocks = []
    for method, colour in colours.items():
        block = pictures[pictures["method"] == method].sort_values("k", kind="stable")
        block = block.assign(row=[f"k = {k}" for k in block["k"]])
        y = alt.Y("row:N", sort=list(block["row"].unique()), title=None, axis=bare)
        images = alt.Chart(block, title=alt.Title(method, color=colour))
        images = images.mark_image(width=side - 2, height=side - 2, smooth=False)
        images = images.encode(x, y, url="url:N", tooltip=tips(["class_name:N", "k", "ipc"]))
        blocks.append(images.properties(width=alt.Step(side), height=alt.Step(side)))
    title = alt.Title(
        "What each method keeps: one image of every class at every size k",
        subtitle="k counts the images of all classes; where a class has several, one is shown.",
    )
    return alt.concat(*blocks, columns=2, spacing=20, title=title).configure(**CONFIG)


def gap_against_k(
    gaps: pd.DataFrame, curves: pd.DataFrame, floors: pd.DataFrame, measure_title: str
) -> alt.ConcatChart:
    """Draw the gap against k on log axes: seeds, mean, fitted a k^-1/2 + c, band and floor c.

    `gaps` has columns method, k, seed, gap; `curves` method, k, gap, low, high; `floors` as
    of `ddlib.stats.laws.floors`. `measure_title` names the gap and its unit. Gaps that a log axis
    cannot show are marked at its lower edge and counted under the method's name.
    """
    axes = _log_axes(gaps, curves, floors["floor"].dropna().tolist(), measure_title)
    colours = method_colours(gaps["method"])
    columns = min(len(colours), 2 if len(colours) in (2, 4) else 3)
    floors = floors.set_index("method").reindex(list(colours))
    panels = []
    for i, (method, colour) in enumerate(colours.items()):
        seeds, curve = (t[t["method"] == method] for t in (gaps, curves))
        ends = floors.loc[method, ["floor", "low", "high"]].to_numpy(float)
        dots = _points(seeds, axes, "circle", 0.03, fill=colour, opacity=0.45, size=40)
        layers = [*_curve_with_band(curve, axes, colour), *_floor(ends[0], axes, colour), dots]
        heading = alt.Title(
            method, color=colour, subtitle=_account(seeds, floors.loc[method], axes.bottom)
        )
        panel = alt.layer(*layers, _means(seeds, axes, colour)).add_params(zoom(i))
        panels.append(panel.properties(width=WIDTH // columns - 60, height=250, title=heading))
    title = alt.Title(
        "Gap to training on all real data, against the number of distilled images",
        subtitle="Dots: seeds. Diamonds: their mean. Line and band: a/√k + c and its interval. "
        "Dashes: the floor c. Ctrl + wheel zooms, a double click resets.",
    )
    return alt.concat(*panels, columns=columns, title=title).configure(**CONFIG)


def rivals(
    gaps: pd.DataFrame, curves: pd.DataFrame, summary: pd.DataFrame, measure_title: str
) -> alt.VConcatChart:
    """Draw every law's curve through the mean gap and beside it how far each is from the best.

    `gaps` has columns method, k, seed, gap; `curves` method, law, k, gap; `summary` method, law,
    delta_aic, loo_error, r2, r2_null, identifiable (numbers may be missing).
    """
    axes = _log_axes(gaps, curves, [], measure_title)
    rows = []
    for i, (method, colour) in enumerate(method_colours(gaps["method"]).items()):
        seeds, curve, fits = (t[t["method"] == method] for t in (gaps, curves, summary))
        lines = alt.layer(_law_lines(curve, axes), _means(seeds, axes, INK)).add_params(zoom(i))
        lines = lines.properties(width=340, height=190, title=alt.Title(method, color=colour))
        rows.append(alt.hconcat(lines, _evidence(fits), spacing=30))
    title = alt.Title(
        "Which law describes the gap? Left: mean gap and fitted laws. Right: ΔAIC, 0 is best",
        subtitle="Within the grey band (ΔAIC up to 2) a law is as good as the best; beyond 10 it "
        "has next to no support. Hollow: parameters not identifiable.",
    )
    return alt.vconcat(*rows, title=title).configure(**CONFIG)


def _log_axes(
    gaps: pd.DataFrame, curves: pd.DataFrame, floors: list[float], measure_title: str
) -> LogAxes:
    seeds, means = (t.loc[t["gap"] > 0, "gap"] for t in (gaps, _mean(gaps)))
    top = 1.3 * seeds.max() if len(seeds) else 1.0
    # One seed or floor next to zero must not squeeze all gaps into a corner: it goes off the axis.
    reach = means.min() / 5 if len(means) else top / 100
    least = min([*seeds, *(floor for floor in floors if floor >= reach)], default=reach)
    bottom = max(least, reach) / 1.25
    y_scale = alt.Scale(type="log", domain=[bottom, top], nice=False)
    y_axis = alt.Axis(values=log_ticks(bottom, top), format="~g", labelOverlap=True)
    y = alt.Y("gap:Q", scale=y_scale, axis=y_axis, title=f"{measure_title}, log scale")
    return LogAxes(k_axis(pd.concat([gaps["k"], curves["k"]]), gaps["k"]), y, bottom, top)


def _mean(gaps: pd.DataFrame) -> pd.DataFrame:
    return gaps.groupby(["method", "k"], sort=False, as_index=False)["gap"].mean().dropna()


def _account(gaps: pd.DataFrame, judged: pd.Series, bottom: float) -> list[str]:
    """Say the verdict, and what the panel cannot show: an interval, gaps below the axis or none."""
    heading = f"a/√k + c: {judged['outcome']}"
    if not np.isnan(judged["floor"]):
        value, low, high = (number(judged[end], ".2g") for end in ("floor", "low", "high"))
        where = "" if judged["floor"] >= bottom else ", below the axis"
        heading = f"{heading}, floor {value} ({low} to {high}){where}"
    below, zero = (gaps["gap"] < bottom).sum(), (gaps["gap"] <= 0).sum()
    parts = [f"{len(gaps)} trials"]
    if missing := gaps["gap"].isna().sum():
        parts.append(f"{missing} without a gap")
    if below:
        parts.append(f"▼ {below} below the axis ({zero} ≤ 0)")
    return [heading, ", ".join(parts)]


def _points(table: pd.DataFrame, axes: LogAxes, shape: str, lift: float, **mark) -> alt.Chart:
    """Draw every gap: where it is, or, below the axis, as a triangle `lift` above its edge."""
    table = table.dropna(subset="gap").rename(columns={"gap": "value"})
    below, edge = table["value"] < axes.bottom, axes.bottom * (axes.top / axes.bottom) ** lift
    table = table.assign(gap=table["value"].mask(below, edge), below=below)
    down = alt.when(alt.datum.below).then(alt.value("triangle-down"))
    shown = tips([*table.columns.intersection(["seed"]), "k", "value"])
    marks = alt.Chart(table).mark_point(clip=True, stroke="white", strokeWidth=0.6, **mark)
    return marks.encode(axes.x, axes.y, shape=down.otherwise(alt.value(shape)), tooltip=shown)


def _means(gaps: pd.DataFrame, axes: LogAxes, colour: str) -> alt.Chart:
    return _points(_mean(gaps), axes, "diamond", 0.08, fill=colour, opacity=1, size=95)


def _curve_with_band(curve: pd.DataFrame, axes: LogAxes, colour: str) -> list[alt.Chart]:
    # A log axis has no place for zero or below: the line stops there, the band is cut at the edge.
    ends = curve[["low", "high"]].astype(float).clip(axes.bottom / 10, axes.top * 10)
    band = ends.assign(k=curve["k"], gap=ends["low"])[curve["high"] > 0]
    area = alt.Chart(band).mark_area(clip=True, color=colour, opacity=0.16)
    line = alt.Chart(curve[curve["gap"] > 0]).mark_line(clip=True, color=colour, strokeWidth=2)
    return [
        area.encode(axes.x, axes.y.stack(None), alt.Y2("high:Q")),
        line.encode(axes.x, axes.y, tooltip=tips(["k", "gap", "low", "high"])),
    ]


def _floor(floor: float, axes: LogAxes, colour: str) -> list[alt.Chart]:
    if not floor >= axes.bottom:
        return []  # the panel's heading tells what the axis cannot show
    at = alt.Chart(pd.DataFrame({"gap": [floor], "label": ["floor"]}))
    rule = at.mark_rule(strokeDash=[6, 4], color=colour, clip=True)
    text = at.mark_text(align="left", baseline="bottom", dx=5, dy=-3, color=colour)
    return [rule.encode(axes.y), text.encode(axes.y, x=alt.value(0), text="label:N")]


def _law_lines(curves: pd.DataFrame, axes: LogAxes) -> alt.Chart:
    labels = [FORMULAS[law] for law in STYLES]
    colours, dashes = zip(*STYLES.values(), strict=True)
    legend = alt.Legend(orient="top", columns=6, symbolSize=500, symbolStrokeWidth=2, title=None)
    table = curves[curves["gap"] > 0].assign(label=lambda t: t["law"].map(FORMULAS))
    lines = alt.Chart(table).mark_line(clip=True, strokeWidth=1.8)
    return lines.encode(
        axes.x,
        axes.y,
        alt.Color("label:N", scale=alt.Scale(domain=labels, range=colours), legend=legend),
        alt.StrokeDash("label:N", scale=alt.Scale(domain=labels, range=dashes), legend=legend),
        tooltip=tips(["label:N", "k", "gap"]),
    )


def _evidence(summary: pd.DataFrame) -> alt.LayerChart:
    """Draw each law's ΔAIC with its value; in columns beside it the errors and R²."""
    width = 215
    axis, bare = alt.Axis(values=[0, 2, 5, 10, 15, 20]), alt.Axis(domain=False, ticks=False)
    scale = alt.Scale(domain=[-0.06 * AIC_EDGE, 1.06 * AIC_EDGE], nice=False)
    x = alt.X("shown:Q", scale=scale, axis=axis, title="ΔAIC to the best law")
    y = alt.Y("label:N", sort=[FORMULAS[law] for law in STYLES], title=None, axis=bare)
    good = alt.Chart(pd.DataFrame({"shown": [-0.06 * AIC_EDGE], "to": [2]}))
    rows, far = alt.Chart(_evidence_table(summary)), alt.datum.far
    dots = rows.transform_filter("isValid(datum.delta_aic)").mark_point(size=90, opacity=1)
    stroke, fill = alt.Stroke("ink:N", scale=None), alt.Fill("fill:N", scale=None)
    shape = alt.when(far).then(alt.value("triangle-right")).otherwise(alt.value("circle"))
    shown = tips(["label:N", "delta_aic", "loo_error", "r2", "r2_null"])
    layers = [
        good.mark_rect(color="#EEEEEE").encode(x, alt.X2("to:Q")),
        dots.encode(x, y, stroke, fill, shape=shape, tooltip=shown),
    ]
    for test, align, dx in ((far, "right", -9), (~far, "left", 9)):
        text = rows.transform_filter(test).mark_text(align=align, dx=dx)
        layers.append(text.encode(x, y, text="value:N"))
    columns = ("loo", 38, "error at a|left-out k"), ("fit", 108, "R² (median|under null)")
    for field, right, head in columns:
        place = alt.value(width + right)
        layers.append(rows.mark_text().encode(y, x=place, text=f"{field}:N"))
        head = alt.Chart(pd.DataFrame({"head": [head]})).mark_text(lineBreak="|", color=FAINT)
        layers.append(head.encode(x=place, y=alt.value(-22), text="head:N"))
    return alt.layer(*layers).properties(width=width, height=190)


def _evidence_table(summary: pd.DataFrame) -> pd.DataFrame:
    numbers = summary[["delta_aic", "loo_error", "r2", "r2_null"]].astype(float)
    ink = summary["law"].map({law: colour for law, (colour, _) in STYLES.items()})
    pairs = zip(numbers["r2"], numbers["r2_null"], strict=True)
    return numbers.assign(
        label=summary["law"].map(FORMULAS),
        shown=numbers["delta_aic"].clip(upper=AIC_EDGE).fillna(0),
        far=numbers["delta_aic"] > AIC_EDGE,
        value=[number(delta, ".1f", "no AIC") for delta in numbers["delta_aic"]],
        ink=ink,
        fill=ink.where(summary["identifiable"].astype(bool), "white"),
        loo=[number(error, "#.2g") for error in numbers["loo_error"]],
        fit=[f"{number(r2, '.3f')} ({number(null, '.2f')})" for r2, null in pairs],
    )
