"""The widgets of explorers: ticks, menus and sliders, and charts that grow with their place."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets
import vl_convert

ROW = {"flex_flow": "row wrap"}


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

    def tick(self, names: Sequence[str]) -> None:
        """Tick these names and no others."""
        self.offer([box.description for box in self.children[1:]], names)

    def _read(self, _: Any = None) -> None:
        self.value = tuple(box.description for box in self.children[1:] if box.value)


class Charts(anywidget.AnyWidget):
    """Vega-Lite charts that flow into the space there is; those of width "container" grow with it.

    specs: the specifications; the `usermeta` of a chart that grows holds the width that it asks
    for. All that changes is drawn again. It needs no network.
    """

    specs = traitlets.List(traitlets.Dict()).tag(sync=True)
    _esm = traitlets.Unicode().tag(sync=True)

    @traitlets.default("_esm")
    def _script(self) -> str:
        return _bundle()


@cache
def _bundle() -> str:
    """Return the script of `Charts` with Vega; what grows is drawn as wide as its box."""
    return vl_convert.javascript_bundle("""
    const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => draw(target)));
    async function draw(box) {
      const grows = box.spec.width === "container", width = box.clientWidth;
      const spec = grows ? { ...box.spec, width } : box.spec, text = JSON.stringify(spec);
      if (!width || box.drawn === text) return;
      box.drawn = text;
      box.chart?.finalize();
      box.chart = await vegaEmbed(box, spec, { renderer: "svg", actions: false });
    }
    function render({ model, el: outer }) {
      const el = outer.appendChild(document.createElement("div"));  // Jupyter styles the outer one
      el.style = "display: flex; flex-wrap: wrap; align-items: flex-start";
      const update = () => {
        const specs = model.get("specs");
        const grows = (spec) => `flex: 1 1 ${spec.usermeta.width}px; min-width: 0`;
        while (el.children.length < specs.length) el.append(document.createElement("div"));
        while (el.children.length > specs.length) el.lastChild.remove();
        [...el.children].forEach((box, place) => {
          box.spec = specs[place];
          box.style = box.spec.width === "container" ? grows(box.spec) : "min-width: 1px";
          sizes.observe(box);
          draw(box);
        });
      };
      model.on("change:specs", update);
      update();
    }
    export default { render };
    """)


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
    layout = {"width": "auto", "flex": "1 1 260px", "max_width": "400px"}
    return {"description": title, "style": {"description_width": "80px"}, "layout": layout}
