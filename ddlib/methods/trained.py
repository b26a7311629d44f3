"""Networks that a method trains on D once for all its sizes and seeds: a pool, or a teacher."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import PlainValidator
from safetensors.torch import load_file, save

from ddlib.data.base import DataSet
from ddlib.files import reading
from ddlib.networks import functional
from ddlib.networks.functional import Theta, build
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe


class Taught(Parameters):
    """The parameters of methods with a teacher: its network, and how it is trained on D."""

    network: Annotated[dict[str, Any], PlainValidator(functional.read_network)] = {
        "name": "convnet",
        "norm": "batch",
    }
    teacher: Recipe = Recipe(steps=12000)


def jobs(recipe: Recipe, count: int) -> list[dict[str, Any]]:
    """Return a job for each of `count` networks: its number, and the recipe of its training."""
    return [{"number": number, **recipe.model_dump()} for number in range(count)]


def teacher_job(parameters: Taught, ipcs: Sequence[int]) -> list[dict[str, Any]]:
    """Return the one job of a teacher, which all sizes share."""
    return [{"network": parameters.network, **jobs(parameters.teacher, 1)[0]}]


def first_weights(network: Network, number: int, device: torch.device) -> Theta:
    """Return the weights from which the network of a number is trained."""
    return initial_parameters(network, generator("pool weights", number), device)


def train_network(dataset: DataSet, network: Network, job: Mapping[str, Any]) -> bytes:
    """Train a network on D as its job says; return its weights and buffers, a safetensors file.

    The network is `network`, unless the job has a table of another one. Raises DivergedError if a
    loss is not finite.
    """
    recipe, real = dict(job), dataset.train
    number, table = recipe.pop("number"), recipe.pop("network", None)
    network = build(**table, **dataset.sizes) if table else network
    theta = first_weights(network, number, real.device)
    stream = generator("pool batches", number)
    theta = train(network, theta, real.samples, real.labels, Recipe(**recipe), stream)
    return save({name: value.cpu().contiguous() for name, value in theta.items()})


def read_network(path: Path, device: torch.device) -> Theta:
    """Return the weights and buffers that `train_network` wrote to `path`."""
    with reading(path):
        return load_file(path, str(device))
