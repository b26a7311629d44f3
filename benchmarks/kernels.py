"""Time the library's kernels against the obvious way: `make bench`.

Both ways run in turn in one process, keep freed memory, and must give the same results. Images are
random, in the shape of CIFAR-10; the network and the sizes are the published ones.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import obvious
from ddlib.data.base import DataSet, Split
from ddlib.data.normalise import Normalisation
from ddlib.methods import METHODS
from ddlib.methods.common import initial_images, real_batches
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import AveragePool, Network
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.loop import train_and_score
from ddlib.training.recipe import Recipe

SHAPE, CLASSES, STRATEGY = (3, 32, 32), 10, augment.STRATEGIES["dsa"]
SEED, RATE = 0, 0.1  # the rate is large enough that a step of the images is no rounding error
LINE = "{:16} {:>10} {:>10} {:>18} {:>11}"
HEAD = ("case", "obvious s", "library s", "ratio", "difference")
TOLERANCES = {"nats": 1e-4, "accuracies": 0.1}
TOLERANCE = 1e-2
"""The most that the length of a difference may be, as a share of the result's own length.

A sum in another order moves a few of ten million activations over ReLU's kink, and with it single
pixels' gradients by much. One of 333 test images may lie between two classes.
"""

Parts = dict[str, torch.Tensor]  # results by name, each of which has to agree by itself


@dataclass(frozen=True)
class Scale:
    """How much of everything. The full scale is the published setting at 10 images a class.

    Evaluations are a thirtieth of a study's: 10 of 300 steps, 333 of 10,000 test images.
    """

    width: int = 128
    ipc: int = 10
    real_batch: int = 256
    ipcs: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    networks: int = 2
    steps: int = 10
    test: int = 333
    repeats: int = 3
    memory: int = 2**30  # bytes, more than a case takes


QUICK = Scale(8, 2, 8, (1, 2), 2, 3, 60, repeats=1, memory=2**24)


@dataclass(frozen=True)
class Case:
    """Two ways to the same results."""

    name: str
    obvious: Callable[[], Parts]
    library: Callable[[], Parts]


def noise(shape: tuple[int, int, int], class_count: int, train: int, test: int = 1) -> DataSet:
    """Return a data set of random images (channels, H, W): so many to train on and to test on."""
    stream = generator("images")
    splits = [
        Split(torch.randn(count, *shape, generator=stream), torch.arange(count) % class_count)
        for count in (train, test)
    ]
    normalisation = Normalisation((0.0,) * shape[0], (1.0,) * shape[0])
    return DataSet("noise", *splits, normalisation, tuple(map(str, range(class_count))))


def distil(
    method: str, dataset: DataSet, network: Network, ipcs: Sequence[int], **options: object
) -> Callable[[], dict]:
    """Return iterations of DM, or outer steps of DC or DSA, ready to run; one by default.

    DC and DSA do not train on S after a step.
    """
    if method != "dm":
        options |= {"outer_steps": 1, "inner_epochs": 0}
    parameters = METHODS[method].parameters.read({"iterations": 1} | options, method)
    return partial(METHODS[method].distil, dataset, network, ipcs, SEED, parameters)


def cases(scale: Scale) -> Iterator[Case]:
    """Yield every case, to be run before the next is made."""
    train = CLASSES * (scale.real_batch + max(scale.ipcs))
    dataset = noise(SHAPE, CLASSES, train, scale.test)
    network = build("convnet", SHAPE, CLASSES, width=scale.width, depth=3)
    yield pooling(scale)
    yield matching("DM iteration", "dm", [scale.ipc], dataset, network, scale)
    yield matching("DM, all sizes", "dm", scale.ipcs, dataset, network, scale)
    yield matching("DSA outer step", "dsa", [scale.ipc], dataset, network, scale)
    yield evaluation(dataset, network, scale)


def pooling(scale: Scale) -> Case:
    """Average pooling of a training step's first layer, forwards and backwards."""
    shape = scale.real_batch, scale.width, *SHAPE[1:]
    images = torch.randn(shape, generator=generator("pooling")).requires_grad_()

    def pooled(pool: Callable[[torch.Tensor], torch.Tensor]) -> Parts:
        means = pool(images)
        return {"means": means.detach(), "gradient": torch.autograd.grad(means.sum(), images)[0]}

    ways = partial(pooled, torch.nn.AvgPool2d(2)), partial(pooled, AveragePool())
    return Case("average pooling", *ways)


def matching(
    name: str, method: str, ipcs: Sequence[int], dataset: DataSet, network: Network, scale: Scale
) -> Case:
    """Return one step of DM or DSA: how far it moves the images of each size.

    DSA does not train on S before the next step. The obvious way runs one size after another.
    """
    starts = {ipc: initial_images(dataset, ipc, "real", SEED) for ipc in ipcs}
    rows = next(real_batches(dataset, scale.real_batch, generator("real", SEED)))
    real = [dataset.train.samples[members] for members in rows]
    theta = initial_parameters(network, generator("matching weights", SEED, 0))

    def by_hand() -> Parts:
        moved = {}
        for ipc, start in starts.items():
            images = start.clone().requires_grad_()
            convnet, synthetic = obvious.ConvNet(theta), images.chunk(CLASSES)
            if method == "dm":  # one augmentation for all classes
                stream = generator("matching augmentation", SEED, 0)
                drawn = [augment.draw(STRATEGY, 1, stream)] * CLASSES
                obvious.match_distributions(convnet, real, synthetic, drawn)
            else:
                stream = generator("matching augmentation", SEED)
                drawn = [augment.draw(STRATEGY, 1, stream) for _ in range(CLASSES)]
                obvious.match_gradients(convnet, real, synthetic, drawn)
            moved[f"images at ipc {ipc}"] = -RATE * images.grad
        return moved

    def by_library() -> Parts:
        options = {"real_batch": scale.real_batch, "learning_rate": RATE}
        options |= {"initialisation": "real", "augmentation": "dsa"}
        sets = distil(method, dataset, network, ipcs, **options)()
        return {f"images at ipc {ipc}": sets[ipc].samples - starts[ipc] for ipc in ipcs}

    return Case(name, by_hand, by_library)


def evaluation(dataset: DataSet, network: Network, scale: Scale) -> Case:
    """Networks trained on a distilled set and tested."""
    images, test = initial_images(dataset, scale.ipc, "real", SEED), dataset.test
    labels = torch.arange(CLASSES).repeat_interleave(scale.ipc)
    recipe = Recipe(steps=scale.steps, schedule="constant")
    rates = {"lr": recipe.learning_rate, "momentum": recipe.momentum}
    rates |= {"weight_decay": recipe.weight_decay}

    def by_hand(number: int) -> tuple[float, float]:
        theta = initial_parameters(network, generator("evaluation weights", number))
        trained = obvious.ConvNet(theta)
        obvious.train(trained, images, labels, scale.steps, **rates)
        return obvious.test(trained, test.samples, test.labels)

    def by_library(number: int) -> tuple[float, float]:
        score = train_and_score(network, images, labels, test, recipe, number)
        return score.accuracy, score.cross_entropy

    def scores(way: Callable[[int], tuple[float, float]]) -> Parts:
        table = torch.tensor([way(number) for number in range(scale.networks)]).double()
        return {"accuracies": table[:, 0], "nats": table[:, 1]}

    return Case("evaluation", partial(scores, by_hand), partial(scores, by_library))


def keep_memory(fetched: int) -> None:
    """Let glibc keep freed memory, as the workers of a study do; fetch some bytes beforehand.

    By default it gives every large tensor back to the system, half of the time of a training step.
    """
    limits = {-3: 2**31 - 1, -1: 2**31 - 1, -2: 2**28}  # M_MMAP_THRESHOLD, M_TRIM_, M_TOP_PAD
    if not all(ctypes.CDLL(None).mallopt(name, value) for name, value in limits.items()):
        raise OSError("this C library takes no mallopt; run the benchmarks on Linux with glibc")
    torch.ones(fetched, dtype=torch.uint8)


def difference(case: Case) -> float:
    """Return the largest difference of a part; AssertionError if any is more than it may be."""
    theirs, ours = case.obvious(), case.library()
    apart = {name: float((ours[name] - part).norm() / part.norm()) for name, part in theirs.items()}
    for name, value in apart.items():
        if not value <= TOLERANCES.get(name, TOLERANCE):
            raise AssertionError(f"{case.name}: {name} are {value:.1e} apart")
    return max(apart.values())


def seconds(call: Callable[[], object]) -> float:
    """Return the CPU seconds of a call. Waiting for other processes does not count."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(case: Case, repeats: int) -> str:
    """Return a row of the table: median seconds both ways, and the median ratio with its range."""
    apart = difference(case)
    pairs = [(seconds(case.obvious), seconds(case.library)) for _ in range(repeats)]
    medians = [f"{statistics.median(way):.3f}" for way in zip(*pairs, strict=True)]
    ratios = [theirs / ours for theirs, ours in pairs]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return LINE.format(case.name, *medians, ratio, f"{apart:.0e}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case and print a row for each."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small: to see that it works")
    scale = QUICK if parser.parse_args(arguments).quick else Scale()
    torch.set_num_threads(1)
    keep_memory(scale.memory)
    print(LINE.format(*HEAD), flush=True)
    for case in cases(scale):
        print(measure(case, scale.repeats), flush=True)
