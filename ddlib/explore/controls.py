"""The base of all explorers: controls, and below them a chart and numbers that follow them."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import anywidget
import ipywidgets as widgets
import pandas as pd
import traitlets

from ddlib.explore.tables import Tables, named
from ddlib.figures.render import mime_bundle
from ddlib.figures.style import CONFIG

NUMBERS = "application/vnd.ddlib.numbers+html"  # a page shows this below the picture
STYLE = (
    "<style>.ddlib-numbers {font-size: 13px; line-height: 1.4} "
    ".ddlib-numbers :is(td, th) {padding: 3px 10px; text-align: left; vertical-align: top}</style>"
)
ROW = {"flex_flow": "row wrap", "max_width": "900px"}
WIDEST = 980  # pixels of a picture: a window of 1280 with a sidebar
WRAP = 20  # letters of a line in a picture of a table
EMPTY = alt.Chart(pd.DataFrame([{}])).mark_text().properties(width=700, height=20)


class View(NamedTuple):
    """What an explorer shows: a chart with `verdict` as its title, text and numbers."""

    chart: alt.TopLevelMixin
    verdict: str
    details: str = ""
    numbers: pd.DataFrame = pd.DataFrame()
    note: str = ""


class Explorer(widgets.VBox):
    """Controls that choose results. Every change draws the chart and the numbers again.

    controls: by name, each with a `value`; a menu of the studies comes first. A subclass has two
    methods. `offer(tables)` fills the controls with what a study has. `view(tables, **values)`
    returns the View of these values, or raises ValueError, in one clause, if there is nothing to
    show. Without a kernel, a picture of the first view remains.
    """

    def __init__(self, studies: Sequence[Tables], **controls: widgets.Widget) -> None:
        alt.JupyterChart.enable_offline()
        self.controls = {"study": menu("Data set", named(studies)), **controls}
        self.picture = alt.JupyterChart(EMPTY, embed_options={"renderer": "svg", "actions": False})
        self.numbers, self._following = widgets.HTML(), False
        self.offer(self.controls["study"].value)
        for control in self.controls.values():
            control.observe(self._changed, "value")
        ticks = [control for control in self.controls.values() if isinstance(control, Ticks)]
        row = [control for control in self.controls.values() if control not in ticks]
        row = widgets.HBox(row, layout=ROW)
        super().__init__([row, *ticks, self.picture, self.numbers, SliderNames()])
        self.update()

    def follow(self, control: widgets.Widget) -> None:
        """Set the controls that depend on the one that changed."""
        if control is self.controls["study"]:
            self.offer(control.value)

    def update(self) -> None:
        """Draw the chart and the numbers for the current values."""
        chosen = {name: control.value for name, control in self.controls.items()}
        try:
            view = self.view(chosen.pop("study"), **chosen)
        except ValueError as reason:
            view = View(EMPTY, f"Nothing to show: {reason}.")
        self.current, self.picture.spec = view, _specification(view, view.chart)
        table = view.numbers.fillna("").to_html(index=False, border=0, classes="ddlib-numbers")
        text = f"{STYLE}{table}<p>{html.escape(view.note)}</p>"
        self.numbers.value = text if len(view.numbers) else ""

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
        still, metadata = mime_bundle(self.picture.spec)
        if len(self.current.numbers):  # the picture shows them, for viewers that know no more
            parts = alt.vconcat(self.current.chart, drawn_table(*self.current[3:]))
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


class Ticks(widgets.HBox):
    """A row of checkboxes; `value` is the tuple of the names that are ticked."""

    value = traitlets.Tuple()

    def __init__(self, title: str, names: Sequence[str] = (), ticked: Sequence[str] = ()) -> None:
        super().__init__(layout=ROW)
        self.title = widgets.Label(title, layout={"width": "80px"})
        self.offer(names, ticked)

    def offer(self, names: Sequence[str], ticked: Sequence[str]) -> None:
        """Offer names, with some of them ticked."""
        looks = {"indent": False, "layout": {"width": "auto", "margin": "0 14px 0 0"}}
        boxes = [widgets.Checkbox(name in ticked, description=name, **looks) for name in names]
        for box in boxes:
            box.observe(self._read, "value")
        self.children = (self.title, *boxes)
        self._read()

    def _read(self, _: Any = None) -> None:
        self.value = tuple(box.description for box in self.children[1:] if box.value)


class SliderNames(anywidget.AnyWidget):
    """Tells screen readers the label and the value of sliders, which ipywidgets does not."""

    _esm = """
    const name = () => document.querySelectorAll(".widget-hslider").forEach((slider) => {
      const handle = slider.querySelector("[role=slider]");
      handle?.setAttribute("aria-label", slider.querySelector("label").textContent);
      handle?.setAttribute("aria-valuetext", slider.querySelector(".widget-readout").textContent);
    });
    export default { render() {
      const watcher = new MutationObserver(name);
      watcher.observe(document.body, { childList: true, characterData: true, subtree: true });
      return () => watcher.disconnect();
    } };
    """


def menu(title: str, options: Mapping[str, Any] | Sequence[str] = ("",)) -> widgets.Dropdown:
    """Return a menu; options: names, or {name: value}."""
    return widgets.Dropdown(options=options, **_looks(title))


def slider(title: str, options: Sequence[float], value: float) -> widgets.SelectionSlider:
    """Return a slider over a list of values."""
    return widgets.SelectionSlider(options=options, value=value, **_looks(title))


def _looks(title: str) -> dict[str, Any]:
    layout = {"width": "auto", "min_width": "260px", "flex": "1 1 260px"}
    return {"description": title, "style": {"description_width": "80px"}, "layout": layout}
