"""Pretrain the body of a network on the real images without their labels."""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save

from ddlib.configurations.configuration import Configuration
from ddlib.data.base import DataSet
from ddlib.networks.functional import logits
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import Watch
from ddlib.training.loop import Training, batches
from ddlib.training.recipe import Recipe

ROTATIONS = 4  # by 0, 90, 180 and 270 degrees
PROJECTION = 64  # outputs of the contrastive head
TEMPERATURE = 0.5  # of the contrastive loss


def pretrain(dataset: DataSet, configuration: Configuration) -> bytes:
    """Return the weights of the body, pretrained on the real images, as a safetensors file.

    Only the network, initialisation and pretraining of the configuration matter. Raises
    DivergedError if a loss or a weight is not finite.
    """
    kind, options = configuration.initialisation, configuration.pretraining
    view, loss_of, outputs, copies = LOSSES[kind]
    plain = json.dumps([configuration.network, kind], sort_keys=True)
    stream, real = generator("pretraining", plain), dataset.train
    network = configuration.build(dataset.sample_shape, outputs)
    recipe = Recipe(**vars(options), optimizer="adam", weight_decay=0.0, schedule="constant")
    theta = initial_parameters(network, stream, real.device)
    training = Training(network, theta, recipe, stream)
    rows, watch = batches(len(real.labels), max(options.batch_size // copies, 1), stream), Watch()
    for step in range(recipe.steps):
        images = view(real.at(next(rows)), stream)
        loss = loss_of(logits(network, training.theta, images, training=True, stream=stream))
        watch.finite(step, f"the {kind} loss", loss)
        training.descend(loss)
    names, weights = [name for name, _ in network.body.named_parameters()], training.weights
    body = {f"body.{name}": weights[f"body.{name}"] for name in names}
    for weight in body.values():
        watch.finite(recipe.steps, "a pretrained weight", weight)
    watch.check()
    return save(body)


def rotated(images: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    """Return images (N, channels, H, W) under all four rotations, one after another: (4N, ...).

    Raises ValueError for images that are not square.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(
            f"initialisation 'rotation' turns images by quarters, but these are {height}x{width}; "
            "choose 'contrastive', or square images by image_size"
        )
    return torch.cat([images.rot90(turns, (2, 3)) for turns in range(ROTATIONS)])


def rotation_loss(scores: torch.Tensor) -> torch.Tensor:
    """Return the loss () of predicting the rotation (Gidaris et al., ICLR 2018).

    scores: (4N, 4), for the images that `rotated` returns.
    """
    turns = torch.arange(ROTATIONS, device=scores.device)
    return F.cross_entropy(scores, turns.repeat_interleave(len(scores) // ROTATIONS))


def two_views(images: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
    """Return two views of each image (N, channels, H, W): all first views, then all second ones.

    A view draws one family of DSA for the batch, and strengths for each image.
    """
    families = augment.STRATEGIES["dsa"]
    draws = [augment.draw(families, len(images), stream) for _ in range(2)]
    return torch.cat([augment.apply(images, drawn) for drawn in draws])


def contrastive_loss(projected: torch.Tensor) -> torch.Tensor:
    """Return SimCLR's loss (), NT-Xent (Chen et al., ICML 2020, equation 1).

    projected: (2N, F); rows i and i + N are views of one image. Each row is a classification: which
    other row is its second view? Scores are cosines over TEMPERATURE.
    """
    count = len(projected) // 2
    unit = F.normalize(projected)
    cosines = (unit @ unit.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(cosines, torch.arange(2 * count, device=unit.device).roll(count))


LOSSES = {
    "rotation": (rotated, rotation_loss, ROTATIONS, ROTATIONS),
    "contrastive": (two_views, contrastive_loss, PROJECTION, 1),
}
"""Ways to learn without labels: the views of a batch, the loss, the number of outputs, and the
factor by which batches are smaller."""
