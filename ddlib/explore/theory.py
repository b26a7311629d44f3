"""Sliders that redraw the theory's picture at once; needs a running kernel."""

import ipywidgets as widgets
from IPython.display import display

from ddlib.figures import render
from ddlib.figures import theory as charts_theory
from ddlib.theory.linear import knob_tables

KNOBS = {
    "rho": {"value": 0.9, "min": 0.0, "max": 1.05, "step": 0.01, "description": "contraction ρ"},
    "noise": {"value": 1.0, "min": 0.1, "max": 3.0, "step": 0.1, "description": "noise σ"},
    "k": {"value": 20, "min": 1, "max": 1000, "description": "samples k"},
    "count": {"value": 16, "min": 1, "max": 512, "description": "configurations N"},
    "spread": {"value": 90, "min": 0, "max": 90, "description": "their spread (°)"},
}
DEFAULTS = {name: knob["value"] for name, knob in KNOBS.items()}


def picture(rho: float, noise: float, k: int, count: int, spread: float):
    """Return the chart for one setting of the knobs; see `ddlib.theory.linear.knob_tables`."""
    return charts_theory.knobs(*knob_tables(rho, noise, k, count, spread), k)


def explorer() -> None:
    """Show the sliders, and below them their picture, which follows every move.

    The picture is an output like any other, updated in its place; so it stays where no kernel
    runs.
    """
    looks = {"style": {"description_width": "130px"}, "layout": {"width": "420px"}}
    knobs = {}
    for name, knob in KNOBS.items():
        kind = widgets.IntSlider if isinstance(knob["value"], int) else widgets.FloatSlider
        knobs[name] = kind(**knob, **looks)

    def drawn() -> dict:
        spec = picture(**{name: slider.value for name, slider in knobs.items()}).to_dict()
        # No PNG for viewers without scripts: making one would slow the slider down.
        return {render.LIVE: render.live(spec), "text/plain": "<chart>"}

    display(widgets.VBox(list(knobs.values())))
    screen = display(drawn(), raw=True, display_id=True)
    for slider in knobs.values():
        slider.observe(lambda _: screen.update(drawn(), raw=True), "value")
