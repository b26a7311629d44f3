"""The explorer of samples per class: fitted laws, measured gaps, k_sat and distilled images."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

import altair as alt
import numpy as np
import pandas as pd

from ddlib.explore import sheets
from ddlib.explore.controls import Explorer, Ticks, View, menu, slider
from ddlib.explore.tables import Tables
from ddlib.figures.style import FORMULAS, INK, STYLES, k_axis, method_colours, panels, scale, tips
from ddlib.stats import laws, verdicts
from ddlib.stats.intervals import LEVEL, Interval
from ddlib.stats.laws import Fit, Fits
from ddlib.words.text import listed

MEASURES = {"test error": "gap_error", "test cross-entropy": "gap_cross_entropy"}
FIRST = ("random", "dm", "dc")  # methods that are ticked at the start, if a study has them
GAINS = (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5)  # by one more sample
IPCS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1000)


class IpcExplorer(Explorer):
    """Choose the samples per class; see what each fitted law predicts and what was measured.

    draws: bootstrap draws of a fit; floor_share: the last column of the table is the k at which the
    gap above the floor is this share of the floor.
    """

    def __init__(self, studies: Sequence[Tables], draws: int = 200, floor_share: float = 0.1):
        self.draws, self.floor_share = draws, floor_share
        super().__init__(
            studies,
            configuration=menu("Trained as"),
            measure=menu("Measure", MEASURES),
            ipc=slider("IPC", IPCS, 10),
            least_gain=slider("Least gain", GAINS, 2e-3),
            methods=Ticks("Methods"),
            fits=Ticks("Fits", FORMULAS.values(), [FORMULAS["inverse_sqrt"]]),
        )

    def offer(self, tables: Tables) -> None:
        ipc, least, most = self.controls["ipc"], tables.ipcs[0], 2 * tables.ipcs[-1]
        sizes = sorted({*tables.ipcs, *(size for size in IPCS if least <= size <= most), most})
        before, ipc.options = ipc.value, sizes
        ipc.value = before if before in sizes else least
        self.controls["configuration"].options = tables.configurations
        first = [name for name in FIRST if name in tables.methods] or tables.methods[:3]
        self.controls["methods"].offer(tables.methods, first)

    def view(self, tables, configuration, measure, ipc, least_gain, methods, fits) -> View:
        if not methods:
            raise ValueError("no method is ticked; tick at least one")
        trials = tables.gaps[tables.gaps["configuration"] == configuration]
        gaps = trials[trials["method"].isin(methods) & (trials["status"] == "ok")]
        gaps = gaps[["method", "k", "seed"]].assign(gap=gaps[measure]).dropna()
        if gaps.empty:
            raise ValueError(f"every trial of {listed(methods, 'and')} failed")
        k, rows, chosen, marks = ipc * tables.class_count, [], {}, []
        for method in methods:
            laws_of_method = _fits(tables, configuration, measure, method, self.draws)
            chosen[method] = {
                law: fit for law, fit in laws_of_method.items() if fit.law.formula in fits
            }
            at_k = gaps.loc[(gaps["method"] == method) & (gaps["k"] == k), "gap"]
            measured = f"{at_k.mean():.3f} ± {at_k.std():.3f}" if len(at_k) else "not measured"
            rows += [{"method": method, "measured gap": measured}] * (not fits)
            for fit in chosen[method].values():
                row = {"method": method, "fit": fit.law.formula, "measured gap": measured}
                if failure := _failure(fit, laws_of_method):
                    rows.append(row | {"predicted gap": failure})
                else:
                    rows.append(row | self._predictions(fit, k, least_gain))
                    marks += [row | mark for mark in _marks(fit, k, least_gain)]
        curves = verdicts.curves(chosen, np.geomspace(tables.sizes[0], 2 * tables.sizes[-1], 60))
        risk = tables.full[tables.full["configuration"] == configuration]
        images, remark = _images(tables, methods, ipc)
        chart = _chart(gaps, curves, marks, k, tables.sizes)
        return View(
            alt.vconcat(chart, _sheets(images)) if len(images) else chart,
            _verdict(marks, ipc, k),
            f"Dots: seeds. Lines and bands: fits with 95 % intervals. {remark}",
            pd.DataFrame(rows),
            f"Risk on all data: {risk[measure.removeprefix('gap_')].mean():.3f}. In brackets: 95 % "
            "intervals; ±: standard deviation between seeds.",
        )

    def _predictions(self, fit: Fit, k: int, least_gain: float) -> dict[str, str]:
        share = self.floor_share
        return {
            "predicted gap": format(fit.gap(k), ".3f"),
            "gain of the next sample": format(fit.gain(k), ".2g"),
            f"k_sat: gain below {least_gain:g}": _k(fit.k_sat, least_gain),
            f"k: {share:.0%} of the floor left above it": _k(fit.k_floor, share),
        }


@cache
def _fits(tables: Tables, configuration: str, measure: str, method: str, draws: int) -> Fits:
    trials = tables.gaps[tables.gaps["configuration"] == configuration]
    return laws.fit_all(laws.gap_matrix(trials, method, measure), draws=draws)


def _failure(fit: Fit, fits: Fits) -> str:
    """Return why a fit must not predict, or ""."""
    outcome, why = verdicts.verdict(fits)
    if fit.law.name == "inverse_sqrt" and outcome == "fails":
        return f"fails: {why}"
    missed = fit.misfit is not None and fit.misfit <= LEVEL
    return "fails: misses the means" if missed else "" if fit.fitted else fit.reason


def _k(find: Callable[[float], Interval], value: float) -> str:
    try:
        return format(find(value), ".0f")
    except ValueError as reason:
        return f"none: {reason}"


def _marks(fit: Fit, k: int, least_gain: float) -> list[dict]:
    """Return the points to mark on a curve: the prediction at k, and k_sat if it exists."""
    points = {"predicted": k}
    with suppress(ValueError):  # the table says why
        points["k_sat"] = fit.k_sat(least_gain).estimate
    return [{"mark": name, **fit.predict(k).iloc[0]} for name, k in points.items()]


def _verdict(marks: list[dict], ipc: int, k: int) -> str:
    predicted = [mark for mark in marks if mark["mark"] == "predicted"]
    if not predicted:
        return f"IPC {ipc}, k = {k}: no fit that is ticked predicts a gap"
    best = min(predicted, key=lambda mark: mark["gap"])
    gap = Interval(best["gap"], best["low"], best["high"])
    return f"IPC {ipc}, k = {k}: {best['method']} has the smallest predicted gap, {gap:.3f}"


def _chart(gaps, curves, marks, k: int, sizes: list[int]) -> alt.LayerChart:
    names = ["method", "fit", "mark", "k", "gap", "low", "high"]
    curves = curves.assign(fit=curves["law"].map(FORMULAS))
    drawn = pd.concat([gaps["gap"], curves["gap"].astype(float)])
    ends = alt.Scale(domain=[min(0, drawn.min()), 1.05 * drawn.max()], nice=False)
    x = k_axis(pd.Series([sizes[0], 2 * sizes[-1]]), pd.Series(sizes))
    y = alt.Y("gap:Q", scale=ends, title="gap to all data")
    legend, colours = alt.Legend(title=None, symbolOpacity=1), method_colours(gaps["method"])
    colour = alt.Color("method:N", scale=scale(colours), legend=legend)
    dashes = {FORMULAS[law]: list(STYLES[law][1]) for law in curves["law"].unique()}
    dash = alt.StrokeDash("fit:N", scale=scale(dashes), title=None)
    shapes = scale({"predicted": "square", "k_sat": "triangle-down"})
    tip = tips("method:N", "fit:N", "mark:N", "k", "gap", "low", "high")
    lines = alt.Chart(curves).encode(x, colour)
    seeds = alt.Chart(gaps).mark_point(filled=True, size=26, opacity=0.6)
    here = alt.Chart(pd.DataFrame({"k": [k]})).mark_rule(color=INK, strokeDash=[4, 3])
    points = alt.Chart(pd.DataFrame(marks).reindex(columns=names)).mark_point(size=90, clip=True)
    layers = [
        lines.mark_area(opacity=0.15, clip=True).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        lines.mark_line(clip=True).encode(y, dash, tooltip=tips("method:N", "fit:N", "k", "gap")),
        seeds.encode(x, y, colour, tooltip=tips("method:N", "k", "seed", "gap")),
        here.encode(x),
        points.encode(x, y, colour, alt.Shape("mark:N", scale=shapes, title=None), tooltip=tip),
    ]
    return alt.layer(*layers, width=680, height=280)


def _images(tables: Tables, methods: Sequence[str], ipc: int) -> tuple[pd.DataFrame, str]:
    """Return the contact sheets at the largest distilled size up to `ipc`, and a remark."""
    sizes = sorted({size for method, size in tables.sheets if method in methods})
    near = max((size for size in sizes if size <= ipc), default=min(sizes, default=ipc))
    rows = [(method, _address(tables, method, near)) for method in methods]
    images = pd.DataFrame(rows, columns=["method", "url"]).dropna()
    if images.empty:
        return images, "This study has no distilled images."
    remark = f"Images: IPC {near}, as none of IPC {ipc} are kept." if near != ipc else ""
    return images, remark


@cache
def _address(tables: Tables, method: str, ipc: int) -> str | None:
    png = tables.sheet(method, ipc)
    return png and sheets.address(png)


def _sheets(images: pd.DataFrame) -> alt.FacetChart:
    size = {"width": 218, "height": 110}
    sheet = alt.Chart(images, **size).mark_image(smooth=False, **size)
    sheet = sheet.encode(x=alt.value(109), y=alt.value(55), url="url:N")
    return panels(sheet, "method", images["method"], columns=3)
