"""The base of all explorers: controls, and below them a chart and numbers that follow them."""

import html
import os
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import altair as alt
import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets

from ddlib.explore.controls import ROW, Charts, SliderNames, Ticks, menu
from ddlib.explore.tables import Tables, named
from ddlib.figures.render import mime_bundle
from ddlib.figures.style import CONFIG

NUMBERS = "application/vnd.ddlib.numbers+html"  # a page shows this below the picture
STYLE = """<style>
.ddlib-numbers {font-size: 13px; line-height: 1.4}
.ddlib-numbers :is(td, th) {padding: 3px 6px; text-align: left; vertical-align: top}
.still {display: none}
.ddlib-numbers :is(td, th):nth-child(-n + 2) {white-space: nowrap}
.ddlib-explorer .vega-embed {max-width: 100%; overflow-x: auto}
.ddlib-explorer .widget-dropdown {max-width: calc(100% - 4px) !important}
@media (max-width: 600px) {  /* a phone: the chart, its controls, its numbers */
  .ddlib-beside {display: contents}
  .ddlib-beside > * {flex: none !important}
  .ddlib-controls {order: 1}
  .ddlib-below {order: 2}
  .ddlib-below p {max-width: calc(100vw - 40px)}  /* the table may be wider */
}
</style>"""
WIDEST = 980  # pixels of a picture: a window of 1280 with a sidebar
BESIDE = (10, 6)  # rows and columns of the largest table that stands beside a chart
WRAP = 20  # letters of a line in a picture of a table
EMPTY = alt.Chart(pd.DataFrame([{}])).mark_text().properties(width=700, height=20)


class EmptyError(Exception):
    """Why there is no view of the values of the controls, in one clause."""


class View(NamedTuple):
    """What an explorer shows: a chart with `verdict` as its title, text and numbers."""

    chart: alt.TopLevelMixin
    verdict: str
    details: str = ""
    numbers: pd.DataFrame = pd.DataFrame()
    note: str = ""


class Explorer(widgets.VBox):
    """Controls that choose results. Every change draws the chart and the numbers again.

    draws: bootstrap draws of a fit or of k*; controls: by name, each with a `value`; a menu of the
    studies comes first. A subclass has two methods. `offer(tables)` fills the controls with what a
    study has. `view(tables, **values)` returns the View of these values, or raises EmptyError. The
    parts of a concatenated chart flow into the space that there is, and grow with it unless they
    are square; small tables stand beside them. Without a kernel, a picture of `spec` remains.
    """

    numbers_width = "480px"  # of the box of numbers; "100%" puts it below the charts

    def __init__(self, studies: Sequence[Tables], draws: int, **controls: widgets.Widget) -> None:
        self.draws = draws
        self.controls = {"study": menu("Study", named(studies)), **controls}
        self.heading, self.picture, self.numbers = widgets.HTML(), Charts(), widgets.HTML()
        self._following = False
        self.offer(self.controls["study"].value)
        self._first = {name: control.value for name, control in self.controls.items()}
        for control in self.controls.values():
            control.observe(self._changed, "value")
        reset = widgets.Button(description="Reset", layout={"width": "80px", "margin": "2px 12px"})
        reset.on_click(self.reset)
        ticks = [control for control in self.controls.values() if isinstance(control, Ticks)]
        row = [control for control in self.controls.values() if control not in ticks]
        chart = widgets.VBox([self.heading, self.picture], layout={"flex": "3 1 560px"})
        self.numbers.layout = {"overflow": "auto"}
        parts = [
            widgets.VBox([widgets.HBox([*row, reset], layout=ROW), *ticks]),
            widgets.HBox([chart, self.numbers], layout=ROW),
        ]
        for part, name in zip((*parts, self.numbers), ("controls", "beside", "below"), strict=True):
            part.add_class(f"ddlib-{name}")
        super().__init__([*parts, SliderNames()])
        self.add_class("ddlib-explorer")
        self.update()

    def follow(self, control: widgets.Widget) -> None:
        """Set the controls that depend on the one that changed."""
        if control is self.controls["study"]:
            self.offer(control.value)

    def reset(self, _: Any = None) -> None:
        """Set all controls to their first values."""
        self._following = True
        self.offer(self._first["study"])
        for name, value in self._first.items():
            control = self.controls[name]
            control.tick(value) if isinstance(control, Ticks) else control.set_trait("value", value)
        self._following = False
        self.update()

    def update(self) -> None:
        """Draw the chart and the numbers for the current values."""
        chosen = {name: control.value for name, control in self.controls.items()}
        try:
            view = self.view(chosen.pop("study"), **chosen)
        except EmptyError as reason:
            view = View(EMPTY, f"Nothing to show: {reason}.")
        self.current, self.spec = view, _specification(view, view.chart)
        verdict, details = html.escape(view.verdict), html.escape(view.details)
        self.heading.value = (
            f"{STYLE}<div role=status style='line-height: 1.4'><b>{verdict}</b><br>{details}</div>"
        )
        untitled = {name: value for name, value in self.spec.items() if name != "title"}
        self.picture.specs = list(_parts(untitled))
        table = view.numbers.fillna("").to_html(index=False, border=0, classes="ddlib-numbers")
        text = f"{STYLE}{table}<p>{html.escape(view.note)}</p>"
        self.numbers.value = text if len(view.numbers) else ""
        fits = np.less_equal(view.numbers.shape, BESIDE).all()
        self.numbers.layout.flex = f"2 1 {self.numbers_width if fits else '100%'}"

    def _changed(self, change: traitlets.Bunch) -> None:
        if self._following:  # `follow` set this control, not the user
            return
        self._following = True
        try:
            self.follow(change["owner"])
        finally:
            self._following = False
        self.update()

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict, dict]:
        if "VOILA_BASE_URL" in os.environ:  # the app needs no stills, which take seconds
            return super()._repr_mimebundle_(**options)
        still, metadata = mime_bundle(self.spec)
        if len(self.current.numbers):  # the picture shows them, for viewers that know no more
            table = drawn_table(self.current.numbers, self.current.note)
            parts = alt.vconcat(self.current.chart, table)
            picture, sizes = mime_bundle(_specification(self.current, parts))
            shrink = min(1, WIDEST / sizes["image/png"]["width"])
            size = {side: round(shrink * pixels) for side, pixels in sizes["image/png"].items()}
            still["image/png"], metadata["image/png"] = picture["image/png"], size
        still[NUMBERS] = self.numbers.value
        return {**still, **super()._repr_mimebundle_(**options)}, metadata


def _specification(view: View, chart: alt.TopLevelMixin) -> dict:
    """Return the Vega-Lite specification of a chart with the title of a view."""
    return chart.to_dict(validate=False) | {  # checks double the time
        "title": {"text": view.verdict, "subtitle": view.details},
        "description": f"{view.verdict}. {view.details}",  # for screen readers
        "config": CONFIG,
    }


def _parts(spec: dict) -> Iterator[dict]:
    """Yield the parts of a concatenated chart, each a specification without the common title."""
    way = next((way for way in ("vconcat", "concat") if way in spec), None)
    if way:
        common = {name: spec[name] for name in ("data", "description", "config") if name in spec}
        for part in spec[way]:
            tables = {n: rows for n, rows in spec["datasets"].items() if f"'{n}'" in str(part)}
            yield from _parts(common | {"datasets": tables} | part)
    elif "width" in spec and spec["width"] != spec.get("height"):
        fit = {"type": "fit-x", "contains": "padding"}
        yield spec | {"width": "container", "autosize": fit, "usermeta": {"width": spec["width"]}}
    else:
        yield spec


def drawn_table(numbers: pd.DataFrame, note: str) -> alt.Chart:
    """Draw a table of texts as a chart, with a note below; long texts are wrapped."""
    lines = [list(numbers.columns), *numbers.fillna("").astype(str).to_numpy().tolist()]
    lines = [[textwrap.wrap(text, WRAP) or [""] for text in line] for line in lines]
    columns = zip(*lines, strict=True)
    widths = [14 + 7 * max(len(part) for text in column for part in text) for column in columns]
    lines.append([textwrap.wrap(note, sum(widths) // 6)])
    heights = [6 + 15 * max(map(len, line)) for line in lines]
    cells = [
        {"x": sum(widths[:column]), "y": sum(heights[:row]), "text": "\n".join(text)}
        for row, line in enumerate(lines)
        for column, text in enumerate(line)
    ]
    size = {"width": sum(widths), "height": sum(heights), "view": alt.ViewBackground(stroke=None)}
    texts = alt.Chart(pd.DataFrame(cells), **size)
    texts = texts.mark_text(align="left", baseline="top", size=12, lineBreak="\n")
    free = {"scale": None, "axis": None}
    return texts.encode(alt.X("x:Q", **free), alt.Y("y:Q", **free), text="text:N")
