"""What ImageNet-1K at 64 pixels would cost: `python -m benchmarks.scale`, a minute on one core.

It measures seconds and megabytes per image at the published width on ten classes, and multiplies
them by the counts of the published loops; the formulas are in docs/scale.md.
"""

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch

from benchmarks import kernels
from benchmarks.growth import cost
from benchmarks.kernels import noise
from ddlib.methods.trajectory import unroll
from ddlib.networks.functional import build, flatten
from ddlib.networks.initial import initial_parameters
from ddlib.training.augment import STRATEGIES, draw
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe

CLASSES, IMAGES, SIDE = 1000, 1_281_167, 64
FORWARD = 429e6  # floating-point operations of a ConvNet of width 128, depth 4, on one image
DIT = 119e9  # operations of a pass of DiT-XL/2 at 256 pixels, published
GPU = 20e12  # operations a second that a GPU is assumed to reach
BATCH = 256  # real images of a class, or of all classes in a training


def _distil(method: str, ipc: int, real_batch: int) -> Callable[[], object]:
    dataset = noise((3, SIDE, SIDE), 10, 400)
    network = build("convnet", dataset.sample_shape, 10, width=128, depth=4)
    options = {"real_batch": real_batch, "augmentation": "none"}
    return kernels.distil(method, dataset, network, [ipc], **options)


def _step(kind: str, batch: int) -> Callable[[], object]:
    """Return a training step, or a step of MTT's student with the sweep back."""
    dataset = noise((3, SIDE, SIDE), 10, batch)
    network = build("convnet", dataset.sample_shape, 10, width=128, depth=4)
    theta = initial_parameters(network, torch.Generator().manual_seed(0))
    images, labels = dataset.train.at(slice(None)), dataset.train.labels
    stream = torch.Generator().manual_seed(0)
    if kind == "train":
        return lambda: train(network, theta, images, labels, Recipe(steps=1), stream)
    start = flatten(network, theta)
    step = torch.arange(batch), draw(STRATEGIES["none"], batch, stream)
    call = network, images.requires_grad_(), labels, torch.tensor(0.01), start, start + 1, [step]
    return lambda: unroll(*call)


def _unit(make: Callable[..., Callable[[], object]], *sizes: tuple[int, ...]) -> tuple:
    """Return the seconds and megabytes by which the second size exceeds the first, an image."""
    rows = []
    for size in sizes:
        run = make(*size[1:])
        run()
        rows.append(cost(run, repeats=2))
    count = sizes[1][0] - sizes[0][0]
    return tuple(max(late - early, 0) / count for early, late in zip(*rows, strict=True))


def units() -> pd.DataFrame:
    """Return seconds of a core and megabytes an image, of what the methods do with images."""
    torch.set_num_threads(1)
    real, learned = [(40, 1, 4), (160, 1, 16)], [(10, 1, 4), (40, 4, 4)]
    rows = {"forward": _unit(partial(_distil, "dm"), *real)}
    rows["DM image"] = _unit(partial(_distil, "dm"), *learned)
    rows["DC real image"] = _unit(partial(_distil, "dc"), *real)
    rows["DC image"] = _unit(partial(_distil, "dc"), *learned)
    for kind in ("train", "MTT student"):
        rows[kind] = _unit(partial(_step, kind), (16, 16), (64, 64))
    return pd.DataFrame(rows, index=["seconds", "megabytes"]).T


def costs(measured: pd.DataFrame) -> pd.DataFrame:
    """Return days of a core and hours of a GPU at both sizes; measured: see `units`."""
    forward, dm, dc_real, dc, step, student = measured["seconds"]
    core, rows = FORWARD / forward, []
    for ipc, outer, inner in ((10, 10, 50), (50, 50, 10)):
        k = ipc * CLASSES
        matching = 1000 * outer * (CLASSES * BATCH * dc_real + k * dc)
        seconds_of = {
            "dm": 20_000 * (CLASSES * BATCH * forward + k * dm),
            "dc, dsa": matching + 1000 * (outer - 1) * inner * k * step,
            "mtt, one expert": 50 * IMAGES * step,
            "mtt, a set, batches of all S": 5000 * 30 * k * student,
            "mtt, a set, batches of 256": 5000 * 30 * BATCH * student,
            "mgd3 (DiT)": k * 50 * 2 * DIT / core,
            "an evaluation, 1,000 epochs": 1000 * k * step,
            "a network on all data, 30 passes": 30 * IMAGES * step,
        }
        for what, spent in seconds_of.items():
            rows.append((ipc, what, spent / 86400, spent * core / GPU / 3600))
    return pd.DataFrame(rows, columns=["ipc", "what", "days of a core", "hours of a GPU"])


def main() -> None:
    """Print the units and the costs."""
    measured = units()
    print(measured.round(5).to_string(), costs(measured).round(1).to_string(index=False), sep="\n")


if __name__ == "__main__":
    main()
