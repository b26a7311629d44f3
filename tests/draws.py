"""What tests share: random numbers, small data sets and networks, what a method makes once."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ddlib.data.base import DataSet, Kind, Split
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.methods import Method
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters

BATCHES = {"iterations": 2, "real_batch": 8, "augmentation": "dsa"}
STUDENTS = {"iterations": 2, "student_steps": 2, "max_start": 2}
STUDENTS |= {"experts": 2, "expert_epochs": 1, "expert_steps": 1}
ON_DATA = {"steps": 2, "batch_size": 8}
SMALL = {
    "random": {},
    "herding": {"steps": 2},
    "k_center": {"steps": 2},
    "kernel_herding": {"steps": 2},
    "k_means": {},
    "nearest_to_centroid": {},
    "dm": BATCHES,
    "dc": {**BATCHES, "outer_steps": 2, "inner_epochs": 1},
    "dsa": {**BATCHES, "outer_steps": 2, "inner_epochs": 1},
    "mtt": STUDENTS,
    "datm": {**STUDENTS, "label_snapshot": 2},
    "ncfm": {**BATCHES, "networks": 2, "pool": ON_DATA, "frequencies": 4},
    "rded": {"candidates": 8, "crops": 2, "teacher": ON_DATA},
    "sre2l": {
        "iterations": 2,
        "teacher": ON_DATA,
        "network": {"name": "convnet", "width": 4, "depth": 2, "norm": "batch"},
    },
    "mgd3": {"steps": 3, "stop": 1, "unet_steps": 2, "unet_channels": [8]},
}
"""Parameters of each method that take a moment on the tiny set."""


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


def filled(network: nn.Module, values: Iterable[torch.Tensor]) -> nn.Module:
    """Return a module of torch.nn that holds these weights, in their order, and no others."""
    flat = nn.utils.parameters_to_vector(values)
    assert len(flat) == sum(value.numel() for value in network.parameters())
    nn.utils.vector_to_parameters(flat.clone(), network.to(flat.dtype).parameters())
    return network


def ordinary_mlp(theta: dict[str, torch.Tensor]) -> nn.Module:
    """Build an MLP of depth 2 the way torch.nn means it to be built, with these weights."""
    first, last = (nn.Linear(*theta[f"{name}.weight"].T.shape) for name in ("body.1", "head"))
    return filled(nn.Sequential(nn.Flatten(), first, nn.ReLU(), last), theta.values())


def ordinary_convnet(theta: dict, depth: int, padding=0, norm=nn.InstanceNorm2d) -> nn.Module:
    """Build a ConvNet the way torch.nn means it to be built: (body, head), with these weights."""
    width, channels = next(iter(theta.values())).shape[:2]
    layers: list[nn.Module] = [nn.ZeroPad2d(padding)]
    for _ in range(depth):
        layers += [nn.Conv2d(channels, width, 3, padding=1)]
        layers += [norm(width, affine=True), nn.ReLU(), nn.AvgPool2d(2)]
        channels = width
    head = nn.Linear(*theta["head.weight"].T.shape)
    body = nn.Sequential(*layers, nn.Flatten())
    return filled(nn.Sequential(body, head), theta.values())


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
