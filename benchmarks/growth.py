"""How time and memory grow with k, classes, pixels and configurations.

`python -m benchmarks.growth` takes a few minutes. Every case has a process of its own. Exponents
are slopes in log-log scale over the larger sizes, with 95 % intervals: at smaller sizes, what a
call costs whatever its size hides the growth. Time is the least CPU time of a few runs; memory what
the process held at most, less what it held before.
"""

import ctypes
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
import torch

from benchmarks import kernels
from benchmarks.kernels import noise, seconds
from ddlib.networks.functional import build
from ddlib.stats import covers, distances
from ddlib.training.loop import train_and_score
from ddlib.training.recipe import Recipe

WIDTH = 16  # channels of the ConvNet, few enough that all sizes take the same convolutions
REPEATS = 5
MEASURES = ["seconds", "megabytes"]


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
    """Return one step of DM or DC on random images; see `kernels.distil`."""
    dataset = noise((3, side, side), class_count, 100 * class_count)
    network = build("convnet", dataset.sample_shape, class_count, width=WIDTH, depth=3)
    options |= {"real_batch": 16, "initialisation": "noise", "augmentation": "none"}
    return kernels.distil(method, dataset, network, [ipc], **options)


def evaluate(k: int) -> Callable[[], object]:
    """Return 20 training steps on k images, and a test on 1,000."""
    dataset = noise((3, 32, 32), 10, k, test=1000)
    network = build("convnet", dataset.sample_shape, 10, width=WIDTH, depth=3)
    real, recipe = dataset.train, Recipe(steps=20, batch_size=64)
    return lambda: train_and_score(network, real.samples, real.labels, dataset.test, recipe, 0)


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


def several(count: int) -> Callable[[], object]:
    """Return one iteration of DM for networks of `count` widths, of which it draws one."""
    tables = [{"network": {"name": "convnet", "width": WIDTH + i % 4}} for i in range(count)]
    return distil("dm", 5, configurations=tables)


K, CLASSES = (20, 50, 100, 200, 350, 600, 1000), (3, 6, 10, 18, 32, 56, 100)
PIXELS = (256, 400, 576, 1024, 1600, 2304, 4096)
CASES = (
    Case("k", "DM iteration", K, lambda k: distil("dm", k // 10)),
    Case("k", "DC outer step", K, lambda k: distil("dc", k // 10)),
    Case("k", "evaluation", K, evaluate),
    Case("classes", "DM iteration", CLASSES, lambda c: distil("dm", 5, c)),
    Case("classes", "DC outer step", CLASSES, lambda c: distil("dc", 5, c)),
    Case("pixels", "DM iteration", PIXELS, lambda p: distil("dm", 5, side=round(p**0.5))),
    Case("pixels", "DC outer step", PIXELS, lambda p: distil("dc", 5, side=round(p**0.5))),
    Case("configurations", "DM iteration", (3, 6, 12, 24, 48, 96), several),
    Case("configurations", "distances", (50, 100, 200, 400, 800, 1200), measure_distances),
    Case("configurations", "exact cover", (10, 14, 20, 28, 40, 60), cover_exactly),
)


def measure(number: int, count: int | None = None) -> list[dict[str, object]]:
    """Return a row for each of the first `count` sizes of a case of CASES: its time and memory."""
    torch.set_num_threads(1)
    case, rows = CASES[number], []
    case.make(case.sizes[0])()  # loads what any size needs
    for size in case.sizes[:count]:
        row = {"axis": case.axis, "job": case.job, "size": size}
        rows.append(row | dict(zip(MEASURES, cost(case.make(size), REPEATS), strict=True)))
    return rows


def cost(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the least CPU seconds of a call, and the megabytes that it adds at most."""
    ctypes.CDLL(None).malloc_trim(0)  # or smaller sizes would have left room for larger ones
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    least = min(seconds(run) for _ in range(repeats))
    return least, max(memory("VmHWM") - before, 0) / 1024


def memory(name: str) -> int:
    """Return a line of this process's status, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def grow(numbers: Sequence[int], count: int | None = None) -> pd.DataFrame:
    """Measure the cases of these numbers at their first `count` sizes, each in a new process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        rows = pool.map(measure, numbers, [count] * len(numbers))
        return pd.DataFrame([row for case in rows for row in case])


def exponents(points: pd.DataFrame) -> pd.DataFrame:
    """Return, by axis, job and measure, the slope in log-log scale and its 95 % interval.

    points: columns axis, job, size, and those of MEASURES. The smallest third does not count, nor
    does memory below 1 MB, which is chance; fewer than 3 points give no slope.
    """
    rows = []
    for (axis, job), sizes in points.groupby(["axis", "job"], sort=False):
        upper = sizes.nlargest(len(sizes) - len(sizes) // 3, "size")
        for measure in MEASURES:
            known = upper[upper[measure] > (1 if measure == "megabytes" else 0)]
            slope = half = np.nan
            if len(known) >= 3:
                line = scipy.stats.linregress(np.log(known["size"]), np.log(known[measure]))
                slope, half = line.slope, scipy.stats.t.ppf(0.975, len(known) - 2) * line.stderr
            rows.append((axis, job, measure, slope, slope - half, slope + half))
    return pd.DataFrame(rows, columns=["axis", "job", "measure", "exponent", "low", "high"])


def main() -> None:
    """Measure, and print the exponents."""
    print(exponents(grow(range(len(CASES)))).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
