"""Sliders that redraw the bounds of both laws. They need a running kernel."""

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import display

from ddlib.figures import render
from ddlib.figures import theory as charts_theory
from ddlib.theory.channel import union_bound
from ddlib.theory.linear import geometric

KNOBS = {
    "rho": {"value": 0.9, "min": 0.0, "max": 1.05, "step": 0.01, "description": "contraction ρ"},
    "noise": {"value": 1.0, "min": 0.1, "max": 3.0, "step": 0.1, "description": "noise σ"},
    "k": {"value": 20, "min": 1, "max": 1000, "description": "samples k"},
    "count": {"value": 16, "min": 1, "max": 512, "description": "configurations N"},
    "spread": {"value": 90, "min": 0, "max": 90, "description": "their spread (°)"},
}
DEFAULTS = {name: knob["value"] for name, knob in KNOBS.items()}


def picture(rho: float, noise: float, k: int, count: int, spread: float):
    """Return the chart for one setting of the knobs; see `knob_tables`."""
    return charts_theory.knobs(*knob_tables(rho, noise, k, count, spread), k)


def knob_tables(
    rho: float, noise: float, k: int, count: int, spread: float, steps: int = 60
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two tables: distances over steps, and worst gaps over sizes.

    Steps: 8 directions contract by factors from 0 to rho, with an error of noise / sqrt(8 k) per
    step; columns step, value, line ("bound", "distance"). Sizes: N configurations at an angle
    `spread` (degrees) from a common one, with gaps |cos Z + sin Z_c| noise / sqrt(k); columns k,
    value, line ("bound", "mean worst gap"). Every call uses the same draws, so charts move
    smoothly.
    """
    ratios, missed = np.linspace(0, rho, 8), noise / np.sqrt(k)
    times = np.arange(steps + 1)
    grown = np.array([geometric(ratios, t) for t in times])
    apart = missed * np.sqrt((grown**2).mean(axis=1))
    distances = pd.DataFrame({"step": times, "bound": missed * grown[:, -1], "distance": apart})
    sizes = np.unique(np.geomspace(1, 1000, 60).round())
    generator, angle = np.random.default_rng(0), np.deg2rad(spread)
    shared, single = generator.normal(size=(400, 1)), generator.normal(size=(400, count))
    worst = np.abs(np.cos(angle) * shared + np.sin(angle) * single).max(axis=1).mean()
    gaps = pd.DataFrame({"k": sizes, "bound": noise * union_bound(count, sizes)})
    gaps["mean worst gap"] = worst * noise / np.sqrt(sizes)
    return distances.melt("step", var_name="line"), gaps.melt("k", var_name="line")


def explorer() -> None:
    """Show the sliders, and below them a chart that follows every move.

    The chart is an ordinary output that is updated in place, so it remains without a kernel.
    """
    looks = {"style": {"description_width": "130px"}, "layout": {"width": "420px"}}
    knobs = {}
    for name, knob in KNOBS.items():
        kind = widgets.IntSlider if isinstance(knob["value"], int) else widgets.FloatSlider
        knobs[name] = kind(**knob, **looks)

    def drawn() -> dict:
        spec = picture(**{name: slider.value for name, slider in knobs.items()}).to_dict()
        # Without a PNG, which would slow the slider down.
        return {render.LIVE: render.live(spec), "text/plain": "<chart>"}

    display(widgets.VBox(list(knobs.values())))
    screen = display(drawn(), raw=True, display_id=True)
    for slider in knobs.values():
        slider.observe(lambda _: screen.update(drawn(), raw=True), "value")
