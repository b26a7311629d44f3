"""What tests share: random numbers of a seed, data in float64, and what a method makes once."""

from dataclasses import replace
from pathlib import Path

import torch

from ddlib.data.base import DataSet, Split
from ddlib.methods import Method
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=dtype)


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
