"""Bodies pretrained on the real images without their labels."""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save

from ddlib.configurations.configuration import Configuration
from ddlib.data.base import DataSet
from ddlib.networks.functional import Theta, logits
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import Watch
from ddlib.training.loop import batches, descend, trainable
from ddlib.training.recipe import Recipe

ROTATIONS = 4  # by 0, 90, 180 and 270 degrees
PROJECTION = 64  # outputs of the contrastive head
TEMPERATURE = 0.5  # of the contrastive loss


def pretrain(dataset: DataSet, configuration: Configuration) -> bytes:
    """Return the body's weights, as safetensors, pretrained on the real images without labels.

    All that decides them is the configuration's network, initialisation and pretraining. Raises
    DivergedError where a loss or a weight is not finite.
    """
    kind, options = configuration.initialisation, configuration.pretraining
    loss_of, outputs, copies = LOSSES[kind]
    plain = json.dumps([dict(configuration.network), kind], sort_keys=True)
    stream, real = generator("pretraining", plain), dataset.train
    network = configuration.build(dataset.image_shape, outputs)
    recipe = Recipe(**vars(options), optimizer="adam", weight_decay=0.0, schedule="constant")
    theta = initial_parameters(network, stream, real.device)
    theta, optimiser = trainable(network, theta, recipe)
    rows, watch = batches(len(real.labels), max(options.batch_size // copies, 1), stream), Watch()
    for step in range(recipe.steps):
        loss = loss_of(network, theta, real.at(next(rows)), stream)
        watch.finite(step, f"the {kind} loss", loss)
        descend(optimiser, loss, recipe.rate(step))
    body = {
        name: theta[name].detach() for name, _ in network.named_parameters() if name[:5] == "body."
    }
    for weight in body.values():
        watch.finite(recipe.steps, "a pretrained weight", weight)
    watch.check()
    return save(body)


def rotation_loss(
    network: Network, theta: Theta, images: torch.Tensor, stream: torch.Generator
) -> torch.Tensor:
    """Return the loss () of telling how an image was turned (Gidaris et al., ICLR 2018).

    The network sees each image (N, channels, H, W) in all four positions. Raises ValueError for
    images that are not square.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(
            f"initialisation 'rotation' turns images by quarters, but these are {height}x{width}; "
            "choose 'contrastive', or square images by image_size"
        )
    turned = torch.cat([images.rot90(turns, (2, 3)) for turns in range(ROTATIONS)])
    turns = torch.arange(ROTATIONS, device=images.device).repeat_interleave(len(images))
    return F.cross_entropy(logits(network, theta, turned, training=True, stream=stream), turns)


def view_loss(
    network: Network, theta: Theta, images: torch.Tensor, stream: torch.Generator
) -> torch.Tensor:
    """Return SimCLR's loss (): which views are of one image? (Chen et al., ICML 2020).

    A view takes one family of DSA for every image (N, channels, H, W), with strengths of the
    image's own; the loss is NT-Xent over one batch, of linear projections.
    """
    families = augment.STRATEGIES["dsa"]
    draws = [augment.draw(families, len(images), stream) for _ in range(2)]
    views = torch.cat([augment.apply(images, drawn) for drawn in draws])
    return contrastive_loss(logits(network, theta, views, training=True, stream=stream))


def contrastive_loss(projected: torch.Tensor) -> torch.Tensor:
    """Return NT-Xent of 2N projections (2N, F): rows i and i + N are views of one image.

    The mean over rows of -log softmax of the cosine to the other view, among the cosines to all
    other rows over TEMPERATURE (SimCLR, equation 1).
    """
    count = len(projected) // 2
    unit = F.normalize(projected)
    cosines = (unit @ unit.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(cosines, torch.arange(2 * count, device=unit.device).roll(count))


LOSSES = {
    "rotation": (rotation_loss, ROTATIONS, ROTATIONS),
    "contrastive": (view_loss, PROJECTION, 1),
}
"""Ways to learn without labels: a loss, the outputs of its head, and how many copies of an image
its network sees; batches hold as many fewer images."""
