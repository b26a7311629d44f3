"""Train the teacher of soft labels on all data, and read it again."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save

from ddlib.configurations.configuration import Configuration
from ddlib.data.base import DataSet
from ddlib.files import reading
from ddlib.seeds import generator
from ddlib.training.loop import final, score, train
from ddlib.training.targets import Teacher


def teach(dataset: DataSet, configuration: Configuration) -> bytes:
    """Return the weights of a teacher, and its Score on the test set, as a safetensors file.

    configuration: of the teacher. One seed decides its weights, batches and augmentation. Raises
    DivergedError if a loss is not finite.
    """
    network = configuration.build(**dataset.sizes)
    theta = configuration.initial(network, generator("teacher weights"))
    theta = {name: value.to(dataset.train.device) for name, value in theta.items()}
    real, recipe = dataset.train, configuration.recipe
    stream = generator("teacher batches")
    theta = train(network, theta, real.samples, real.labels, recipe, stream)
    scores = asdict(final(score(network, theta, dataset.test), recipe))
    tensors = {name: value.cpu().contiguous() for name, value in theta.items()}
    return save(tensors, metadata={"score": json.dumps(scores)})


def read_teacher(path: Path, dataset: DataSet, configuration: Configuration) -> Teacher:
    """Return the teacher of a configuration from the file of `teach`."""
    with reading(path):
        theta = load_file(path, str(dataset.train.device))
    network = configuration.teacher.build(**dataset.sizes)
    return Teacher(network, theta, configuration.labels.temperature, configuration.labels.loss)


def read_score(path: Path) -> dict[str, float]:
    """Return the numbers of a teacher's Score from the file of `teach`."""
    with reading(path), safe_open(path, "pt") as file:
        return json.loads(file.metadata()["score"])
