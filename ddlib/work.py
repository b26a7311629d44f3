"""The jobs that worker processes do for a study; each opens the data set once and keeps it."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ddlib import data, networks
from ddlib.distilled import DistilledSet
from ddlib.files import write_atomically
from ddlib.fingerprints import images_digest
from ddlib.methods import METHODS
from ddlib.parameters import Parameters
from ddlib.training import DivergedError, Recipe, Score, train_and_score


@dataclass(frozen=True)
class Context:
    """What a worker needs to open a study's data set and network: JSON options, and a digest."""

    data: str
    network: str
    digest: str
    device: str

    @property
    def identity(self) -> list[str]:
        """What decides results: the images themselves, not how they were asked for."""
        return [self.digest, self.network, self.device]


def prepare(context: Context, method: str, job: dict[str, Any], path: Path) -> Path:
    """Make what `METHODS[method].preparation` shares over sizes and seeds, as the file `path`."""
    dataset, network = _open(context)
    start = time.perf_counter()
    content = METHODS[method].preparation.make(dataset, network, job)
    write_seconds(path, time.perf_counter() - start)
    write_atomically(path, content)
    return path


def write_seconds(path: Path, seconds: float) -> None:
    """Keep the seconds that the file `path` took, beside it: its own bytes are its seed's alone."""
    write_atomically(_seconds_path(path), json.dumps(seconds).encode())


def read_seconds(path: Path) -> float | None:
    """Return the seconds that the file `path` took; None where it was never made."""
    beside = _seconds_path(path)
    return json.loads(beside.read_text()) if beside.exists() else None


def _seconds_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.seconds")


def distil(
    context: Context,
    method: str,
    parameters: Parameters,
    ipcs: Sequence[int],
    seed: int,
    prepared: Sequence[Path],
) -> tuple[dict[int, DistilledSet | DivergedError], float]:
    """Return the outcome of every size, and the seconds it took."""
    dataset, network = _open(context)
    start = time.perf_counter()
    more = [prepared] if METHODS[method].preparation else []
    outcomes = METHODS[method].distil(dataset, network, ipcs, seed, parameters, *more)
    seconds = time.perf_counter() - start
    shape = json.loads(context.network)
    for ipc, outcome in outcomes.items():
        if isinstance(outcome, DistilledSet):
            outcomes[ipc] = replace(outcome, network=shape)
    return outcomes, seconds


def evaluate(
    context: Context, synthetic: DistilledSet, recipe: Recipe, seed: int, number: int
) -> tuple[Score, float]:
    """Return the score of the network `number` trained on a distilled set, and the seconds."""
    dataset, network = _open(context)
    start = time.perf_counter()
    images, labels = synthetic.images.to(context.device), synthetic.labels.to(context.device)
    result = train_and_score(network, images, labels, dataset.test, recipe, (seed, number))
    return result, time.perf_counter() - start


def reference(context: Context, recipe: Recipe, seed: int) -> Score:
    """Return the score of a network trained on the whole training set."""
    dataset, network = _open(context)
    real = dataset.train
    return train_and_score(network, real.images, real.labels, dataset.test, recipe, (seed, 0))


@lru_cache(maxsize=1)
def _open(context: Context) -> tuple[data.DataSet, networks.Network]:
    torch.set_num_threads(1)  # a process a core beats threads, and sums keep one order
    dataset = data.load(**json.loads(context.data))
    if images_digest(dataset) != context.digest:
        raise ValueError(
            f"this worker finds other images for {dataset.name} than the study started with; give "
            "every worker the same DDLIB_DATA"
        )
    options = json.loads(context.network)
    network = networks.build(
        **options, image_shape=dataset.image_shape, class_count=dataset.class_count
    )
    on_device = {
        name: data.Split(split.images.to(context.device), split.labels.to(context.device))
        for name, split in (("train", dataset.train), ("test", dataset.test))
    }
    return replace(dataset, **on_device), network
