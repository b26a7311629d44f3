"""A small class-conditional UNet, trained on the real set, to draw images from."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from ddlib.data.base import DataSet
from ddlib.devices import check_autocast, send
from ddlib.files import reading
from ddlib.methods.generators.base import ImageGenerator, plain_settings
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.divergence import DivergedError, Watch
from ddlib.training.loop import batches, descend
from ddlib.training.recipe import SCHEDULES

EMA_DECAY = 0.995
"""Of the average of the UNet's weights over training, which is what samples are drawn with."""

CHUNK_PIXELS = 64 * 64**2
"""Most pixels in a forward pass: 64 images up to 64 pixels a side, 16 at 128."""


def train(dataset: DataSet, network: Network, job: Mapping[str, Any]) -> bytes:
    """Return a file of a UNet2DModel trained on the real set to predict noise.

    job: channels of each level, steps, batch_size, learning_rate (of AdamW, falling to 0 along a
    cosine), timesteps of the diffusion, and label_drop, the share of labels replaced by the null
    class C; `network` is not used. The file holds the averaged weights, the loss of every step, and
    the settings.

    Raises DivergedError with the step at which the loss is not finite.
    Source: Ho et al. (NeurIPS 2020), algorithm 1; label dropping: Ho & Salimans (2021).
    """
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    real, steps, device = dataset.train, job["steps"], dataset.train.images.device
    check_autocast(device)
    unet, settings = _fresh(dataset, job["channels"])
    scheduler = DDPMScheduler(
        job["timesteps"], beta_schedule="squaredcos_cap_v2", clip_sample=False
    )
    optimiser = torch.optim.AdamW(unet.parameters(), fused=True)
    average = EMAModel(unet.parameters(), EMA_DECAY, foreach=True)
    encode, _ = pixel_space(dataset, len(job["channels"]))
    stream = generator("unet training")
    index_batches = batches(len(real.labels), job["batch_size"], stream)
    losses, watch = torch.zeros(steps, device=device, dtype=torch.float32), Watch()
    for step in range(steps):
        rows = send(next(index_batches), device)
        labels = drop_labels(real.labels[rows], dataset.class_count, job["label_drop"], stream)
        pixels = encode(real.images[rows])
        noise = send(torch.randn(pixels.shape, generator=stream, dtype=pixels.dtype), device)
        t = send(torch.randint(job["timesteps"], rows.shape, generator=stream), device)
        noisy = scheduler.add_noise(pixels, noise, t)
        loss = F.mse_loss(unet(noisy, t, class_labels=labels).sample, noise)
        advice = "choose a smaller unet_learning_rate"
        watch.see(loss.isfinite(), DivergedError(step, "the UNet's loss", advice=advice))
        losses[step] = loss.detach()
        descend(optimiser, loss, job["learning_rate"] * SCHEDULES["cosine"](step / steps))
        average.step(unet.parameters())
    watch.check()
    average.copy_to(unet.parameters())
    tensors = {f"unet.{name}": value.cpu() for name, value in unet.state_dict().items()}
    described = {"unet": settings, "schedule": plain_settings(scheduler)}
    return safetensors.torch.save(
        {**tensors, "losses": losses.cpu()}, {"generator": json.dumps(described, sort_keys=True)}
    )


def load(path: Path | None, dataset: DataSet, levels: int) -> ImageGenerator:
    """Return the UNet that `train` wrote to `path`; its latents are pixels in [-1, 1].

    levels: of the UNet. Without a path there is no UNet, only the space that it works in.
    """
    encode, decode = pixel_space(dataset, levels)
    unet, schedule = _read(path, dataset.train.images.device) if path else (None, {})

    def predict(latents: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return unet(latents, t, class_labels=labels).sample.float()

    count, (channels, height, width) = dataset.class_count, dataset.image_shape
    chunk = max(1, min(64, CHUNK_PIXELS // (height * width)))
    return ImageGenerator(encode, decode, predict, channels, schedule, range(count), count, chunk)


def losses(path: Path) -> torch.Tensor:
    """Return the training loss (steps,) of the UNet in the file at `path`."""
    with reading(path), safetensors.safe_open(str(path), "pt") as file:
        return file.get_tensor("losses")


def drop_labels(
    labels: torch.Tensor, null_class: int, share: float, stream: torch.Generator
) -> torch.Tensor:
    """Return the labels (N,), each replaced by `null_class` with probability `share`."""
    dropped = torch.rand(labels.shape, generator=stream, dtype=torch.float32) < share
    return labels.masked_fill(send(dropped, labels.device), null_class)


def _fresh(dataset: DataSet, channels: Sequence[int]) -> tuple[nn.Module, dict[str, Any]]:
    """Return a UNet with its initial weights, and the settings to build it again from."""
    pixels = dataset.image_shape[0]
    settings = {
        "in_channels": pixels,
        "out_channels": pixels,
        "block_out_channels": list(channels),
        "down_block_types": ["DownBlock2D"] * len(channels),
        "up_block_types": ["UpBlock2D"] * len(channels),
        "layers_per_block": 1,
        "norm_num_groups": math.gcd(8, *channels),
        "attention_head_dim": None,  # one head, whatever the channels
        "num_class_embeds": dataset.class_count + 1,
    }
    unet = _empty(settings)
    theta = initial_parameters(unet, generator("unet weights"), dataset.train.images.device)
    unet.load_state_dict(theta, assign=True)
    return unet, settings


def _empty(settings: Mapping[str, Any]) -> nn.Module:
    from diffusers import UNet2DModel

    with torch.device("meta"):  # so that nothing is drawn from the global random state
        return UNet2DModel(**settings)


def _read(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    with reading(path), safetensors.safe_open(str(path), "pt", device=str(device)) as file:
        described = json.loads(file.metadata()["generator"])
        names = [name for name in file.keys() if name.startswith("unet.")]  # noqa: SIM118
        theta = {name.removeprefix("unet."): file.get_tensor(name) for name in names}
    unet = _empty(described["unet"])
    unet.load_state_dict(theta, assign=True)
    return unet.eval(), described["schedule"]


def pixel_space(dataset: DataSet, levels: int) -> tuple[Callable, Callable]:
    """Return the ways from normalised images to pixels in [-1, 1] and back.

    Below and to the right, pixels are repeated up to a side that a UNet of `levels` can halve.
    """
    _, height, width = dataset.image_shape
    below, right = (-side % 2 ** (levels - 1) for side in (height, width))

    def encode(images: torch.Tensor) -> torch.Tensor:
        signed = 2 * dataset.normalisation.denormalise(images) - 1
        return F.pad(signed, (0, right, 0, below), mode="replicate")

    def decode(pixels: torch.Tensor) -> torch.Tensor:
        unit = (pixels[..., :height, :width] / 2 + 0.5).clamp(0, 1)
        return dataset.normalisation.normalise(unit)

    return encode, decode
