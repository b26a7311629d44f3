"""Sliders that redraw the theory's picture at once; needs a running kernel."""

import ipywidgets as widgets
from IPython.display import display

from ddlib import charts, charts_theory
from ddlib.theory import knob_tables

DEFAULTS = {"rho": 0.9, "noise": 1.0, "k": 20, "count": 16, "spread": 90}
MEANINGS = {
    "rho": "contraction ρ",
    "noise": "noise σ",
    "k": "samples k",
    "count": "configurations N",
    "spread": "their spread (°)",
}


def picture(rho: float, noise: float, k: int, count: int, spread: float):
    """Return the chart for one setting of the knobs; see `ddlib.theory.knob_tables`."""
    return charts_theory.knobs(*knob_tables(rho, noise, k, count, spread), k)


def sliders() -> dict[str, widgets.Widget]:
    """Return a slider for each knob, at its default."""
    looks = {"continuous_update": True, "style": {"description_width": "130px"}}
    looks["layout"] = widgets.Layout(width="420px")
    made = {
        "rho": widgets.FloatSlider(min=0.0, max=1.05, step=0.01, **looks),
        "noise": widgets.FloatSlider(min=0.1, max=3.0, step=0.1, **looks),
        "k": widgets.IntSlider(min=1, max=1000, **looks),
        "count": widgets.IntSlider(min=1, max=512, **looks),
        "spread": widgets.IntSlider(min=0, max=90, **looks),
    }
    for name, slider in made.items():
        slider.value, slider.description = DEFAULTS[name], MEANINGS[name]
    return made


def explorer() -> None:
    """Show the sliders, and below them their picture, which follows every move.

    The picture is an output like any other, updated in its place; so it stays where no kernel
    runs.
    """
    knobs = sliders()

    def drawn() -> dict:
        spec = picture(**{name: slider.value for name, slider in knobs.items()}).to_dict()
        # No PNG for viewers without scripts: making one would slow the slider down.
        return {charts.LIVE: charts.live(spec), "text/plain": "<chart>"}

    display(widgets.VBox(list(knobs.values())))
    screen = display(drawn(), raw=True, display_id=True)
    for slider in knobs.values():
        slider.observe(lambda _: screen.update(drawn(), raw=True), "value")
