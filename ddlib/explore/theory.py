"""The bounds of both laws, redrawn by sliders. Sliders need a running kernel."""

import altair as alt
import ipywidgets as widgets
import numpy as np
import pandas as pd

from ddlib.figures import theory as charts_theory
from ddlib.theory.channel import union_bound
from ddlib.theory.linear import geometric

BOUNDS = ("bound of statement 1", "bound of statement 12")


def explorer() -> widgets.VBox:
    """Return sliders, and below them the picture that follows every move."""
    alt.JupyterChart.enable_offline()
    screen = alt.JupyterChart(picture())

    def redraw(rho=0.9, sigma=1.0, k=20, members=16, degrees=90):
        screen.chart = picture(rho, sigma, k, members, degrees)

    ranges = {"rho": (0, 1.05, 0.01), "sigma": (0.1, 3, 0.1), "k": (1, 1000)}
    sliders = widgets.interactive(redraw, **ranges, members=(1, 512), degrees=(0, 90))
    return widgets.VBox([sliders, screen])


def picture(rho=0.9, sigma=1.0, k=20, members=16, degrees=90) -> alt.ConcatChart:
    """Draw distances over steps, and worst gaps over sizes; see `knob_tables`."""
    return charts_theory.knobs(*knob_tables(rho, sigma, k, members, degrees), k)


def knob_tables(
    rho: float, sigma: float, k: int, members: int, degrees: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two tables: distances over steps, and worst gaps over sizes.

    Steps: 8 directions contract by factors from 0 to rho, with an error of sigma / sqrt(8 k) per
    step; columns step, value, line (the bound of statement 1, "distance"). Sizes: configurations at
    an angle (degrees) from a common one, with gaps |cos Z + sin Z_c| sigma / sqrt(k); columns k,
    value, line (the bound of statement 12, "mean worst gap"). Every call uses the same draws, so
    charts move smoothly.
    """
    ratios, missed = np.linspace(0, rho, 8), sigma / np.sqrt(k)
    times = np.arange(61)
    grown = np.array([geometric(ratios, t) for t in times])
    apart = missed * np.sqrt((grown**2).mean(axis=1))
    distances = pd.DataFrame({"step": times, BOUNDS[0]: missed * grown[:, -1], "distance": apart})
    sizes = np.unique(np.geomspace(1, 1000, 60).round())
    generator, angle = np.random.default_rng(0), np.deg2rad(degrees)
    shared, single = generator.normal(size=(400, 1)), generator.normal(size=(400, members))
    worst = np.abs(np.cos(angle) * shared + np.sin(angle) * single).max(axis=1).mean()
    gaps = pd.DataFrame({"k": sizes, BOUNDS[1]: sigma * union_bound(members, sizes)})
    gaps["mean worst gap"] = worst * sigma / np.sqrt(sizes)
    return distances.melt("step", var_name="line"), gaps.melt("k", var_name="line")
