"""What tests share: random numbers, small data sets and networks, what a method makes once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ddlib.data.base import DataSet, Kind, Split
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.methods import Method
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=dtype)


def labelled(
    samples: torch.Tensor,
    classes: Sequence[str],
    normalisation: Normalisation | Whitening,
    kind: Kind = "image",
) -> DataSet:
    """Return a data set of these samples, each class in turn, to train on and to test on."""
    split = Split(samples, torch.arange(len(samples)) % len(classes))
    return DataSet("own", split, split, normalisation, tuple(classes), kind)


def narrow(name: str) -> dict[str, int]:
    """Return options that make a network for images as small as it can be."""
    fixed = {name: {} for name in ("linear", "lenet", "alexnet")}
    return ({"vit": {"width": 12}} | fixed).get(name, {"width": 4})


def ordinary_mlp(theta: dict[str, torch.Tensor]) -> nn.Sequential:
    """Build an MLP of depth 2 the way torch.nn means it to be built, with these weights."""
    first, last = theta["body.1.weight"], theta["head.weight"]
    ordinary = nn.Sequential(nn.Flatten(), nn.Linear(*first.T.shape), nn.ReLU())
    ordinary.append(nn.Linear(*last.T.shape)).to(first.dtype)
    flat = nn.utils.parameters_to_vector(theta.values())
    nn.utils.vector_to_parameters(flat.clone(), ordinary.parameters())
    return ordinary


def decoded_by_hand(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Cut out the tiles of each image one by one, and enlarge each."""
    height, width = images.shape[-2] // factor, images.shape[-1] // factor
    enlarge = nn.Upsample(images.shape[-2:], mode="bilinear")
    tiles = []
    for image in images:
        for row in range(factor):
            for column in range(factor):
                rows = slice(row * height, (row + 1) * height)
                tile = image[:, rows, column * width : (column + 1) * width]
                tiles.append(enlarge(tile[None])[0])
    return torch.stack(tiles)


def in_float64(dataset: DataSet) -> DataSet:
    """Return the data set in numbers in which another order of sums shows nowhere."""
    train, test = (Split(p.samples.double(), p.labels) for p in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test)


def prepare(
    method: Method, settings: Parameters, ipcs: list[int], data: DataSet, network: Network, to: Path
) -> list[list[Path]]:
    """Write what a method makes once to the folder `to`; return what `distil` takes more for it."""
    if not method.preparation:
        return []
    jobs = method.preparation.jobs(settings, ipcs)
    paths = [to / f"{data.train.device}-{number}" for number in range(len(jobs))]
    for job, path in zip(jobs, paths, strict=True):
        path.write_bytes(method.preparation.make(data, network, job))
    return [paths]
