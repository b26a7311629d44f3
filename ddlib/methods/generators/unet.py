"""A small class-conditional UNet, trained on the real set, to draw images from."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from ddlib.data.base import DataSet
from ddlib.devices import check_autocast, send
from ddlib.files import reading
from ddlib.methods.generators.base import ImageGenerator
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.divergence import DivergedError, Watch
from ddlib.training.loop import batches, descend
from ddlib.training.recipe import SCHEDULES

EMA_DECAY = 0.995  # of the average of the weights over training, with which images are drawn
TIMESTEPS = 1000  # of the diffusion
LABEL_DROP = 0.1  # the share of labels that training replaces by the null class
CHUNK_PIXELS = 64 * 64**2  # most in a forward pass: 64 images up to 64 pixels a side, 16 at 128
SCHEDULE = {
    "num_train_timesteps": TIMESTEPS,
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
}


def train(dataset: DataSet, network: Network, job: Mapping[str, Any]) -> bytes:
    """Return a file of a UNet2DModel trained on the real set to predict noise.

    job: channels of each level, steps, batch_size, and learning_rate (of AdamW, falling to 0 along
    a cosine); `network` is not used. The file holds the averaged weights and the loss of every
    step. Raises DivergedError with the step at which the loss is not finite.

    Source: Ho et al. (NeurIPS 2020), algorithm 1; label dropping: Ho & Salimans (2021).
    """
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    real, steps, device = dataset.train, job["steps"], dataset.train.device
    check_autocast(device)
    unet = _empty(dataset, job["channels"])
    theta = initial_parameters(unet, generator("unet weights"), device)
    unet.load_state_dict(theta, assign=True)
    scheduler = DDPMScheduler(**SCHEDULE)
    optimiser = torch.optim.AdamW(unet.parameters(), fused=True)
    average = EMAModel(unet.parameters(), EMA_DECAY, foreach=True)
    encode, _ = pixel_space(dataset, len(job["channels"]))
    stream = generator("unet training")
    index_batches = batches(len(real.labels), job["batch_size"], stream)
    losses, watch = torch.zeros(steps, device=device, dtype=torch.float32), Watch()
    for step in range(steps):
        rows = send(next(index_batches), device)
        dropped = torch.rand(rows.shape, generator=stream, dtype=torch.float32) < LABEL_DROP
        labels = real.labels[rows].masked_fill(send(dropped, device), dataset.class_count)
        pixels = encode(real.at(rows))
        noise = send(torch.randn(pixels.shape, generator=stream, dtype=pixels.dtype), device)
        t = send(torch.randint(TIMESTEPS, rows.shape, generator=stream), device)
        noisy = scheduler.add_noise(pixels, noise, t)
        loss = F.mse_loss(unet(noisy, t, class_labels=labels).sample, noise)
        advice = "choose a smaller unet_learning_rate"
        watch.see(loss.isfinite(), DivergedError(step, "the UNet's loss", advice=advice))
        losses[step] = loss.detach()
        descend(optimiser, loss, job["learning_rate"] * SCHEDULES["cosine"](step / steps))
        average.step(unet.parameters())
    watch.check()
    average.copy_to(unet.parameters())
    weights = {f"unet.{name}": value.cpu() for name, value in unet.state_dict().items()}
    return safetensors.torch.save({**weights, "losses": losses.cpu()})


def load(path: Path | None, dataset: DataSet, channels: Sequence[int]) -> ImageGenerator:
    """Return the UNet that `train` wrote to `path`; its latents are pixels in [-1, 1].

    channels: as in its job. Without a path the result can encode and decode, but not predict.
    """
    encode, decode = pixel_space(dataset, len(channels))
    unet = _empty(dataset, channels).eval() if path else None
    if path:
        with reading(path):
            tensors = safetensors.torch.load_file(path, str(dataset.train.device))
        del tensors["losses"]
        theta = {name.removeprefix("unet."): value for name, value in tensors.items()}
        unet.load_state_dict(theta, assign=True)

    def predict(latents: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return unet(latents, t, class_labels=labels).sample.float()

    (colours, height, width), count = dataset.sample_shape, dataset.class_count
    chunk = max(1, min(64, CHUNK_PIXELS // (height * width)))
    return ImageGenerator(encode, decode, predict, colours, SCHEDULE, range(count), count, chunk)


def _empty(dataset: DataSet, channels: Sequence[int]) -> nn.Module:
    """Return the UNet for a data set and the channels of its levels, without weights."""
    from diffusers import UNet2DModel

    with torch.device("meta"):  # so that nothing is drawn from the global random state
        return UNet2DModel(
            in_channels=dataset.sample_shape[0],
            out_channels=dataset.sample_shape[0],
            block_out_channels=list(channels),
            down_block_types=["DownBlock2D"] * len(channels),
            up_block_types=["UpBlock2D"] * len(channels),
            layers_per_block=1,
            norm_num_groups=math.gcd(8, *channels),
            attention_head_dim=None,  # one head, whatever the channels
            num_class_embeds=dataset.class_count + 1,
        )


def pixel_space(dataset: DataSet, levels: int) -> tuple[Callable, Callable]:
    """Return the functions from normalised images to pixels in [-1, 1], and back.

    Border pixels are repeated below and to the right, up to sides that a UNet of `levels` halves.
    """
    _, height, width = dataset.sample_shape
    below, right = (-side % 2 ** (levels - 1) for side in (height, width))

    def encode(images: torch.Tensor) -> torch.Tensor:
        signed = 2 * dataset.normalisation.denormalise(images) - 1
        return F.pad(signed, (0, right, 0, below), mode="replicate")

    def decode(pixels: torch.Tensor) -> torch.Tensor:
        unit = (pixels[..., :height, :width] / 2 + 0.5).clamp(0, 1)
        return dataset.normalisation.normalise(unit)

    return encode, decode
