"""The pictures of the explorers: a choice of results, drawn from tables alone.

They are drawn at every move of a slider, so a picture is a Vega-Lite specification in two parts:
its frame, which Altair builds once, with names such as "@methods" in the place of what a choice
decides; and its tables, put beside it by name.
"""

import json
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures.coverage import named_dots, place_names, plane, reach
from ddlib.figures.style import (
    CONFIG,
    FAINT,
    FORMULAS,
    INK,
    STYLES,
    method_colours,
    size_axis,
    tips,
)

LEFT, RIGHT = 470, 215  # widths of the panels; with their axes they fit beside JupyterLab's sidebar
SHEET, ACROSS = (240, 130), 3  # place of a sheet of distilled images, and sheets in a row
MEMBER, CENTRE = "#0072B2", "#D55E00"
ROLES = {"centre of a ball": CENTRE, "covered": MEMBER, "not in the family": "#FFFFFF"}
SIZE = "distilled images, k (log scale)"
MOST_IPC = 2000  # images per class that a plan's axis shows
SATURATED = {"shape": "triangle-down", "size": 110, "filled": True, "clip": True, "opacity": 1}
SATURATION = ["method:N", "law:N", "k_sat"]
Spec = dict[str, Any]


def message(text: str) -> Spec:
    """Draw a sentence in the place of a picture that a choice has no data for."""
    words = _on("text").mark_text(fontSize=14, color=INK).encode(text="text:N")
    panel = _panel(words.properties(width=LEFT + RIGHT, height=120))
    return _frame([panel]) | {"datasets": {"text": [{"text": text}]}}


def ipc_view(
    gaps: pd.DataFrame,
    curves: pd.DataFrame,
    numbers: pd.DataFrame,
    sheets: pd.DataFrame,
    now: tuple[int, float],
    measure_title: str,
    heading: tuple[str, str],
) -> Spec:
    """Draw gaps with fitted curves, the gain of the next image, and what was distilled.

    gaps: method, k, seed, gap; curves: method, law, k, gap, low, high (of a band, if there is
    one), gain (where it is to be drawn); numbers: method, law, k, gap, gain, k_sat, gap_sat, the
    last two where there is a saturation point; sheets: method, ipc, url; now: k, and the gain at
    which k_sat is; heading: title and subtitle.
    """
    curves = curves.assign(label=curves["law"].map(FORMULAS))
    saturated = numbers.dropna(subset="gap_sat")
    row, column = np.divmod(np.arange(len(sheets)), ACROSS)
    tables = {
        "gaps": gaps,
        "curves": curves,
        "band": curves.dropna(subset="low"),
        "here": numbers,
        "now": pd.DataFrame({"k": [now[0]], "gain": [now[1]]}),
        "saturated": saturated.assign(k=saturated["k_sat"], gap=saturated["gap_sat"], gain=now[1]),
        "gains": curves[curves["gain"] > 0],
        "gain": numbers[numbers["gain"] > 0],
        "sheets": sheets.assign(left=column * SHEET[0], top=row * SHEET[1]),  # in pixels
    }
    ks = sorted(gaps["k"].unique().tolist())
    # The ends depend on what is chosen and not on the slider, so that dragging moves the mark.
    bottom = np.nanmin([0.0, gaps["gap"].min(), curves["gap"].min()])
    top = 1.05 * np.nanmax([gaps["gap"].max(), curves["gap"].max()])
    laws = dict.fromkeys(curves["law"])
    chosen = _coloured(gaps["method"]) | {
        "@ks": ks,
        "@first": ks[0] / 1.1,
        "@last": 2.1 * ks[-1],
        "@bottom": float(bottom),
        "@top": float(top),
        "@measure": measure_title,
        "@laws": [FORMULAS[law] for law in laws],
        "@dashes": [list(STYLES[law][1]) for law in laws],
    }
    rows = [[_gap_panel(), _gain_panel()]]
    if len(sheets):
        width, height = SHEET[0] * min(len(sheets), ACROSS), SHEET[1] * -(-len(sheets) // ACROSS)
        rows.append([_sheets() | {"width": width, "height": height}])
    return _filled(_frame(*rows), tables, heading, chosen)


def coverage_view(
    points: pd.DataFrame,
    centres: list[str],
    radius: float,
    curve: pd.DataFrame,
    noise: float,
    needs: pd.DataFrame,
    ks: list[int],
    farthest: float,
    heading: tuple[str, str],
) -> Spec:
    """Draw the map with its cover as balls, H_cov(r), and the k* that are known in two ways.

    points: index configuration, columns x, y, role (of ROLES), centre (of the ball that it is put
    into, missing outside the family); curve: radius, h_cov; needs: what, k, low, high (None where
    unknown), why (there is no k, or ""); ks: sizes measured; farthest: the largest distance of all.
    """
    turn = np.linspace(0, 2 * np.pi, 49)
    x, y = points.loc[centres, ["x", "y"]].to_numpy().T
    balls = pd.DataFrame({"ball": np.repeat(centres, len(turn))})
    balls["order"] = np.tile(range(len(turn)), len(centres))
    balls["x"] = np.add.outer(x, radius * np.cos(turn)).ravel()
    balls["y"] = np.add.outer(y, radius * np.sin(turn)).ravel()
    spokes = points.dropna(subset="centre")
    spokes[["x2", "y2"]] = points.loc[spokes["centre"], ["x", "y"]].to_numpy()
    edge = 1.1 * max(farthest, noise)
    low, high = min(ks) / 2, 3 * max(ks)
    shown = needs[["k", "low", "high"]].astype(float).clip(low, high)
    tables = {
        "points": place_names(points),
        "balls": balls,
        "spokes": spokes,
        "steps": pd.concat([curve, curve.tail(1).assign(radius=edge)]),
        "noise": pd.DataFrame({"radius": [0.0], "end": [noise]}),
        "here": pd.DataFrame({"radius": [radius]}),
        "needs": needs.assign(shown=shown["k"], low=shown["low"], high=shown["high"]),
    }
    frame = _coverage_frame(reach(points), edge, tuple(ks), tuple(needs["what"]))
    return _filled(frame, tables, heading, {})


def plans_view(table: pd.DataFrame, budget: float, heading: tuple[str, str]) -> Spec:
    """Draw the images per class that each method needs, with intervals, and the budget.

    table: `ddlib.explore.words.compare_plans`; a method without a finite need has no mark.
    """
    known = table[np.isfinite(table["ipc"].astype(float))]
    ends = known[["ipc", "ipc_low", "ipc_high"]].astype(float).clip(0.5, MOST_IPC)
    plans = known[["method", "member"]].join(ends)
    tables = {"plans": plans, "budget": pd.DataFrame({"ipc": [budget]})}
    panel = _plans_panel() | {"height": 24 * len(table)}
    return _filled(_frame([panel]), tables, heading, _coloured(table["method"]))


def _filled(
    frame: Spec, tables: dict[str, pd.DataFrame], heading: tuple[str, str], chosen: Spec
) -> Spec:
    """Put what was chosen into a frame, tables beside it by name, and its title over it."""
    title = dict(zip(("text", "subtitle"), heading, strict=True))
    rows = {name: _records(table) for name, table in tables.items()}
    return _put(frame, chosen) | {"title": title, "datasets": rows}


def _put(spec: Any, chosen: Spec) -> Any:
    """Return a specification with what was chosen for names such as "@measure" or ["@methods"]."""
    if isinstance(spec, dict):
        return {key: _put(value, chosen) for key, value in spec.items()}
    if isinstance(spec, list):
        whole = len(spec) == 1 and isinstance(chosen.get(str(spec[0])), list)
        return chosen[spec[0]] if whole else [_put(value, chosen) for value in spec]
    return chosen.get(spec, spec) if isinstance(spec, str) else spec


def _records(table: pd.DataFrame) -> list[dict]:
    """Return the rows of a table, with None for what is no number in JSON."""
    return json.loads(table.to_json(orient="records", double_precision=15))


def _coloured(methods: pd.Series) -> Spec:
    """Return methods and their colours, by their names in a frame."""
    colours = method_colours(methods)
    return {"@methods": list(colours), "@colours": list(colours.values())}


def _on(table: str) -> alt.Chart:
    return alt.Chart(alt.NamedData(table))


def _frame(*rows: list[Spec]) -> Spec:
    """Put panels, each an `_panel`, in rows; Altair's own concatenation copies them at length."""
    scales = dict.fromkeys(("color", "strokeDash"), "independent")
    apart = {"spacing": 25, "resolve": {"scale": scales}}
    lines = [row[0] if len(row) == 1 else {"hconcat": row} | apart for row in rows]
    whole = lines[0] if len(lines) == 1 else {"vconcat": lines, "spacing": 12}
    return {"$schema": alt.SCHEMA_URL, "config": CONFIG} | whole


def _panel(chart: alt.TopLevelMixin) -> Spec:
    spec = chart.to_dict()
    return {key: spec[key] for key in spec if key not in ("$schema", "config")}


@cache
def _gap_panel() -> Spec:
    legend = alt.Legend(orient="top", title=None, columns=6, symbolType="circle", symbolOpacity=1)
    colour, scale = _method_colour(legend), alt.Scale(domain=["@bottom", "@top"], nice=False)
    x = _k_axis(size_axis(pd.Series(["@ks"])))
    y = alt.Y("gap:Q", scale=scale, title="@measure")
    low = alt.Y("low:Q", scale=scale, title="@measure")
    legend = alt.Legend(orient="top", title=None, symbolType="stroke", symbolSize=400)
    dashes = alt.Scale(domain=["@laws"], range=["@dashes"])
    dash = alt.StrokeDash("label:N", scale=dashes, legend=legend)
    curve = _on("curves").mark_line(clip=True, strokeWidth=2)
    here = tips(["method:N", "law:N", "k", "gap", "low", "high"])
    seeds = _on("gaps").mark_point(filled=True, size=26, opacity=0.6)
    square = _on("here").mark_point(shape="square", size=90, strokeWidth=2.5, clip=True)
    layers = [
        _on("band").mark_area(clip=True, opacity=0.15).encode(x, low, alt.Y2("high:Q"), colour),
        curve.encode(x, y, colour, dash, tooltip=tips(["method:N", "label:N", "k", "gap"])),
        seeds.encode(x, y, colour, tooltip=tips(["method:N", "k", "seed", "gap"])),
        _on("now").mark_rule(color=INK, strokeDash=[4, 3]).encode(x),
        square.encode(x, y, colour, tooltip=here),
        _on("saturated").mark_point(**SATURATED).encode(x, y, colour, tooltip=tips(SATURATION)),
    ]
    subtitle = "Dots: seeds. Lines, band: fits. Squares: predicted. ▼ k_sat."
    title = alt.Title("Gap to all data", subtitle=subtitle, fontSize=12)
    return _panel(alt.layer(*layers).properties(width=LEFT, height=270, title=title))


@cache
def _gain_panel() -> Spec:
    x = _k_axis(alt.Axis(format="~g", values=[1, 10, 100, 1000, 10_000]))
    colour = _method_colour(None)
    axis, scale = alt.Axis(format="~g", tickCount=5), alt.Scale(type="log", nice=False)
    y = alt.Y("gain:Q", scale=scale, title=None, axis=axis)
    square = _on("gain").mark_point(shape="square", size=90, strokeWidth=2.5)
    layers = [
        _on("gains").mark_line(strokeWidth=2, clip=True).encode(x, y, colour, detail="law:N"),
        _on("now").mark_rule(color=INK, strokeDash=[4, 3]).encode(x),
        square.encode(x, y, colour, tooltip=tips(["method:N", "law:N", "k", "gain"])),
        _on("now").mark_rule(color=FAINT, strokeDash=[2, 2]).encode(y),
        _on("saturated").mark_point(**SATURATED).encode(x, y, colour, tooltip=tips(SATURATION)),
    ]
    title = alt.Title("Gain of the next image", subtitle="Dots across: least gain.", fontSize=12)
    return _panel(alt.layer(*layers).properties(width=RIGHT, height=270, title=title))


@cache
def _sheets() -> Spec:
    width, height = SHEET
    x, y = (alt.X("left:Q", scale=None, axis=None), alt.Y("top:Q", scale=None, axis=None))
    corner = {"align": "left", "baseline": "top"}
    image = _on("sheets").mark_image(smooth=False, width=width - 12, height=height - 20, **corner)
    image = image.transform_calculate(top="datum.top + 16")
    layers = [
        image.encode(x, y, url="url:N", tooltip=tips(["method:N", "ipc"])),
        _on("sheets").mark_text(fontSize=12, color=INK, **corner).encode(x, y, text="method:N"),
    ]
    subtitle = "a column a class; at most 10 classes, and 5 images of each"
    title = alt.Title("Distilled images", subtitle=subtitle, fontSize=12)
    return _panel(alt.layer(*layers).properties(title=title, view={"stroke": None}))


@cache
def _coverage_frame(side: float, edge: float, ks: tuple[int, ...], ways: tuple[str, ...]) -> Spec:
    right = {"vconcat": [_panel(_steps(edge)), _panel(_needs(ks, ways))], "spacing": 15}
    return _frame([_panel(_map(*plane(side))), right])


def _map(x: alt.X, y: alt.Y) -> alt.LayerChart:
    ball = {"filled": True, "fill": CENTRE, "fillOpacity": 0.06, "stroke": CENTRE, "clip": True}
    spoke = _on("spokes").mark_rule(color=CENTRE, opacity=0.5)
    legend = alt.Legend(orient="bottom", title=None)
    layers = [
        _on("balls").mark_line(**ball).encode(x, y, detail="ball:N", order="order:Q"),
        spoke.encode(x, y, alt.X2("x2:Q"), alt.Y2("y2:Q")),
        *named_dots(alt.NamedData("points"), (x, y), ROLES, INK, legend),
    ]
    return alt.layer(*layers).properties(width=380, height=380)


def _steps(edge: float) -> alt.LayerChart:
    x = alt.X("radius:Q", scale=alt.Scale(domain=[0, edge], nice=False), title="radius r")
    y = alt.Y("h_cov:Q", title="H_cov(r), nats", scale=alt.Scale(domainMin=0))
    line = _on("steps").mark_line(interpolate="step-after", color=MEMBER)
    layers = [
        _on("noise").mark_rect(color="#EEEEEE").encode(x, alt.X2("end:Q")),
        line.encode(x, y, tooltip=tips(["radius", "h_cov"])),
        _on("here").mark_rule(color=CENTRE, strokeWidth=2, strokeDash=[4, 3]).encode(x),
    ]
    title = alt.Title("H_cov(r)", subtitle="Grey: what seeds alone reach.", fontSize=12)
    return alt.layer(*layers).properties(width=310, height=165, title=title)


def _needs(ks: tuple[int, ...], ways: tuple[str, ...]) -> alt.LayerChart:
    scale = alt.Scale(type="log", domain=[min(ks) / 2, 3 * max(ks)], nice=False)
    shared = {"scale": scale, "axis": size_axis(pd.Series(ks)), "title": "k* (log scale)"}
    y = alt.Y("what:N", sort=list(ways), title=None)
    base = _on("needs").encode(y=y, tooltip=tips(["what:N", "k", "low", "high"]))
    bars = base.mark_rule(color=FAINT, strokeWidth=3, opacity=0.5)
    dots = base.mark_point(filled=True, size=80, color=MEMBER, opacity=1)
    reasons = base.transform_filter("datum.why").mark_text(align="left", limit=222, color=FAINT)
    layers = [
        bars.encode(alt.X("low:Q", **shared), alt.X2("high:Q")),
        dots.encode(alt.X("shown:Q", **shared)),
        reasons.encode(x=alt.value(5), text="why:N", tooltip="why:N"),
    ]
    title = alt.Title("Images that hold the worst gap at ε", fontSize=12)
    return alt.layer(*layers).properties(width=230, height=95, title=title)


@cache
def _plans_panel() -> Spec:
    axis = alt.Axis(format="~g", values=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
    scale = alt.Scale(type="log", domain=[0.5, MOST_IPC], nice=False)
    shared = {"scale": scale, "axis": axis, "title": "images per class (log scale)"}
    y = alt.Y("method:N", sort=["@methods"], title=None, scale=alt.Scale(domain=["@methods"]))
    base = _on("plans").encode(y=y, color=_method_colour(None))
    shown = tips(["method:N", "member:N", "ipc", "ipc_low", "ipc_high"])
    bars = base.mark_rule(strokeWidth=3, opacity=0.45)
    dots = base.mark_point(filled=True, size=90, opacity=1)
    layers = [
        bars.encode(alt.X("ipc_low:Q", **shared), alt.X2("ipc_high:Q")),
        dots.encode(alt.X("ipc:Q", **shared), tooltip=shown),
        _on("budget").mark_rule(color=INK, strokeDash=[4, 3]).encode(alt.X("ipc:Q", **shared)),
    ]
    return _panel(alt.layer(*layers).properties(width=560))


def _method_colour(legend: alt.Legend | None) -> alt.Color:
    scale = alt.Scale(domain=["@methods"], range=["@colours"])
    return alt.Color("method:N", scale=scale, legend=legend)


def _k_axis(axis: alt.Axis) -> alt.X:
    scale = alt.Scale(type="log", domain=["@first", "@last"], nice=False)
    return alt.X("k:Q", scale=scale, axis=axis, title=SIZE)
