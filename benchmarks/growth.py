"""How time and memory grow with k, classes, pixels and configurations.

`python -m benchmarks.growth` takes a few minutes. Every case has a process of its own. Exponents
are slopes in log-log scale over the larger sizes, with 95 % intervals: below them, what a call
costs whatever its size hides the growth. Time is the least of a few runs; memory what the process
held at most, less what it held before.
"""

import argparse
import ctypes
import io
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import scipy
import torch

from benchmarks import machine
from benchmarks.cases import noise
from ddlib.figures import render, style
from ddlib.files import from_root, write_atomically
from ddlib.methods import METHODS
from ddlib.networks.functional import build
from ddlib.stats import covers, distances
from ddlib.training.loop import train_and_score
from ddlib.training.recipe import Recipe

WIDTH = 16  # channels of the ConvNet, few enough that all sizes take the same convolutions
REPEATS = 5
BEYOND_LINEAR = [
    "By their nature faster than linear: distances, for there is one for each pair of "
    "configurations;",
    "and exact covers, an NP-hard problem, which the library takes on for up to 60 configurations.",
    "DM builds each configuration's network once a call, and then draws one an iteration.",
]
MEASURES = {"seconds": "seconds", "megabytes": "MB at most"}


@dataclass(frozen=True)
class Case:
    """What grows: a job as a function of one size, and the sizes to measure it at."""

    axis: str
    job: str
    sizes: tuple[int, ...]
    make: Callable[[int], Callable[[], object]]


def distil(
    method: str, ipc: int, class_count: int = 10, side: int = 32, **options: object
) -> Callable[[], object]:
    """Return one iteration of a method, ready to run."""
    dataset = noise("growth", (3, side, side), class_count, 100 * class_count)
    entry = METHODS[method]
    network = build("convnet", dataset.sample_shape, class_count, width=WIDTH, depth=3)
    given = {"iterations": 1, "real_batch": 16, "initialisation": "noise", "augmentation": "none"}
    parameters = entry.parameters.read({**given, **options}, method)
    return lambda: entry.distil(dataset, network, [ipc], 0, parameters)


def match_gradients(ipc: int, class_count: int = 10, side: int = 32) -> Callable[[], object]:
    """Return one outer step of DC."""
    return distil("dc", ipc, class_count, side, outer_steps=1, inner_epochs=0)


def evaluate(k: int) -> Callable[[], object]:
    """Return 20 training steps on k images, and a test on 1,000."""
    dataset = noise("growth", (3, 32, 32), 10, k, test=1000)
    network = build("convnet", dataset.sample_shape, 10, width=WIDTH, depth=3)
    real, recipe = dataset.train, Recipe(steps=20, batch_size=64)
    return lambda: train_and_score(network, real.samples, real.labels, dataset.test, recipe, 0)


def several_configurations(count: int) -> Callable[[], object]:
    """Return one iteration of DM for networks of `count` widths, of which it draws one."""
    tables = [{"network": {"name": "convnet", "width": WIDTH + i % 4}} for i in range(count)]
    return distil("dm", 5, configurations=tables)


def measure_distances(count: int) -> Callable[[], object]:
    """Return the distances between the predictions of `count` configurations."""
    random = np.random.default_rng(0)
    predictions = list(random.dirichlet(np.ones(10), (count, 4, 500)))
    names = [str(number) for number in range(count)]
    return lambda: distances.prediction_distance(predictions, names)


def cover_exactly(count: int) -> Callable[[], object]:
    """Return a least cover of `count` configurations, points of a plane, at a small radius."""
    points = np.random.default_rng(0).random((count, 2))
    distance = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(points))
    names = [str(number) for number in range(count)]
    table = pd.DataFrame(distance, names, names)
    return lambda: covers.cover(table, 0.15)


K, CLASSES = (20, 50, 100, 200, 350, 600, 1000), (3, 6, 10, 18, 32, 56, 100)
PIXELS = (256, 400, 576, 1024, 1600, 2304, 4096)
CASES = (
    Case("k", "DM iteration", K, lambda k: distil("dm", k // 10)),
    Case("k", "DC outer step", K, lambda k: match_gradients(k // 10)),
    Case("k", "evaluation", K, evaluate),
    Case("classes", "DM iteration", CLASSES, lambda c: distil("dm", 5, c)),
    Case("classes", "DC outer step", CLASSES, lambda c: match_gradients(5, c)),
    Case("pixels", "DM iteration", PIXELS, lambda p: distil("dm", 5, side=round(p**0.5))),
    Case("pixels", "DC outer step", PIXELS, lambda p: match_gradients(5, side=round(p**0.5))),
    Case("configurations", "DM iteration", (3, 6, 12, 24, 48, 96), several_configurations),
    Case("configurations", "distances", (50, 100, 200, 400, 800, 1200), measure_distances),
    Case("configurations", "exact cover", (10, 14, 20, 28, 40, 60), cover_exactly),
)


def measure(number: int, count: int | None = None) -> list[dict[str, object]]:
    """Return a row a size, the first `count` of case `number` of CASES."""
    torch.set_num_threads(1)
    case = CASES[number]
    case.make(case.sizes[0])()  # loads what any size needs
    return [
        {"axis": case.axis, "job": case.job, "size": size, **_measured(case.make(size))}
        for size in case.sizes[:count]
    ]


def _measured(run: Callable[[], object]) -> dict[str, float]:
    ctypes.CDLL(None).malloc_trim(0)  # or smaller sizes would have left room for larger ones
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    seconds = [machine.seconds(run) for _ in range(REPEATS)]
    megabytes = max(_memory("VmHWM") - before, 0) / 1024
    return {"seconds": min(seconds), "megabytes": megabytes}


def _memory(name: str) -> int:
    """Return a line of this process's status, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def grow(numbers: Sequence[int], count: int | None = None) -> pd.DataFrame:
    """Return a row a point, of the cases `numbers`, at their first `count` sizes."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        cases = list(pool.map(measure, numbers, [count] * len(numbers)))
    return pd.DataFrame([row for rows in cases for row in rows])


def exponents(points: pd.DataFrame) -> pd.DataFrame:
    """Return, by axis, job and measure, the slope in log-log scale and its 95 % interval.

    points: columns axis, job, size, and those of MEASURES. The smallest third does not
    count, nor does memory below 1 MB, which is chance; fewer than 3 points give no slope.
    """
    rows = []
    for (axis, job), own in points.groupby(["axis", "job"], sort=False):
        upper = own.nlargest(len(own) - len(own) // 3, "size")
        for name in MEASURES:
            known = upper[upper[name] > (1 if name == "megabytes" else 0)]
            slope = low = high = np.nan
            if len(known) >= 3:
                line = scipy.stats.linregress(np.log(known["size"]), np.log(known[name]))
                half = scipy.stats.t.ppf(0.975, len(known) - 2) * line.stderr
                slope, low, high = line.slope, line.slope - half, line.slope + half
            rows.append((axis, job, name, slope, low, high))
    return pd.DataFrame(rows, columns=["axis", "job", "measure", "exponent", "low", "high"])


def figure(points: pd.DataFrame, fitted: pd.DataFrame) -> alt.VConcatChart:
    """Return the growth of both measures, a panel an axis; labels give exponents and intervals."""
    axes = points["axis"].unique()
    rows = [
        alt.hconcat(*(_panel(points, fitted, axis, name) for axis in axes)).resolve_scale(
            color="independent"
        )
        for name in MEASURES
    ]
    title = alt.Title("Growth of time and memory, with exponents", subtitle=BEYOND_LINEAR)
    chart = alt.vconcat(*rows, title=title).resolve_scale(color="independent")
    return chart.configure(**style.CONFIG)


def _panel(points: pd.DataFrame, fitted: pd.DataFrame, axis: str, name: str) -> alt.Chart:
    own, slopes = points[points["axis"] == axis], fitted.query("axis == @axis and measure == @name")
    labels = {
        job: f"{job}: {slope:.2f} ({low:.2f} to {high:.2f})" if slope == slope else f"{job}: flat"
        for job, slope, low, high in zip(
            *(slopes[column] for column in ("job", "exponent", "low", "high")), strict=True
        )
    }
    own = own.assign(label=own["job"].map(labels)).query(f"{name} > 0")
    colours = list(style.METHOD_COLOURS.values())[: len(labels)]
    legend = alt.Legend(title=None, orient="top", direction="vertical", labelLimit=260)
    scale = alt.Scale(domain=list(labels.values()), range=colours)
    base = alt.Chart(own, width=210, height=180).encode(
        alt.X("size:Q", title=axis).scale(type="log", nice=False).axis(tickCount=4),
        alt.Y(f"{name}:Q", title=MEASURES[name]).scale(type="log"),
        alt.Color("label:N", scale=scale, legend=legend),
    )
    return base.mark_line(point=True)


def picture(chart: alt.VConcatChart) -> bytes:
    """Return the figure as the README shows it, a PNG."""
    file = io.BytesIO()
    chart.save(file, format="png", scale_factor=1.25)
    return render.small(file.getvalue())


def main() -> None:
    """Measure, and leave table, exponents and figure in the folder of results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", default="results/bench")
    folder = from_root(parser.parse_args().results)
    points = grow(range(len(CASES)))
    fitted = exponents(points)
    write_atomically(folder / "growth.json", points.to_json(orient="records").encode())
    write_atomically(folder / "growth_exponents.json", fitted.to_json(orient="records").encode())
    drawn = figure(points, fitted)
    write_atomically(folder / "growth.png", picture(drawn))
    drawn.save(folder / "growth.html", inline=True)
    print(fitted.round(2).to_string(index=False))
    print(f"look at {folder / 'growth.html'}")


if __name__ == "__main__":
    main()
