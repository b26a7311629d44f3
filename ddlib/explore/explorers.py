"""Explorers of the two laws: controls, a picture and numbers that follow every change.

They read the tables of studies that ended (`ddlib.explore.tables`) and compute by `ddlib.stats`.
What costs time is kept for the next change. Each explorer is one widget; shown where no kernel
runs, it is a picture of its first choice.

`python -m ddlib.explore.explorers notebooks/images` writes the pictures that GitHub
shows of notebook 05.
"""

import gc
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets

from ddlib.explore import charts as charts_explore
from ddlib.explore import words as reading
from ddlib.explore.charts import ROLES, Spec
from ddlib.explore.live import Picture
from ddlib.explore.tables import Tables, example, named
from ddlib.explore.words import Need
from ddlib.figures import render
from ddlib.figures import scaling as charts
from ddlib.files import write_atomically
from ddlib.publish.page import NUMBERS
from ddlib.stats import covers, distances, laws, planner, verdicts
from ddlib.stats.families import k_star, worst_member
from ddlib.stats.intervals import Interval
from ddlib.stats.pilot import Pilot, read_pilot
from ddlib.words.text import listed

DRAWS = 200  # bootstrap draws: a tenth of a second for a fit of every law
MEASURES = {"gap_error": "test error", "gap_cross_entropy": "test cross-entropy"}
UNITS = {"gap_error": "gap in test error (fraction)", "gap_cross_entropy": "gap (nats)"}
FIRST = ("random", "dm", "dc")  # methods ticked at first, where a study has them
LEAST = (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5)  # gains of an image
EPSILONS = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)
OWN = "your own choice"
ROW = {"flex_flow": "row wrap", "max_width": "900px"}  # layout of controls side by side
IPCS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1000)


class View(NamedTuple):
    """What an explorer shows of one choice; label: the picture in words."""

    chart: Spec
    numbers: str  # HTML
    label: str


class Ticks(widgets.HBox):
    """A row of checkboxes; `value` holds the names that are ticked, in their order."""

    value = traitlets.Tuple()

    def __init__(self, title: str) -> None:
        super().__init__(layout=ROW)
        self.title = widgets.Label(title, layout={"width": "80px"})
        self.boxes, self._busy = {}, False
        self.observe(self._show, names="value")

    def offer(self, names: Sequence[str], ticked: Collection[str]) -> None:
        """Offer other names, with these ticked."""
        looks = {"indent": False, "layout": widgets.Layout(width="auto", margin="0 14px 0 0")}
        self.boxes = {
            name: widgets.Checkbox(name in ticked, description=name, **looks) for name in names
        }
        for box in self.boxes.values():
            box.observe(self._read, names="value")
        self.children = (self.title, *self.boxes.values())
        self._read()

    @traitlets.validate("value")
    def _in_order(self, proposal) -> tuple[str, ...]:
        return tuple(name for name in self.boxes if name in proposal["value"])

    def _read(self, _=None) -> None:
        if not self._busy:
            self.value = tuple(name for name, box in self.boxes.items() if box.value)

    def _show(self, change) -> None:
        self._busy = True
        for name, box in self.boxes.items():
            box.value = name in change["new"]
        self._busy = False


class Explorer(ABC):
    """Controls over a picture over numbers; a change of a control draws both anew.

    controls: the widgets that choose, by name, "study" among them; rows: those that share a line,
    above all Ticks. Where a choice has no data, `choose` raises ValueError, and its sentence stands
    in the place of the picture.
    """

    def __init__(self, studies: Sequence[Tables], rows: Sequence[Sequence[str]]) -> None:
        self.studies = named(studies)
        self.picture, self.numbers = Picture(), widgets.HTML()
        self._quiet = False
        self.offer()
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        lines = [widgets.HBox([self.controls[name] for name in row], layout=ROW) for row in rows]
        ticks = [control for control in self.controls.values() if isinstance(control, Ticks)]
        self.box = widgets.VBox([*lines, *ticks, self.picture, self.numbers])
        self.update()
        # What is there by now need not be searched for rubbish again: that takes a change's time.
        gc.collect()
        gc.freeze()
        still, self._metadata = render.mime_bundle(self.view.chart)
        self.still = {**still, NUMBERS: self.view.numbers}

    controls: dict[str, widgets.Widget]

    @abstractmethod
    def choose(self) -> View:
        """Return what the controls choose; ValueError where there is nothing to show."""

    @abstractmethod
    def offer(self) -> None:
        """Let the controls offer what the chosen study has."""

    def update(self) -> None:
        """Compute and show what the controls choose."""
        try:
            self.view = self.choose()
        except ValueError as reason:
            text = f"Nothing to show: {reason}."
            self.view = View(charts_explore.message(text), "", text)
        self.picture.show(self.view.chart, self.view.label)
        self.numbers.value = self.view.numbers

    @property
    def tables(self) -> Tables:
        """The study that is chosen."""
        return self.studies[self.controls["study"].value]

    def _changed(self, change) -> None:
        if change["owner"] is self.controls["study"]:
            with self.together():
                self.offer()
        elif not self._quiet:
            self.update()

    @contextmanager
    def together(self):
        """Change several controls and draw once, after the outermost of such blocks."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before
        if not before:
            self.update()

    def _repr_mimebundle_(self, **options):
        """Return the live widget beside a still picture and numbers, for where no kernel runs."""
        return {**self.still, **self.box._repr_mimebundle_(**options)}, self._metadata


class IpcExplorer(Explorer):
    """How far do k images go? Fits, the next image's gain, k_sat and images at every IPC."""

    def __init__(self, studies: Sequence[Tables], draws: int = DRAWS, floor_share: float = 0.1):
        self.methods, self.laws = Ticks("Methods"), Ticks("Fits")
        self.laws.offer([law.formula for law in laws.LAWS.values()], ["a/√k + c"])
        self.controls = {
            "study": _choice("Data set", list(named(studies))),
            "configuration": _choice("Trained as"),
            "measure": _choice("Measure", [(name, key) for key, name in MEASURES.items()]),
            "ipc": _slider("IPC", IPCS, 10),
            "least_gain": _slider("Least gain", [(f"{gain:g}", gain) for gain in LEAST], 1e-4),
            "methods": self.methods,
            "laws": self.laws,
        }
        self.draws, self.floor_share = draws, floor_share
        self._fit, self._read = cache(self._fitted), cache(self._gaps)
        self._sheet = cache(Tables.sheet_address)
        super().__init__(studies, [("study", "configuration", "measure"), ("ipc", "least_gain")])

    def offer(self) -> None:
        tables, chosen = self.tables, self.controls["ipc"].value
        self.controls["configuration"].options = tables.configurations
        self.controls["ipc"].options = _ipcs(tables)
        self.controls["ipc"].value = chosen if chosen in _ipcs(tables) else tables.ipcs[0]
        first = [name for name in FIRST if name in tables.methods] or tables.methods[:3]
        self.methods.offer(tables.methods, first)
        self._offer_gains()

    def _offer_gains(self) -> None:
        """Offer gains in test error of one test image or more, and any in cross-entropy."""
        control = self.controls["least_gain"]
        image = self.tables.resolution if self.controls["measure"].value == "gap_error" else 0.0
        gains, chosen = [gain for gain in LEAST if gain >= image] or [image], control.value
        control.options = [(f"{gain:g}", gain) for gain in gains]
        control.value = chosen if chosen in gains else gains[-1]

    def _changed(self, change) -> None:
        if change["owner"] is self.controls["measure"]:
            with self.together():
                self._offer_gains()
        else:
            super()._changed(change)

    def _fitted(self, study: str, configuration: str, method: str, measure: str, law: str):
        """Fit one law to one method, as `laws.fit_table` does."""
        return laws.fit(self._read(study, configuration, method, measure), law, draws=self.draws)

    def _gaps(self, study: str, configuration: str, method: str, measure: str):
        trials, _ = _under(self.studies[study], configuration)
        return laws.gap_matrix(trials, method, measure)

    def fits(self) -> dict[tuple[str, str], laws.Fit]:
        """Return the fits that are ticked, by method and law."""
        chosen = [law for law, each in laws.LAWS.items() if each.formula in self.laws.value]
        place = [self.controls[name].value for name in ("study", "configuration")]
        measure = self.controls["measure"].value
        return {
            (method, law): self._fit(*place, method, measure, law)
            for method in self.methods.value
            for law in chosen
        }

    def _verdict(self, method: str) -> verdicts.Verdict:
        place = [self.controls[name].value for name in ("study", "configuration")]
        judged = ("inverse_sqrt", "free_exponent")
        measure = self.controls["measure"].value
        return verdicts.verdict({law: self._fit(*place, method, measure, law) for law in judged})

    def choose(self) -> View:
        methods, measure = list(self.methods.value), self.controls["measure"].value
        if not methods:
            raise ValueError("no method is ticked; tick at least one")
        trials, references = _under(self.tables, self.controls["configuration"].value)
        gaps = trials[trials["method"].isin(methods) & (trials["status"] == "ok")]
        gaps = gaps[["method", "k", "seed", measure]].rename(columns={measure: "gap"}).dropna()
        if gaps.empty:
            raise ValueError(f"every trial of {listed(methods, 'and')} failed")
        ipc, least = self.controls["ipc"].value, self.controls["least_gain"].value
        fits, k = self.fits(), ipc * self.tables.class_count
        risks = references[measure.removeprefix("gap_")].dropna()
        verdicts = {method: self._verdict(method) for method in methods}
        failed = {name: each.why for name, each in verdicts.items() if each.outcome == "fails"}
        numbers = reading.at_size(fits, k, least, self.floor_share, failed)
        drawn = _drawn(fits, np.geomspace(gaps["k"].min(), 2 * gaps["k"].max(), 60))
        sheets, remark = self._sheets(methods, ipc)
        heading = (f"IPC {ipc}, k = {k} images in all", remark)
        chart = charts_explore.ipc_view(
            gaps, drawn, numbers, sheets, (k, least), UNITS[measure], heading
        )
        sound = trials[(trials["k"] == k) & (trials["status"] == "ok")].groupby("method")
        seen = sound[measure.removeprefix("gap_")].agg(["mean", "std"]).reindex(methods)
        table = reading.ipc_table(numbers, seen, measure, float(risks.mean()), self.floor_share)
        return View(chart, table, f"Gap against k at IPC {ipc}; the numbers follow in a table.")

    def _sheets(self, methods: list[str], ipc: int) -> tuple[pd.DataFrame, str]:
        """Return the sheets at the nearest IPC that was distilled, at most, and a remark."""
        tables = self.tables
        there = sorted({size for method, size in tables.sheets if method in methods})
        near = max((size for size in there if size <= ipc), default=there[0] if there else 0)
        rows = [(method, near, self._sheet(tables, method, near)) for method in methods]
        sheets = pd.DataFrame(rows, columns=["method", "ipc", "url"]).dropna()
        if sheets.empty:
            return sheets, "This study kept no distilled images."
        if near == ipc:
            return sheets, "The images below were distilled at this size."
        return sheets, f"IPC {ipc} was not distilled; the images below are those of IPC {near}."


class CoverageExplorer(Explorer):
    """What does a family of configurations cost? Its cover, H_cov(r), k* and its worst member."""

    def __init__(self, studies: Sequence[Tables], draws: int = DRAWS):
        known = [tables for tables in studies if tables.distances is not None]
        if not known:
            raise ValueError(
                "no study here has distances between configurations; give the results folder of "
                "notebook 03"
            )
        self.draws, self.members = draws, Ticks("Family")
        self.controls = {
            "study": _choice("Data set", list(named(known))),
            "method": _choice("Method"),
            "preset": _choice("Preset"),
            "radius": widgets.FloatSlider(**_labelled("Radius r"), readout_format=".3f"),
            "epsilon": _slider("Gap ε", EPSILONS, 0.05),
            "k": _slider("k now", known[0].sizes, known[0].sizes[0]),
            "members": self.members,
        }
        self._curve, self._needed = cache(_curve), cache(self._k_stars)
        self._worst, self._pilot = cache(self._worst_gap), cache(_pilot)
        self._place, self._centres = cache(_embedded), cache(_centres)
        rows = [("study", "method", "preset"), ("radius", "epsilon", "k")]
        super().__init__(known, rows)

    def offer(self) -> None:
        tables = self.tables
        self.controls["method"].options = tables.methods
        self.controls["preset"].options = [*tables.families, OWN]
        self.controls["k"].options = tables.sizes
        self.members.offer(tables.distances.index, tables.distances.index)
        # The radius goes from 0 past the largest distance in round steps, from the usual one.
        slider, farthest = self.controls["radius"], float(tables.distances.to_numpy().max())
        slider.step = 10.0 ** math.floor(math.log10(farthest)) / 20 if farthest > 0 else 0.05
        slider.max = slider.step * math.ceil(1.05 * farthest / slider.step + 1)
        usual = covers.radii(tables.distances, tables.noise)[covers.QUANTILE]
        slider.value = slider.step * round(usual / slider.step)

    def _changed(self, change) -> None:
        owner, preset = change["owner"], self.controls["preset"]
        if not self._quiet and owner is preset and change["new"] != OWN:
            with self.together():
                self.members.value = self.tables.families[change["new"]]
        elif not self._quiet and owner is self.members:
            chosen = set(self.members.value)
            same = [n for n, each in self.tables.families.items() if set(each) == chosen]
            with self.together():
                if preset.value not in same:  # several presets may be one family
                    preset.value = same[0] if same else OWN
        else:
            super()._changed(change)

    def _k_stars(self, tables: Tables, method: str, members: tuple[str, ...]):
        """Return the table of k* of a family at every epsilon of the slider, or why it has none."""
        gaps, family = tables.gaps[tables.gaps["method"] == method], {"chosen": members}
        sizes = {"draws": self.draws, "relabellings": 0}
        try:
            return k_star(gaps, family, EPSILONS, **sizes).table
        except ValueError as reason:
            return str(reason)

    def _worst_gap(self, tables: Tables, method: str, members: tuple[str, ...], k: int):
        """Return the worst member at k and its gap; where there is none, "unknown" and why."""
        gaps = tables.gaps[(tables.gaps["method"] == method) & (tables.gaps["k"] == k)]
        try:
            return worst_member(gaps, members)
        except ValueError as reason:
            return "unknown", str(reason)

    def choose(self) -> View:
        tables, members = self.tables, tuple(self.members.value)
        if not members:
            raise ValueError("the family is empty; tick at least one configuration")
        radius, epsilon = self.controls["radius"].value, self.controls["epsilon"].value
        method, k = self.controls["method"].value, self.controls["k"].value
        own = tables.distances.loc[list(members), list(members)]
        centres = self._centres(tables, members, radius)
        curve, h_cov = self._curve(tables, members), math.log(len(centres))
        needs = self.needs(members, epsilon)
        worst = self._worst(tables, method, members, k)
        points, share = self._place(tables)
        points = _roles(points, members, centres, own)
        heading = (
            f"{len(centres)} balls of radius {radius:.3f} cover {len(members)} configurations: "
            f"H_cov = {h_cov:.2f}",
            f"The plane shows {share:.0%} of the distances' variance, so a ball may look too wide "
            "or too narrow; a line joins each member to its centre.",
        )
        names = ["what", "k", "low", "high", "why"]
        rows = pd.DataFrame([(n.what, *(n.k or [None] * 3), n.why) for n in needs], columns=names)
        chart = charts_explore.coverage_view(
            *(points, centres, radius, curve, tables.noise, rows, tables.sizes),
            float(tables.distances.to_numpy().max()),
            heading,
        )
        words = [f"k* {need.what}: {need.why or need.value}" for need in needs]
        table = reading.coverage_table(needs, worst, epsilon, k, radius, tables)
        return View(chart, table, ". ".join([heading[0], *words]))

    def needs(self, members, epsilon: float) -> list[Need]:
        """Return k*(epsilon) of a family: measured, and by the planner."""
        planned = self._planned(members, epsilon)
        table = self._needed(self.tables, self.controls["method"].value, members)
        if isinstance(table, str):
            return [Need("measured", None, table), planned]
        row = table.iloc[EPSILONS.index(epsilon)]
        measured = Need("measured", None, row["reason"])
        if not row["reason"]:
            raw = "unknown" if math.isnan(row["raw"]) else f"{row['raw']:.0f}"
            remark = f"{row['censored'] or reading.KNOWN['measured']}; raw {raw}"
            for lost in ("seeds", "sizes"):
                if row[f"missing_{lost}"]:
                    remark += f"; {lost} left out for missing trials: {row[f'missing_{lost}']}"
            measured = Need("measured", Interval(*row[["k_star", "low", "high"]]), remark)
        return [measured, planned]

    def _planned(self, members, epsilon: float) -> Need:
        tables = self.tables
        try:
            pilot = self._pilot(tables, self.controls["method"].value, self.draws)
        except ValueError as reason:
            return Need("planned", None, str(reason))
        found = planner.plan(pilot, members, epsilon, tables.class_count)
        return Need("planned", found.k if found.ipc else None, found.reason)


class Planner(Explorer):
    """Which method, and how many images per class, for a gap and a budget?"""

    def __init__(self, studies: Sequence[Tables], draws: int = DRAWS):
        self.controls = {
            "study": _choice("Data set", list(named(studies))),
            "family": _choice("Used as"),
            "epsilon": _slider("Target gap", EPSILONS, 0.05),
            "budget": _slider("Budget, IPC", IPCS, 50),
        }
        self.draws, self._pilot = draws, cache(_pilot)
        super().__init__(studies, [("study", "family"), ("epsilon", "budget")])

    def offer(self) -> None:
        self.controls["family"].options = list(_families(self.tables))

    def choose(self) -> View:
        tables, plans, bad = self.tables, {}, {}
        members = _families(tables)[self.controls["family"].value]
        epsilon, budget = self.controls["epsilon"].value, self.controls["budget"].value
        for method in tables.methods:
            try:
                pilot = self._pilot(tables, method, self.draws)
            except ValueError as reason:
                bad[method] = str(reason)
            else:
                plans[method] = planner.plan(pilot, members, epsilon, tables.class_count)
        if not plans:
            raise ValueError(f"no method can be planned with ({next(iter(bad.values()))})")
        table = reading.compare_plans(plans, members, budget)
        text = reading.recommendation(table, plans, members, budget)
        title = f"Images per class for a gap of {epsilon:g}"
        subtitle = "Dots: the need, with its 95 % interval. Dashes: the budget."
        chart = charts_explore.plans_view(table, budget, (title, subtitle))
        return View(chart, f"<p>{text}</p>{reading.plan_table(table, bad)}", text)


def _under(tables: Tables, configuration: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    both = (tables.trials, tables.full)
    return tuple(table[table["configuration"] == configuration] for table in both)


def _drawn(fits: dict, ks: np.ndarray) -> pd.DataFrame:
    """Tabulate fitted curves at ks, and at every fourth of them the gain of the next image.

    Only the first law's curves have intervals, which make the bands.
    """
    fits = {key: found for key, found in fits.items() if found.fitted}
    first, some = next(iter(fits), ("", ""))[1], np.arange(len(ks)) % 4 == 0
    columns, none = ["method", "law", "k", "gap", "low", "high", "gain"], np.full(len(ks), np.nan)
    rows = []
    for (method, law), found in fits.items():
        ends = found.predict(ks)[["low", "high"]].to_numpy().T if law == first else (none, none)
        curve, after = found.law.curve(np.stack([ks, ks + 1]), found.coefficients[0])
        gain = np.where(some, curve - after, np.nan)
        rows += [(method, law, *row) for row in zip(ks, curve, *ends, gain, strict=True)]
    return pd.DataFrame(rows, columns=columns, dtype=None if rows else float)


def _curve(tables: Tables, members: tuple[str, ...]) -> pd.DataFrame:
    return covers.h_cov_curve(tables.distances, members)


def _centres(tables: Tables, members: tuple[str, ...], radius: float) -> list[str]:
    return list(covers.cover(tables.distances.loc[list(members), list(members)], radius))


def _embedded(tables: Tables) -> distances.Embedding:
    return distances.embed(tables.distances)


def _roles(points: pd.DataFrame, members, centres: list[str], own: pd.DataFrame) -> pd.DataFrame:
    """Give every configuration its role, and every member the nearest centre."""
    centre, covered, outside = ROLES
    names = points.index
    role = np.where(names.isin(centres), centre, np.where(names.isin(members), covered, outside))
    return points.assign(role=role, centre=own[centres].idxmin(axis=1))


def _families(tables: Tables) -> dict[str, tuple[str, ...]]:
    """Return the families of a study, and every configuration alone."""
    return {**tables.families, **{f"{name} alone": (name,) for name in tables.configurations}}


def _pilot(tables: Tables, method: str, draws: int) -> Pilot:
    """Read all that a study measured of a method as the pilot of a plan."""
    return read_pilot(tables.gaps[tables.gaps["method"] == method], draws=draws)


def _ipcs(tables: Tables) -> list[int]:
    """Return the measured IPC, and others between and up to twice the largest."""
    largest = tables.ipcs[-1]
    between = [ipc for ipc in IPCS if tables.ipcs[0] <= ipc <= 2 * largest]
    return sorted({*tables.ipcs, *between, 2 * largest})


def _labelled(description: str) -> dict:
    return {
        "description": description,
        "style": {"description_width": "80px"},
        "layout": {"width": "auto", "min_width": "260px", "flex": "1 1 260px"},
    }


def _choice(description: str, options: Sequence = ("",)) -> widgets.Dropdown:
    # A list that was empty would choose none of the options that it is given later.
    return widgets.Dropdown(options=options, **_labelled(description))


def _slider(description: str, options: Sequence, value) -> widgets.SelectionSlider:
    known = [each[1] if isinstance(each, tuple) else each for each in options]
    value = value if value in known else known[len(known) // 2]
    return widgets.SelectionSlider(options=options, value=value, **_labelled(description))


def _gaps_of(tables: Tables, methods: Sequence[str]):
    """Draw the gaps of methods in test error, as notebook 01 does."""
    trials = tables.trials[tables.trials["method"].isin(methods)]
    trials = trials[trials["configuration"] == tables.configurations[0]]
    fits = laws.fit_table(trials, "gap_error")
    root = {name: {"inverse_sqrt": own["inverse_sqrt"]} for name, own in fits.items()}
    drawn = verdicts.curves(root, np.geomspace(min(tables.sizes), 2 * max(tables.sizes), 60))
    gaps = trials.rename(columns={"gap_error": "gap"})
    return charts.gap_against_k(gaps, drawn, verdicts.floors(fits), UNITS["gap_error"])


def write_pictures(folder: Path) -> None:
    """Write the pictures of the README and of notebook 05, all drawn from the example."""
    found = example()
    chart = _gaps_of(found[0], ("random", "dm", "dc", "mtt"))
    picture = render.mime_bundle(chart.to_dict())[0]["image/png"]
    write_atomically(folder / "gap_against_k.png", render.small(picture))
    kinds = {"ipc": IpcExplorer, "coverage": CoverageExplorer, "planner": Planner}
    for name, kind in kinds.items():
        picture = render.small(kind(found).still["image/png"])
        write_atomically(folder / f"explore_{name}.png", picture)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ddlib.explore.explorers FOLDER")
    write_pictures(Path(sys.argv[1]))
