"""Figures of the scaling law: the gap against k, and rival laws."""

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures import style
from ddlib.stats import verdicts
from ddlib.stats.laws import Fits

AIC_EDGE = 20  # a larger difference in AIC is drawn at this edge, as a triangle


def gap_against_k(
    trials: pd.DataFrame, fits: dict[str, Fits], measure: str, title: str
) -> alt.FacetChart:
    """Draw seeds, means, the curve a/√k + c and its floor on log axes, one panel per method.

    trials: columns method, k, seed and the measure, such as gap_error; fits: of this measure, by
    method; title: the gap and its unit. A gap that the log axis cannot show is a triangle at its
    lower edge, and the panel's heading counts these. A curve that fails has no floor. Several
    networks of a seed are averaged.
    """
    gaps, curves = _drawn(trials, fits, measure)
    curves = curves[curves["law"] == "inverse_sqrt"]
    x, y, bottom, top = log_axes(gaps, curves, title)
    floors = [
        (name, laws["inverse_sqrt"].parameters["c"].estimate)
        for name, laws in fits.items()
        if verdicts.verdict(laws).survives
    ]
    colours = style.method_colours(gaps["method"])
    ends = curves[["low", "high"]].astype(float).clip(bottom / 10, top * 10)
    curves = curves.assign(**ends, kind="curve")[curves["high"].fillna(curves["gap"]) > 0]
    levels = pd.DataFrame(floors, columns=["method", "gap"]).assign(kind="floor")
    dots = pd.concat([
        gaps.dropna(subset="gap").assign(kind="seed", shape="circle", size=40, opacity=0.45),
        _means(gaps).assign(kind="mean", shape="diamond", size=95, opacity=1),
    ])  # fmt: skip
    dots, below = dots.assign(value=dots["gap"]), dots["gap"] < bottom
    dots["gap"] = dots["gap"].mask(below, 1.1 * bottom)
    dots["shape"] = dots["shape"].mask(below, "triangle-down")
    headings = {name: _heading(name, fits[name], trials, measure, bottom) for name in colours}
    panels = pd.DataFrame({"method": list(colours)})  # also of a method without a gap
    table = pd.concat([curves, levels, dots, panels])
    table["panel"] = table["method"].map(headings)

    base = alt.Chart().encode(x, y, alt.Color("method:N", scale=style.scale(colours), legend=None))
    curve = base.transform_filter("datum.kind == 'curve'")
    floor = base.transform_filter(f"datum.kind == 'floor' && datum.gap >= {bottom}")
    marks = base.transform_filter("isValid(datum.shape)").encode(
        alt.Shape("shape:N", scale=None),
        alt.Size("size:Q", scale=None),
        alt.Opacity("opacity:Q", scale=None),
        tooltip=style.tips("method:N", "kind:N", "k", "seed", "value"),
    )
    layers = [
        curve.mark_area(clip=True, opacity=0.16).encode(alt.Y("low:Q").stack(None), alt.Y2("high")),
        curve.transform_filter("datum.gap > 0").mark_line(clip=True),
        floor.mark_rule(strokeDash=[6, 4]).encode(x=alt.value(0), x2=alt.value("width")),
        marks.mark_point(filled=True, clip=True, stroke="white", strokeWidth=0.6),
    ]
    columns = min(len(colours), 2 if len(colours) in (2, 4) else 3)
    chart = alt.layer(*layers, data=table, width=style.WIDTH // columns - 40, height=220)
    chart = chart.add_params(style.zoom())
    return style.figure(
        style.panels(chart, "panel", headings.values(), columns),
        "Gap to training on all real data, against the number of distilled samples",
        "Log axes. Dots: seeds. Diamonds: means. Line, band and verdict: a/√k + c and its 95 % "
        "interval. Dashes: its floor c, where the axis can show it.",
    )


def rivals(
    trials: pd.DataFrame, fits: dict[str, Fits], measure: str, title: str
) -> alt.HConcatChart:
    """Draw the fitted laws with the mean gaps, and beside them the ΔAIC of each law.

    The arguments are those of `gap_against_k`.
    """
    gaps, curves = _drawn(trials, fits, measure)
    x, y, bottom, _ = log_axes(gaps, curves, title)
    means = _means(gaps)
    below = (means["gap"] < bottom).sum()
    lost = f"Not drawn: {below} of {len(means)} means, at or below 0 or below the axis."
    colours, dashes = style.scale(style.LAW_COLOURS), style.scale(style.LAW_DASHES)
    legend = alt.Legend(orient="top", columns=6, symbolSize=500, symbolStrokeWidth=2, title=None)
    table = pd.concat([curves.assign(formula=curves["law"].map(style.FORMULAS)), means])
    base = alt.Chart().encode(x, y, tooltip=style.tips("formula:N", "k", "gap"))
    lines = base.transform_filter("isValid(datum.formula)").mark_line(clip=True, strokeWidth=1.8)
    lines = lines.encode(
        alt.Color("formula:N", scale=colours, legend=legend),
        alt.StrokeDash("formula:N", scale=dashes, legend=legend),
    )
    dots = base.transform_filter("!isValid(datum.formula) && isValid(datum.gap)").mark_point(
        shape="diamond", filled=True, color=style.INK, size=95, opacity=1, clip=True
    )
    methods = list(gaps["method"].unique())
    table = pd.concat([table[table["gap"] > 0], pd.DataFrame({"method": methods})])  # all panels
    left = alt.layer(lines, dots, data=table, width=370, height=170)
    left = style.panels(left, "method", methods, columns=1)
    right = style.panels(_evidence(verdicts.summary(fits), colours), "method", methods, columns=1)
    return style.figure(
        alt.hconcat(left, right, spacing=20),
        "Which law describes the gap? Left: mean gap and laws, log axes. Right: ΔAIC, 0 is best",
        "In the grey band (ΔAIC up to 2) a law is as good as the best; beyond 10 it has next to no "
        "support. Hollow: parameters not identifiable.",
        *[lost] * bool(below),
    )


def _evidence(summary: pd.DataFrame, colours: alt.Scale) -> alt.LayerChart:
    table = summary[["method", "identifiable", "loo_error", "r2", "r2_null"]].assign(
        formula=summary["law"].map(style.FORMULAS),
        delta_aic=summary["delta_aic"].astype(float),
        text=[f"{delta:.1f}" if pd.notna(delta) else "no AIC" for delta in summary["delta_aic"]],
        shape=np.where(summary["delta_aic"].fillna(0) > AIC_EDGE, "triangle-right", "circle"),
        filled=summary["identifiable"].astype(float),
    )
    ends = alt.Scale(domain=[-1, AIC_EDGE], nice=False, clamp=True)
    ticks, bare = alt.Axis(values=[0, 2, 5, 10, 15, 20]), alt.Axis(domain=False, ticks=False)
    base = alt.Chart().encode(alt.Y("formula:N", sort=colours.domain, title=None, axis=bare))
    dots = base.transform_filter("isValid(datum.delta_aic)").mark_point(size=90, opacity=1)
    dots = dots.encode(
        alt.X("delta_aic:Q", scale=ends, axis=ticks, title="ΔAIC to the best law"),
        alt.Stroke("formula:N", scale=colours, legend=None),
        alt.Fill("formula:N", scale=colours, legend=None),
        alt.Shape("shape:N", scale=None),
        alt.FillOpacity("filled:Q", scale=None),
        tooltip=style.tips("formula:N", "delta_aic", "loo_error", "r2", "r2_null"),
    )
    good = alt.Chart().mark_rect(color="#EEEEEE").encode(alt.XDatum(-1), alt.X2Datum(2))
    text = base.mark_text(align="left").encode(alt.Text("text:N"), x=alt.value(250))
    return alt.layer(good, dots, text, data=table, width=240, height=170)


def log_axes(
    gaps: pd.DataFrame, curves: pd.DataFrame, measure_title: str
) -> tuple[alt.X, alt.Y, float, float]:
    """Return the axes of k and gap, and the ends of the gap axis, which may omit gaps near zero."""
    seeds, means = (table.loc[table["gap"] > 0, "gap"] for table in (gaps, _means(gaps)))
    top = 1.3 * seeds.max() if len(seeds) else 1.0
    bottom = max(seeds.min(), means.min() / 5) / 1.25 if len(means) else top / 100
    y = style.log_axis(alt.Y, "gap", bottom, top, measure_title)
    return style.k_axis(pd.concat([gaps["k"], curves["k"]]), gaps["k"]), y, bottom, top


def _means(gaps: pd.DataFrame) -> pd.DataFrame:
    return gaps.groupby(["method", "k"], sort=False, as_index=False)["gap"].mean().dropna()


def _drawn(
    trials: pd.DataFrame, fits: dict[str, Fits], measure: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the mean gap of each seed, and the fitted curves up to twice the largest k."""
    gaps = trials.rename(columns={measure: "gap"})
    gaps = gaps.groupby(["method", "k", "seed"], sort=False, as_index=False)["gap"].mean()
    return gaps, verdicts.curves(fits, np.geomspace(gaps["k"].min(), 2 * gaps["k"].max(), 60))


def _heading(method: str, fits: Fits, trials: pd.DataFrame, measure: str, bottom: float) -> str:
    """Return the verdict on the law, its floor, and how many gaps the panel cannot show."""
    trials, judged = trials[trials["method"] == method], verdicts.verdict(fits)
    gap = trials.groupby(["k", "seed"])[measure].mean()
    heading = f"{method}: {judged.outcome}"
    if judged.survives:
        heading += f"\nfloor {fits['inverse_sqrt'].parameters['c']:.2g}"
    heading += f"\n{len(trials)} trials"
    if missing := trials[measure].isna().sum():
        heading += f", {missing} without a gap"
    if below := (gap < bottom).sum():
        heading += f", ▼ {below} below the axis ({(gap <= 0).sum()} ≤ 0)"
    return heading
