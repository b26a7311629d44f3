"""Charts that a running kernel updates in place, without a network: one widget, one picture."""

from functools import cache

import anywidget
import traitlets
import vl_convert
from ipywidgets import widget_serialization

# The next picture is drawn out of sight and then takes the place of the last, so nothing flickers;
# pictures that were overtaken while one was being drawn are skipped.
SCRIPT = """
async function vega() {
  while (!globalThis.ddlibVega) await new Promise((resolve) => setTimeout(resolve, 20));
  return globalThis.ddlibVega;
}
// ipywidgets gives the handle of a slider no name, and says the place of a value instead of it.
function nameSliders(el) {
  for (const slider of el.closest(".widget-vbox")?.querySelectorAll(".widget-hslider") ?? []) {
    const readout = slider.querySelector(".widget-readout");
    const handle = slider.querySelector("[role=slider]");
    for (const part of [handle, readout])
      part.setAttribute("aria-label", slider.querySelector("label").textContent);
    readout.setAttribute("role", "textbox");
    handle.setAttribute("aria-valuetext", readout.textContent);
  }
}
export default {
  async render({ model, el }) {
    const vegaEmbed = await vega();
    let shown = null, busy = false, again = false;
    async function draw() {
      again = true;
      if (busy) return;
      busy = true;
      while (again) {
        again = false;
        const next = document.createElement("div"), inside = document.createElement("div");
        next.append(inside);
        next.setAttribute("role", "img");
        next.setAttribute("aria-label", model.get("label"));
        const options = { mode: "vega-lite", renderer: "svg", actions: false };
        try {
          const drawn = await vegaEmbed(inside, structuredClone(model.get("spec")), options);
          el.replaceChildren(next);
          if (shown) shown.finalize();
          shown = drawn;
          nameSliders(el);
        } catch (problem) {
          console.error(problem);
        }
      }
      busy = false;
    }
    model.on("change:spec", draw);
    // JupyterLab draws cells that are out of sight and puts them into the page later.
    const sight = new IntersectionObserver(() => nameSliders(el));
    sight.observe(el);
    await draw();
    return () => {
      model.off("change:spec", draw);
      sight.disconnect();
      if (shown) shown.finalize();
    };
  },
};
"""


class Picture(anywidget.AnyWidget):
    """A chart in a notebook or an app; give it another with `show`."""

    _esm = SCRIPT
    vega = traitlets.Instance(anywidget.AnyWidget).tag(sync=True, **widget_serialization)
    spec = traitlets.Dict().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)

    def __init__(self) -> None:
        super().__init__(vega=_vega())

    def show(self, spec: dict, label: str) -> None:
        """Show a Vega-Lite specification; label: the picture in words."""
        with self.hold_sync():
            self.label, self.spec = label, spec


@cache
def _vega() -> anywidget.AnyWidget:
    """Return what draws the pictures: nothing to see, and a megabyte, so all pictures share one."""
    share = "globalThis.ddlibVega = vegaEmbed; export default {};"
    return anywidget.AnyWidget(_esm=vl_convert.javascript_bundle(share))
