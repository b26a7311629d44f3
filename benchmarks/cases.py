"""What is measured: each case the obvious way and the library's, on the same numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import reference
from ddlib.data.base import DataSet, Split
from ddlib.data.normalise import Normalisation
from ddlib.methods import METHODS
from ddlib.methods.common import initial_images, real_batches
from ddlib.networks.functional import Theta, build, embed
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.loop import score, train_and_score
from ddlib.training.recipe import Recipe

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
SEED = 0
RATE = 0.1  # of the images, large enough that a step is no rounding


@dataclass(frozen=True)
class Scale:
    """How much of everything. The full scale is the published setting at 10 images a class.

    Evaluations are a thirtieth of a study's: 10 of 300 steps, 333 of 10,000 test images.
    """

    width: int = 128
    classes: int = 10
    ipc: int = 10
    real_batch: int = 256
    ipcs: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    networks: int = 2
    steps: int = 10
    test: int = 333
    repeats: int = 3
    memory: int = 2**30  # bytes, of which a case takes less


QUICK = Scale(8, 3, 2, 8, (1, 2), 2, 3, 60, repeats=1, memory=2**24)


Parts = dict[str, torch.Tensor]
"""A case's results by name, each of which has to agree by itself."""

TOLERANCES = {"nats": 1e-4, "accuracies": 0.1}
TOLERANCE = 1e-2
"""The length of a part's difference over its own, at most, for others than TOLERANCES: a sum in
another order moves a few of ten million activations over ReLU's kink, and with it single pixels'
gradients by much. A test holds small cases to 1e-4. Nats are means over images: those of other
images are 2e-3 apart; an image of 333 may lie between two classes."""


@dataclass(frozen=True)
class Case:
    """Two ways to the same numbers; both return them."""

    name: str
    data: str
    reference: Callable[[], Parts]
    ours: Callable[[], Parts]


def difference(theirs: Parts, ours: Parts, what: str) -> float:
    """Return the largest difference of a part; AssertionError if any is more than it may be."""
    apart = {}
    for name, part in theirs.items():
        apart[name] = float((ours[name] - part).norm() / part.norm())
        if not apart[name] <= TOLERANCES.get(name, TOLERANCE):
            raise AssertionError(f"{what}: {name} are {apart[name]:.1e} apart")
    return max(apart.values())


@dataclass(frozen=True)
class Setting:
    """A data set of random images in a real one's shape, and the ConvNet for it."""

    scale: Scale
    data: str
    dataset: DataSet
    network: Network
    theta: Theta

    @property
    def strategy(self) -> str:
        return "dsa_no_flip" if self.data == "mnist" else "dsa"

    def convnet(self, theta: Theta) -> reference.ConvNet:
        padding = self.network.body[0].padding[0]  # which takes 28 pixels to 32
        return reference.ConvNet(theta, padding)


def noise(
    name: str, shape: tuple[int, int, int], class_count: int, train: int, test: int = 1
) -> DataSet:
    """Return a data set of so many random images (channels, H, W), fast to make and to forget."""
    stream = generator("images", name)
    splits = [
        Split(torch.randn(count, *shape, generator=stream), torch.arange(count) % class_count)
        for count in (train, test)
    ]
    normalisation = Normalisation((0.0,) * shape[0], (1.0,) * shape[0])
    return DataSet(name, *splits, normalisation, tuple(map(str, range(class_count))))


def make_setting(scale: Scale, data: str) -> Setting:
    """Return the setting of a data set of SHAPES."""
    shape, count = SHAPES[data], scale.classes * (scale.real_batch + max(scale.ipcs))
    dataset = noise(data, shape, scale.classes, count, scale.test)
    network = build("convnet", shape, scale.classes, width=scale.width, depth=3)
    # The weights that the library draws in a method's first iteration.
    theta = initial_parameters(network, generator("matching weights", SEED, 0))
    return Setting(scale, data, dataset, network, theta)


def all_cases(scale: Scale) -> Iterator[Case]:
    """Yield every case, to be run before the next is made."""
    for data in SHAPES:
        setting = make_setting(scale, data)
        yield real_side(setting)
        yield distribution_matching(setting, [scale.ipc], "DM iteration")
        yield gradient_matching(setting, "dc", "none")
        yield gradient_matching(setting, "dsa", setting.strategy)
        yield evaluation(setting)
        yield test_pass(setting)
    setting = make_setting(scale, "mnist")
    yield distribution_matching(setting, scale.ipcs, f"DM sweep over {len(scale.ipcs)} sizes")


def real_side(setting: Setting) -> Case:
    """The features of DM's real batch, which is all of its real side."""
    rows = torch.cat(first_rows(setting))
    images, count = setting.dataset.train.samples[rows], setting.scale.real_batch

    @torch.no_grad()
    def theirs() -> Parts:
        network = setting.convnet(setting.theta)
        return {"features": torch.cat([network.body(own) for own in images.split(count)])}

    @torch.no_grad()
    def ours() -> Parts:
        return {"features": embed(setting.network, setting.theta, images)}

    return Case("DM real side", setting.data, theirs, ours)


def distribution_matching(setting: Setting, ipcs: Sequence[int], name: str) -> Case:
    """An iteration of DM at one or more sizes, which the obvious way runs one after another."""

    def theirs() -> Parts:
        stream = generator("matching augmentation", SEED, 0)
        drawn = augment.draw(augment.STRATEGIES[setting.strategy], 1, stream)
        return _moved(setting, reference.match_distributions, ipcs, drawn)

    ours = partial(_moves, setting, "dm", ipcs, setting.strategy)
    return Case(name, setting.data, theirs, ours)


def gradient_matching(setting: Setting, method: str, strategy: str) -> Case:
    """An outer step of DC or DSA: the gradients of S and D matched, without training on S."""
    ipc = setting.scale.ipc

    def theirs() -> Parts:
        draws, families = generator("matching augmentation", SEED), augment.STRATEGIES[strategy]
        drawn = [augment.draw(families, 1, draws) for _ in setting.dataset.classes]
        return _moved(setting, reference.match_gradients, [ipc], drawn)

    name = f"{method.upper()} outer step"
    once = {"outer_steps": 1, "inner_epochs": 0}
    ours = partial(_moves, setting, method, [ipc], strategy, **once)
    return Case(name, setting.data, theirs, ours)


def _moved(
    setting: Setting, match: Callable[..., None], ipcs: Sequence[int], drawn: object
) -> Parts:
    """Return how far the obvious way moves the images of each size in one step."""
    moved = {}
    for ipc in ipcs:
        images = initial_images(setting.dataset, ipc, "real", SEED).requires_grad_()
        match(setting.convnet(setting.theta), setting.dataset, first_rows(setting), images, drawn)
        moved[f"images at ipc {ipc}"] = -RATE * images.grad
    return moved


def _moves(
    setting: Setting, method: str, ipcs: Sequence[int], strategy: str, **options: object
) -> Parts:
    """Return how far the library moves the images (k, channels, H, W) of each size in one step."""
    given = {"iterations": 1, "real_batch": setting.scale.real_batch, "learning_rate": RATE}
    given |= {"initialisation": "real", "augmentation": strategy, **options}
    parameters = METHODS[method].parameters.read(given, method)
    made = METHODS[method].distil(setting.dataset, setting.network, ipcs, SEED, parameters)
    starts = {ipc: initial_images(setting.dataset, ipc, "real", SEED) for ipc in ipcs}
    return {f"images at ipc {ipc}": made[ipc].samples - starts[ipc] for ipc in ipcs}


def first_rows(setting: Setting) -> list[torch.Tensor]:
    """Return the rows that the library draws in a method's first iteration, class by class."""
    return next(real_batches(setting.dataset, setting.scale.real_batch, generator("real", SEED)))


def evaluation(setting: Setting) -> Case:
    """Networks trained on a distilled set and tested."""
    scale, test = setting.scale, setting.dataset.test
    images = initial_images(setting.dataset, scale.ipc, "real", SEED)
    labels = torch.arange(scale.classes).repeat_interleave(scale.ipc)
    recipe = Recipe(steps=scale.steps, schedule="constant")

    def theirs() -> Parts:
        scores = []
        for number in range(scale.networks):
            network = setting.convnet(weights(number))
            rates = recipe.learning_rate, recipe.momentum, recipe.weight_decay
            reference.train(network, images, labels, scale.steps, *rates)
            scores.append(reference.test(network, test))
        return _parts(scores)

    def weights(number: int) -> Theta:
        return initial_parameters(setting.network, generator("evaluation weights", number))

    def ours() -> Parts:
        given = setting.network, images, labels, test, recipe
        scores = [train_and_score(*given, number) for number in range(scale.networks)]
        return _parts([(each.accuracy, each.cross_entropy) for each in scores])

    return Case(f"evaluation of {scale.networks} networks", setting.data, theirs, ours)


def test_pass(setting: Setting) -> Case:
    """A network's score on a test set of as many images as DM's real batch."""
    train = setting.dataset.train
    count = 10 * setting.scale.real_batch
    split = Split(train.samples[:count], train.labels[:count])

    def ours() -> Parts:
        found = score(setting.network, setting.theta, split)
        return _parts([(found.accuracy, found.cross_entropy)])

    return Case(
        *("test pass", setting.data),
        lambda: _parts([reference.test(setting.convnet(setting.theta), split)]),
        ours,
    )


def _parts(scores: Sequence[tuple[float, float]]) -> Parts:
    """Return accuracies and nats, one of each a network."""
    table = torch.tensor(scores, dtype=torch.float64)
    return {"accuracies": table[:, 0], "nats": table[:, 1]}
