"""NCFM: the features of S should have the characteristic function of the features of D."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import nn

from ddlib.data.base import DataSet
from ddlib.devices import send, unrounded
from ddlib.distilled import DistilledSet
from ddlib.methods import trained
from ddlib.methods.common import Matching, Synthetic, real_batches
from ddlib.networks.functional import Theta, embed, logits
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import ByIpc, Share, at_ipc
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.recipe import Recipe

LEAST = 1e-12  # of a squared difference: a root has no slope at 0


class CharacteristicMatching(Matching):
    """Defaults are after the reference's for CIFAR-10 (Wang et al., CVPR 2025).

    S moves by Adam, whose first decay is `momentum`, at a rate in normalised pixels. factor: as in
    `BatchMatching`; the published sets have 2. networks, pool: how many networks are trained on D,
    and how. frequencies: their number. frequency_learning_rate: of the network that chooses the
    frequencies; at 0 there is no such network, and frequencies are N(0, 1). amplitude: the weight
    of differences in amplitude; those in phase have the rest. calibration: the weight of the
    cross-entropy of S under a trained network.

    The released settings differ. Their network for frequencies is off, as at a rate of 0; their
    learning rate is 0.001 of pixels from 0 to 1, where 0.04 here is about 0.01 of them. They clamp
    pixels, augment by colour, crop and cutout, and train the pool with augmentation, CutMix and a
    rate that falls in steps.
    """

    iterations: NonNegativeInt = 20000
    learning_rate: ByIpc[NonNegativeFloat] = 0.04
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    real_batch: PositiveInt = 1024
    factor: PositiveInt = 1
    networks: PositiveInt = 20
    pool: Recipe = Recipe(steps=12000)
    frequencies: Annotated[int, Field(ge=2)] = 4096
    frequency_learning_rate: NonNegativeFloat = 0.001
    amplitude: Share = 0.5
    calibration: NonNegativeFloat = 1 / 300


def jobs(parameters: CharacteristicMatching, ipcs: Sequence[int]) -> list[dict[str, Any]]:
    """Return a job for each network of the pool, which all sizes share."""
    return trained.jobs(parameters.pool, parameters.networks)


def distil(
    dataset: DataSet,
    network: Network,
    ipcs: Sequence[int],
    seed: int,
    parameters: CharacteristicMatching,
    prepared: Sequence[Path],
) -> dict[int, DistilledSet | DivergedError]:
    """Distil every size: minimise the `discrepancy` of its features from those of D.

    Each iteration draws a network on the line from the first to the trained weights of one of the
    pool, an augmentation, a real batch, and noise, which all sizes use. Against each size, a
    network of its own maps the noise to frequencies and maximises the same loss. prepared: the
    files of `trained.train_network`.

    Source: Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax
    Perspective" (CVPR 2025), and its code, which alone has the calibration and the line. It matches
    one class after another, and repeats each of 256 frequencies 16 times; here all of an
    iteration's frequencies differ, and all classes are matched at once.
    """
    real = dataset.train
    theta = trained.first_weights(network, 0, real.device)
    width = embed(network, theta, real.at(slice(2))).shape[1]
    chooser = frequency_network(width)
    sizes = [_Size(dataset, ipc, seed, parameters, chooser) for ipc in ipcs]
    pool = _drawn(network, prepared, seed, real.device)
    batches = real_batches(dataset, parameters.real_batch, generator("real", seed))
    families, moving = augment.STRATEGIES[parameters.augmentation], list(sizes)
    for iteration in range(parameters.iterations):
        theta, end = next(pool)
        stream = generator("characteristic function", seed, iteration)
        draw, rows = augment.draw(families, 1, stream), next(batches)
        noise = torch.randn(parameters.frequencies, width, generator=stream, dtype=torch.float32)
        with torch.no_grad():
            features = embed(network, theta, augment.apply(real.at(torch.cat(rows)), draw))
        wanted = F.normalize(features).split([len(members) for members in rows])
        noise = send(noise, real.device).to(features.dtype)
        for size in list(moving):
            samples = augment.apply(size.decoded(), draw)
            features = F.normalize(embed(network, theta, samples))
            reached = features.split(size.ipc * size.factor**2)
            loss = discrepancy(reached, wanted, size.frequencies(noise), parameters.amplitude)
            if parameters.calibration:
                nats = F.cross_entropy(logits(network, end, samples), size.labels)
                loss = loss + parameters.calibration * dataset.class_count * nats
            if or_diverged(size.descend, loss, iteration):
                moving.remove(size)
        if not moving:
            break
    return {size.ipc: or_diverged(size.finished, "ncfm", parameters.iterations) for size in sizes}


class _Size(Synthetic):
    """S of one size, and the weights of the network that chooses frequencies against it."""

    def __init__(
        self,
        dataset: DataSet,
        ipc: int,
        seed: int,
        parameters: CharacteristicMatching,
        chooser: Network,
    ):
        super().__init__(dataset, ipc, seed, parameters, parameters.factor)
        self.chooser, self.theta = chooser, {}
        groups = [{"params": [self.samples], "lr": at_ipc(parameters.learning_rate, ipc)}]
        if rate := parameters.frequency_learning_rate:
            stream = generator("frequency weights", seed)
            theta = initial_parameters(chooser, stream, self.samples.device)
            self.theta = {name: value.requires_grad_() for name, value in theta.items()}
            options = {"lr": rate, "betas": (0.9, 0.999), "maximize": True}
            groups.append({"params": list(theta.values()), **options})
        self.optimiser = torch.optim.Adam(groups, betas=(parameters.momentum, 0.999))

    def frequencies(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the frequencies (M, F) for noise (M, F): the noise itself without a network."""
        return logits(self.chooser, self.theta, noise) if self.theta else noise


def frequency_network(width: int) -> Network:
    """Return the network from noise (M, F) to frequencies (M, F) in (-1, 1), F = width."""

    def layer(activation: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), activation)

    with torch.device("meta"):  # so that nothing is drawn from the global random state
        body = nn.Sequential(layer(nn.LeakyReLU(0.2)), layer(nn.LeakyReLU(0.2)))
        return Network(body, layer(nn.Tanh()))


def _drawn(
    network: Network, prepared: Sequence[Path], seed: int, device: torch.device
) -> Iterator[tuple[Theta, Theta]]:
    """Yield without end weights between first and trained ones, and the trained ones."""
    ends = [trained.read_network(path, device) for path in prepared]
    starts = [trained.first_weights(network, number, device) for number in range(len(ends))]
    stream = generator("pool", seed)
    while True:
        place, share = torch.rand(2, generator=stream, dtype=torch.float64).tolist()
        number = int(place * len(ends))
        end = ends[number]
        yield {name: first.lerp(end[name], share) for name, first in starts[number].items()}, end


def discrepancy(
    synthetic: Sequence[torch.Tensor],
    real: Sequence[torch.Tensor],
    frequencies: torch.Tensor,
    amplitude: float = 0.5,
) -> torch.Tensor:
    """Return the sum over classes of the discrepancy () of characteristic functions.

    synthetic, real: the features (n, F) of each class; frequencies: (M, F). For the functions f and
    g of a class it is the mean over frequencies of the root of amplitude (|f| - |g|)^2 + (1 -
    amplitude) 2 |f| |g| (1 - cos(angle between f and g)). With both weights 1 it would be |f - g|.
    """
    f, g = (
        torch.stack([characteristic_function(features, frequencies) for features in classes])
        for classes in (synthetic, real)
    )
    lengths = f.abs(), g.abs()
    phase = 2 * (lengths[0] * lengths[1] - (f * g.conj()).real)
    squares = amplitude * (lengths[0] - lengths[1]).square() + (1 - amplitude) * phase
    return squares.clamp(LEAST).sqrt().mean(1).sum()


def characteristic_function(features: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Return the empirical characteristic function (M,), the mean of exp(i <t, feature>).

    features: (n, F); frequencies t: (M, F).
    """
    with unrounded(features.device):
        angles = features @ frequencies.T
        return torch.complex(angles.cos().mean(0), angles.sin().mean(0))
