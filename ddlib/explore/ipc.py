"""The explorer of samples per class: fitted laws, measured gaps, k_sat and distilled images."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

import altair as alt
import numpy as np
import pandas as pd

from ddlib.explore import sheets
from ddlib.explore.controls import Ticks, menu, slider
from ddlib.explore.explorer import EmptyError, Explorer, View
from ddlib.explore.tables import Tables, fitted
from ddlib.figures import prediction
from ddlib.figures.style import FORMULAS
from ddlib.stats import verdicts
from ddlib.stats.intervals import LEVEL, Interval
from ddlib.stats.laws import FLOOR_SHARE, Fit, Fits
from ddlib.words.scaling import ERRORS
from ddlib.words.text import listed

FIRST = ("random", "dm", "dc")  # methods that are ticked at the start, if a study has them
GAINS = (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5)  # by one more sample
IPCS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1000)
FITTED, HIDDEN, SHOWN = BEYOND = ("fitted", "hidden: guess first", "shown, not fitted")
LOG, FOUR, CHANGE = SHOW = ("log-log axes", "four times the samples", "images minus random's")
LEGEND = "Lines: fits, dashed where they extrapolate. Squares: predictions. Triangles: k_sat."
FAILED = "Lines: fits that fail, so they predict nothing."
GUESS = f" Guess the gaps beyond IPC, then choose '{SHOWN}'."
MARKS = ["method", "fit", "mark", "k", "gap", "low", "high"]


class IpcExplorer(Explorer):
    """Choose the samples per class; see what each fitted law predicts and what was measured."""

    def __init__(self, studies: Sequence[Tables], draws: int = 1000):
        super().__init__(
            studies,
            draws,
            configuration=menu("Trained as"),
            measure=menu("Measure"),
            ipc=slider("IPC", IPCS, 10),
            beyond=menu("Beyond IPC", BEYOND),
            least_gain=slider("Least gain", GAINS, 2e-3),
            methods=Ticks("Methods"),
            fits=Ticks("Fits", FORMULAS.values(), [FORMULAS["inverse_sqrt"]]),
            show=Ticks("Show", SHOW),
        )

    def offer(self, tables: Tables) -> None:
        ipc, least, most = self.controls["ipc"], tables.ipcs[0], 2 * tables.ipcs[-1]
        sizes = sorted({*tables.ipcs, *(size for size in IPCS if least <= size <= most), most})
        before, ipc.options = ipc.value, sizes
        ipc.value = before if before in sizes else least
        self.controls["configuration"].options = tables.configurations
        measure, chosen = self.controls["measure"], self.controls["measure"].value
        error = ERRORS[tables.trials["measure"].iloc[0]]
        measure.options = {error: "gap_error", "test cross-entropy": "gap_cross_entropy"}
        measure.value = chosen or "gap_error"
        first = [name for name in FIRST if name in tables.methods] or tables.methods[:3]
        self.controls["methods"].offer(tables.methods, first)

    def view(
        self, tables, configuration, measure, ipc, beyond, least_gain, methods, fits, show
    ) -> View:
        if not methods:
            raise EmptyError("no method is ticked; tick at least one")
        study = tables.gaps[tables.gaps["configuration"] == configuration]
        study = study.assign(gap=study[measure].where(study["status"] == "ok"))
        study = study.groupby(["method", "k", "seed"], sort=False, as_index=False)["gap"].mean()
        gaps, k = study[study["method"].isin(methods)], ipc * tables.class_count
        tried = gaps[gaps["k"] <= k] if beyond == HIDDEN else gaps
        study, seen = study.dropna(), tried.dropna()
        if seen.empty:
            upto = f" up to IPC {ipc}" if beyond == HIDDEN else ""
            raise EmptyError(f"every trial of {listed(methods)}{upto} failed")
        rows, curves, marks = [], [], []
        for method in methods:
            known = math.inf if beyond == FITTED else k
            fits_of = fitted(tables, configuration, method, self.draws, measure, known)
            means = tried[tried["method"] == method].groupby("k")["gap"].agg(["mean", "std"])
            row = {"method": method, "measured gap": _measured(means, k)}
            rows += [row] * (not fits)
            for fit in (fit for fit in fits_of.values() if fit.law.formula in fits):
                name, failure = {"method": method, "fit": fit.law.formula}, _failure(fit, fits_of)
                curves.append(_curve(fit, 2 * tables.sizes[-1], failure).assign(**name))
                if failure:
                    rows.append(name | row | {"predicted gap": failure})
                    continue
                predicted = {"predicted gap": format(fit.gap(k), ".3f")}
                if FOUR in show:
                    predicted[f"at 4k = {4 * k}"] = _four_times(fit, k, means)
                rows.append(name | row | predicted | self._saturation(fit, k, least_gain))
                marks += [name | mark for mark in _marks(fit, k, least_gain, FOUR in show)]
        axes = prediction.axes(study, LOG in show)
        curves = pd.concat([pd.DataFrame(columns=[*MARKS, "part"]), *curves])
        chart = prediction.predictions(seen, curves, pd.DataFrame(marks, columns=MARKS), k, axes)
        legend = LEGEND if marks else FAILED if len(curves) else ""
        images, remark = _images(tables, methods, ipc, CHANGE in show)
        risk = tables.full[tables.full["configuration"] == configuration]
        risk = risk[measure.removeprefix("gap_")].mean()
        return View(
            alt.vconcat(chart, images) if images else chart,
            _verdict(marks, seen, ipc, k),
            " ".join(filter(None, ["Dots: seeds.", legend, remark])),
            pd.DataFrame(rows),
            f"Risk on all data: {risk:.3f}. In brackets: 95 % intervals; ±: standard deviation "
            f"between seeds.{_log_note(seen, axes.bottom) if LOG in show else ''}"
            f"{GUESS if beyond == HIDDEN else ''}",
        )

    def _saturation(self, fit: Fit, k: int, least_gain: float) -> dict[str, str]:
        return {
            "gain of the next sample": format(fit.gain(k), ".2g"),
            f"k_sat: gain below {least_gain:g}": _k(fit.k_sat, least_gain),
            f"k where the gap is {100 * FLOOR_SHARE:g} % above its floor": _k(
                fit.k_floor, FLOOR_SHARE
            ),
        }


def _failure(fit: Fit, fits: Fits) -> str:
    """Return why a fit must not predict, or ""."""
    judged = verdicts.verdict(fits)
    if fit.law.name == "inverse_sqrt" and judged.outcome == "fails":
        return f"fails: {judged.why}"
    if fit.misfit is not None and fit.misfit <= LEVEL:
        return "fails: the curve misses the measured means"
    return "" if fit.fitted else fit.reason


def _curve(fit: Fit, end: int, failure: str) -> pd.DataFrame:
    """Return a fitted curve, and up to `end` what it predicts, unless it must not."""
    if not fit.fitted:
        return pd.DataFrame()
    first, last = fit.data.ks[[0, -1]]
    parts = {"fitted": np.geomspace(first, last, 40)}
    if not failure:
        parts["extrapolated"] = np.geomspace(last, end, 20)
    parts = {part: fit.predict(ks) for part, ks in parts.items()}
    return pd.concat(parts, names=["part"]).droplevel(1).reset_index()


def _measured(means: pd.DataFrame, k: int) -> str:
    if k not in means.index:
        return "not measured"
    mean, deviation = means.loc[k]
    if math.isnan(mean):
        return "failed: no seed has a gap"
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"


def _four_times(fit: Fit, k: int, means: pd.DataFrame) -> str:
    """Say what a fit predicts for 4k; a/√k + c halves the gap above its floor."""
    text = format(fit.gap(4 * k), ".3f")
    if fit.law.name == "inverse_sqrt":
        floor = fit.parameters["c"].estimate
        above = fit.gap(k).estimate - floor
        text += f"; above c = {floor:.3f}: {above:.3f} → {above / 2:.3f}"
    return f"{text}; measured: {_measured(means, 4 * k)}"


def _k(find: Callable[[float], Interval], value: float) -> str:
    try:
        k = find(value)
    except ValueError as reason:
        return f"none: {reason}"
    return "none: the floor may be 0" if k.high == math.inf else format(k, ".0f")


def _marks(fit: Fit, k: int, least_gain: float, four: bool) -> list[dict]:
    """Return the points to mark on a curve: the predictions at k and 4k, k_sat if it exists."""
    points = {"prediction": k} | ({"four times": 4 * k} if four else {})
    with suppress(ValueError):  # the table says why
        points["k_sat"] = fit.k_sat(least_gain).estimate
    return [{"mark": name, "aic": fit.aic, **fit.predict(k).iloc[0]} for name, k in points.items()]


def _verdict(marks: list[dict], gaps: pd.DataFrame, ipc: int, k: int) -> str:
    """Name the method with the smallest prediction, of each by its fit with the least AIC.

    Without an AIC, as of one seed, the first fit of each counts. A method without a prediction,
    such as one whose fit fails, is counted, and named where it has the smallest measured mean.
    """
    predicted = [mark for mark in marks if mark["mark"] == "prediction"][::-1]
    ranked = all(mark["aic"] is not None for mark in predicted)
    if ranked:
        predicted.sort(key=lambda mark: mark["aic"], reverse=True)
    means, measured = gaps[gaps["k"] == k].groupby("method")["gap"].mean(), ""
    if len(means):
        measured = f"{means.idxmin()} has the smallest measured gap, {means.min():.3f}; "
    if not predicted:
        return f"IPC {ipc}, k = {k}: {measured}no fit that is ticked predicts a gap"
    preferred = {mark["method"]: mark for mark in predicted}  # the last one of each
    best = min(preferred.values(), key=lambda mark: mark["gap"])
    why = "least AIC" if ranked else "the first fit that is ticked, as there is no AIC"
    gap = Interval(best["gap"], best["low"], best["high"])
    if len(means) and means.idxmin() in preferred:  # it was compared by its prediction
        measured = ""
    name = f"IPC {ipc}, k = {k}: {measured}"
    name += f"{best['method']} has the smallest predicted gap, {gap:.3f}"
    if len(predicted) > len(preferred):
        name += f", by {best['fit']} ({why})"
    count = gaps["method"].nunique()
    silent = f"; no prediction for {count - len(preferred)} of {count} methods"
    return name + silent * (count > len(preferred))


def _log_note(gaps: pd.DataFrame, bottom: float) -> str:
    """Explain log axes, and say how many gaps they cannot show."""
    note = " On log-log axes a/√k is a straight line; a floor above 0 bends it up, c < 0 down."
    below, negative = (gaps["gap"] < bottom).sum(), (gaps["gap"] <= 0).sum()
    if below:
        note += f" Not drawn: {below} of {len(gaps)} gaps, {negative} of them zero or less."
    return note


def _images(
    tables: Tables, methods: Sequence[str], ipc: int, change: bool
) -> tuple[alt.FacetChart | None, str]:
    """Return the images at the largest distilled size up to `ipc`, and a remark."""
    sizes = sorted({size for method, size in tables.sheets if method in methods})
    near = max((size for size in sizes if size <= ipc), default=min(sizes, default=ipc))
    start = "random" if change else ""
    strips = {method: _strip(tables, method, near, start) for method in methods}
    strips = pd.DataFrame(strips.items(), columns=["method", "url"]).dropna()
    if strips.empty:
        compared = " to compare with random's" if change else ""
        return None, f"No method that is ticked has images{compared}."
    remark = f"Images: IPC {near}, as none of IPC {ipc} are kept." if near != ipc else ""
    return sheets.strips(strips, min(tables.class_count, sheets.CLASSES)), remark


@cache
def _strip(tables: Tables, method: str, ipc: int, start: str) -> str | None:
    picture, before = tables.sheet(method, ipc), tables.sheet(start, ipc)
    if picture is None or (start and before is None):
        return None
    return sheets.strip(picture, min(tables.class_count, sheets.CLASSES), before)
