"""What is measured: each case the obvious way and the library's, on the same numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks import machine, reference
from ddlib import augment
from ddlib.data import DataSet, Normalisation, Split
from ddlib.methods import METHODS
from ddlib.methods.common import initial_images, real_batches
from ddlib.networks import Network, Theta, build, embed, initial_parameters
from ddlib.seeds import generator
from ddlib.training import Recipe, score, train_and_score
from ddlib.winograd import Convolution

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


TOLERANCE = 1e-2


@dataclass(frozen=True)
class Case:
    """Two ways to the same numbers; both return them.

    tolerance: the length of their difference over that of the results, at most: a sum in another
    order moves a few of ten million activations over ReLU's kink, and with it single pixels'
    gradients by much. In float64 they are as good as equal, which a test sees to;
    least: the seconds below which the machine cannot go, if that is known.
    """

    name: str
    data: str
    reference: Callable[[], torch.Tensor]
    ours: Callable[[], torch.Tensor]
    tolerance: float = TOLERANCE
    least: Callable[[], float] | None = None


def difference(
    theirs: torch.Tensor, ours: torch.Tensor, what: str, tolerance: float = TOLERANCE
) -> float:
    """Return the length of the difference over that of theirs; AssertionError if it is much."""
    apart = float((ours - theirs).norm() / theirs.norm())
    if not apart <= tolerance:
        raise AssertionError(f"{what}: results are {apart:.1e} apart")
    return apart


@dataclass(frozen=True)
class Setting:
    """A data set of random images in a real one's shape, and the ConvNet for it."""

    scale: Scale
    data: str
    dataset: DataSet
    network: Network
    theta: Theta

    @property
    def padding(self) -> int:
        """The first convolution's, which takes 28 pixels to 32."""
        return self.network.body[0].padding[0]

    @property
    def strategy(self) -> str:
        return "dsa_no_flip" if self.data == "mnist" else "dsa"

    def least(self, passed: int, trained: int, back: str = "weights") -> Callable[[], float]:
        """The seconds that images take at least, forward, and forward and back."""
        shape = SHAPES[self.data]
        return partial(machine.least_seconds, self.theta, shape, passed, trained, back)

    def convnet(self, theta: Theta) -> reference.ConvNet:
        return reference.ConvNet(theta, self.padding)


def make_setting(scale: Scale, data: str) -> Setting:
    """Return the setting of a data set of SHAPES."""
    stream, shape = generator("images", data), SHAPES[data]
    splits = {
        name: Split(
            torch.randn(count, *shape, generator=stream), torch.arange(count) % scale.classes
        )
        for name, count in (
            ("train", scale.classes * (scale.real_batch + max(scale.ipcs))),
            ("test", scale.test),
        )
    }
    normalisation = Normalisation((0.0,) * shape[0], (1.0,) * shape[0])
    names = tuple(map(str, range(scale.classes)))
    dataset = DataSet(data, **splits, normalisation=normalisation, classes=names)
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
    yield convolution(setting)


def real_side(setting: Setting) -> Case:
    """The features of DM's real batch, which is all of its real side."""
    rows = torch.cat(first_rows(setting))
    images, count = setting.dataset.train.images[rows], setting.scale.real_batch

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        network = setting.convnet(setting.theta)
        return torch.cat([network.body(own) for own in images.split(count)])

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return embed(setting.network, setting.theta, images)

    return Case("DM real side", setting.data, theirs, ours, least=setting.least(len(images), 0))


def convolution(setting: Setting) -> Case:
    """The second layer's convolution by itself, of a distilled set, forward and back."""
    width, count = setting.scale.width, setting.scale.classes * setting.scale.ipc
    stream = generator("convolution", width)
    images = torch.randn(count, width, 16, 16, generator=stream).requires_grad_()
    layer = Convolution(width, width)
    layer.load_state_dict({key[7:]: setting.theta[key] for key in ("body.4.weight", "body.4.bias")})

    def derived(convolved: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(convolved.tanh().sum(), [images, layer.weight])
        return torch.cat([each.flatten() / each.norm() for each in found])

    return Case(
        *("convolution, and back", setting.data),
        lambda: derived(F.conv2d(images, layer.weight, layer.bias, padding=1)),
        lambda: derived(layer(images)),
    )


def distribution_matching(setting: Setting, ipcs: Sequence[int], name: str) -> Case:
    """An iteration of DM at one or more sizes, which the obvious way runs one after another."""

    def theirs() -> torch.Tensor:
        stream = generator("matching augmentation", SEED, 0)
        drawn = augment.draw(augment.STRATEGIES[setting.strategy], 1, stream)
        moved = []
        for ipc in ipcs:
            images = initial_images(setting.dataset, ipc, "real", SEED).requires_grad_()
            network, rows = setting.convnet(setting.theta), first_rows(setting)
            reference.match_distributions(network, setting.dataset, rows, images, drawn)
            moved.append(-RATE * images.grad)
        return torch.cat(moved)

    scale = setting.scale
    least = setting.least(scale.classes * scale.real_batch, scale.classes * sum(ipcs), "images")
    ours = partial(_moves, setting, "dm", ipcs, setting.strategy)
    return Case(name, setting.data, theirs, ours, least=least)


def gradient_matching(setting: Setting, method: str, strategy: str) -> Case:
    """An outer step of DC or DSA: the gradients of S and D matched, without training on S."""
    ipc = setting.scale.ipc

    def theirs() -> torch.Tensor:
        images = initial_images(setting.dataset, ipc, "real", SEED).requires_grad_()
        draws, families = generator("matching augmentation", SEED), augment.STRATEGIES[strategy]
        drawn = [augment.draw(families, 1, draws) for _ in setting.dataset.classes]
        network, rows = setting.convnet(setting.theta), first_rows(setting)
        reference.match_gradients(network, setting.dataset, rows, images, drawn)
        return -RATE * images.grad

    name = f"{method.upper()} outer step"
    once = {"outer_steps": 1, "inner_epochs": 0}
    ours = partial(_moves, setting, method, [ipc], strategy, **once)
    # A gradient's own gradient takes at least as long as the gradient.
    least = setting.least(0, setting.scale.classes * (setting.scale.real_batch + 2 * ipc))
    return Case(name, setting.data, theirs, ours, least=least)


def _moves(
    setting: Setting, method: str, ipcs: Sequence[int], strategy: str, **options: object
) -> torch.Tensor:
    """Return how far the library moves the images (k, channels, H, W) of all sizes in one step."""
    given = {"iterations": 1, "real_batch": setting.scale.real_batch, "learning_rate": RATE}
    given |= {"initialisation": "real", "augmentation": strategy, **options}
    parameters = METHODS[method].parameters.read(given, method)
    made = METHODS[method].distil(setting.dataset, setting.network, ipcs, SEED, parameters)
    starts = [initial_images(setting.dataset, ipc, "real", SEED) for ipc in ipcs]
    return torch.cat([made[ipc].images - start for ipc, start in zip(ipcs, starts, strict=True)])


def first_rows(setting: Setting) -> list[torch.Tensor]:
    """Return the rows that the library draws in a method's first iteration, class by class."""
    return next(real_batches(setting.dataset, setting.scale.real_batch, generator("real", SEED)))


def evaluation(setting: Setting) -> Case:
    """Networks trained on a distilled set and tested; both return accuracies and nats."""
    scale, test = setting.scale, setting.dataset.test
    images = initial_images(setting.dataset, scale.ipc, "real", SEED)
    labels = torch.arange(scale.classes).repeat_interleave(scale.ipc)
    recipe = Recipe(steps=scale.steps, schedule="constant")

    def theirs() -> torch.Tensor:
        scores = []
        for number in range(scale.networks):
            network = setting.convnet(weights(number))
            rates = recipe.learning_rate, recipe.momentum, recipe.weight_decay
            reference.train(network, images, labels, scale.steps, *rates)
            scores.append(reference.test(network, test))
        return torch.stack(scores)

    def weights(number: int) -> Theta:
        return initial_parameters(setting.network, generator("evaluation weights", number))

    def ours() -> torch.Tensor:
        scores = [
            train_and_score(setting.network, images, labels, test, recipe, number)
            for number in range(scale.networks)
        ]
        return _table(scores)

    trained = scale.networks * scale.steps * scale.classes * scale.ipc
    least = setting.least(scale.networks * scale.test, trained)
    return Case(f"evaluation of {scale.networks} networks", setting.data, theirs, ours, least=least)


def test_pass(setting: Setting) -> Case:
    """A network's score on a test set of as many images as DM's real batch."""
    train = setting.dataset.train
    count = 10 * setting.scale.real_batch
    split = Split(train.images[:count], train.labels[:count])
    return Case(
        *("test pass", setting.data),
        lambda: reference.test(setting.convnet(setting.theta), split),
        lambda: _table([score(setting.network, setting.theta, split)])[0],
        least=setting.least(len(split.labels), 0),
    )


def _table(scores: Sequence[object]) -> torch.Tensor:
    rows = [(score.accuracy, score.cross_entropy) for score in scores]
    return torch.tensor(rows, dtype=torch.float64)
