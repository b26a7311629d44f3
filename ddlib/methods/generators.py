"""Diffusion models to draw images from: a small UNet trained here, or a DiT pipeline with its VAE.

diffusers is imported where it is used: that takes seconds, and most studies do without.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.divergence import DivergedError, Watch
from ddlib.training.loop import batches, descend
from ddlib.training.recipe import SCHEDULES

EMA_DECAY = 0.995
"""Of the average of the UNet's weights over training, which is what samples are drawn with."""

UNET_CHUNK_PIXELS = 64 * 64**2
"""Most pixels in a forward pass of the UNet: 64 images up to 64 pixels a side, 16 at 128."""


DIT_GUIDED = 3
"""Channels of a DiT's four that its own code guides, "for exact reproducibility" as it says."""


@dataclass(frozen=True)
class ImageGenerator:
    """A class-conditional diffusion model and the latent space it works in.

    encode: normalised images (N, channels, H, W) -> latents (N, c, h, w); decode: the way back;
    predict: latents, a timestep and class ids (N,) -> the noise (N, c, h, w), or (N, 2c, h, w)
    with the learned variance behind it, in -1 to 1 of its range; guided: how many channels of that
    classifier-free guidance moves, the first, while the others stay those of the class;
    schedule: the settings of its diffusers scheduler; class_ids: what it calls the data set's
    classes, null_class: what it calls none of them; chunk: images a forward pass.
    """

    encode: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor], torch.Tensor]
    predict: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    guided: int
    schedule: Mapping[str, Any]
    class_ids: Sequence[int]
    null_class: int
    chunk: int


def load_dit(name: str, dataset: DataSet, class_ids: Sequence[int]) -> ImageGenerator:
    """Return the DiT pipeline in the folder `name`, or of that name on the Hugging Face hub.

    Images are resized to the side that its VAE takes, and back. As in DiT's own code (Peebles &
    Xie, ICCV 2023), which MGD3 samples with and DiTPipeline does not follow, classifier-free
    guidance moves three channels, DDPM draws with the variance that the DiT learned, and its
    timesteps reach from the last, 999, to 0. class_ids: (C,), or empty for a DiT of ImageNet's
    1,000 classes and classes with their names.

    Raises FileNotFoundError if there is no such pipeline, ValueError if it does not fit the data,
    does not predict noise, or its ids for the classes are not known.
    """
    pipeline = _open_pipeline(name)
    device = dataset.train.device
    transformer, vae = pipeline.transformer.to(device).eval(), pipeline.vae.to(device).eval()
    null_class = transformer.config.num_embeds_ada_norm
    if dataset.image_shape[0] != vae.config.in_channels:
        raise ValueError(
            f"generator={name!r} makes images of {vae.config.in_channels} channels, but those of "
            f"{dataset.name} have {dataset.image_shape[0]}; choose generator: unet"
        )
    ids = _chosen_ids(dataset.classes, class_ids, null_class)
    side = transformer.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)

    def resized(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)

    def encode(images: torch.Tensor) -> torch.Tensor:
        signed = 2 * resized(dataset.normalisation.denormalise(images), (side, side)) - 1
        # float32, whatever the precision, so that only the layers round.
        return vae.encode(signed).latent_dist.mode().float() * vae.config.scaling_factor

    def decode(latents: torch.Tensor) -> torch.Tensor:
        pixels = vae.decode(latents / vae.config.scaling_factor).sample.float()
        unit = (pixels / 2 + 0.5).clamp(0, 1)
        return dataset.normalisation.normalise(resized(unit, dataset.image_shape[1:]))

    def predict(latents: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        steps = t.to(device).expand(len(latents))
        return transformer(latents, timestep=steps, class_labels=labels).sample.float()

    learned = transformer.config.out_channels == 2 * transformer.config.in_channels
    variance = "learned_range" if learned else "fixed_small"
    own = {"variance_type": variance, "timestep_spacing": "linspace"}
    schedule = {**_settings(pipeline.scheduler), **own}
    return ImageGenerator(encode, decode, predict, DIT_GUIDED, schedule, ids, null_class, 8)


def _open_pipeline(name: str) -> Any:
    """Return the DiT pipeline of a name, one that predicts the noise; raises as `load_dit`."""
    from diffusers import DiTPipeline

    try:
        pipeline = DiTPipeline.from_pretrained(name, low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"generator={name!r} cannot be loaded ({str(error).splitlines()[0]}); give 'unet', a "
            "folder that DiTPipeline.save_pretrained wrote, or a name on the Hugging Face hub "
            "such as facebook/DiT-XL-2-256, which needs the network the first time"
        ) from error
    predicts = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if predicts != "epsilon":
        raise ValueError(
            f"generator={name!r} predicts {predicts!r} by its scheduler's prediction_type, but "
            "guidance is written for models that predict the noise; choose one with 'epsilon'"
        )
    return pipeline


def _settings(scheduler: Any) -> dict[str, Any]:
    """Return the settings of a diffusers scheduler, without its notes, whose order is chance."""
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


def train_unet(dataset: DataSet, network: Network, job: Mapping[str, Any]) -> bytes:
    """Return a file of a class-conditional UNet2DModel trained on the real set to predict noise.

    job: channels of each level, steps, batch_size, learning_rate (of AdamW, falling to 0 along a
    cosine), timesteps of the diffusion, and label_drop, the share of labels replaced by the null
    class C; `network` is not used. The file holds the averaged weights, the loss of every step, and
    the settings.

    Raises DivergedError with the step at which the loss is not finite.
    Source: Ho et al. (NeurIPS 2020), algorithm 1; label dropping: Ho & Salimans (2021).
    """
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    real, steps, device = dataset.train, job["steps"], dataset.train.device
    check_autocast(device)
    unet, settings = _fresh_unet(dataset, job["channels"])
    scheduler = DDPMScheduler(
        job["timesteps"], beta_schedule="squaredcos_cap_v2", clip_sample=False
    )
    optimiser = torch.optim.AdamW(unet.parameters(), fused=True)
    average = EMAModel(unet.parameters(), EMA_DECAY, foreach=True)
    encode, _ = _pixel_space(dataset, len(job["channels"]))
    stream = generator("unet training")
    index_batches = batches(len(real.labels), job["batch_size"], stream)
    losses, watch = torch.zeros(steps, device=device, dtype=torch.float32), Watch()
    for step in range(steps):
        rows = send(next(index_batches), device)
        labels = drop_labels(real.labels[rows], dataset.class_count, job["label_drop"], stream)
        pixels = encode(real.at(rows))
        noise = send(torch.randn(pixels.shape, generator=stream, dtype=pixels.dtype), device)
        t = send(torch.randint(job["timesteps"], rows.shape, generator=stream), device)
        noisy = scheduler.add_noise(pixels, noise, t)
        loss = F.mse_loss(unet(noisy, t, class_labels=labels).sample, noise)
        advice = "choose a smaller unet_learning_rate"
        watch.see(loss.isfinite(), DivergedError(step, "the UNet's loss", advice=advice))
        losses[step] = loss.detach()
        descend(optimiser, loss, job["learning_rate"] * SCHEDULES["cosine"](step / steps))
        average.step(unet.parameters())
        _report(losses, step)
    watch.check()
    average.copy_to(unet.parameters())
    tensors = {f"unet.{name}": value.cpu() for name, value in unet.state_dict().items()}
    described = {"unet": settings, "schedule": _settings(scheduler)}
    return safetensors.torch.save(
        {**tensors, "losses": losses.cpu()}, {"generator": json.dumps(described, sort_keys=True)}
    )


def load_unet(path: Path | None, dataset: DataSet, levels: int) -> ImageGenerator:
    """Return the UNet that `train_unet` wrote to `path`; its latents are pixels in [-1, 1].

    levels: of the UNet. Without a path there is no UNet, only the space that it works in.
    """
    encode, decode = _pixel_space(dataset, levels)
    unet, schedule = _read_unet(path, dataset.train.device) if path else (None, {})

    def predict(latents: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return unet(latents, t, class_labels=labels).sample.float()

    classes, (channels, height, width) = range(dataset.class_count), dataset.image_shape
    chunk = max(1, min(64, UNET_CHUNK_PIXELS // (height * width)))
    null_class = len(classes)
    return ImageGenerator(encode, decode, predict, channels, schedule, classes, null_class, chunk)


def unet_losses(path: Path) -> torch.Tensor:
    """Return the training loss (steps,) of the UNet in the file at `path`."""
    with reading(path), safetensors.safe_open(str(path), "pt") as file:
        return file.get_tensor("losses")


def drop_labels(
    labels: torch.Tensor, null_class: int, share: float, stream: torch.Generator
) -> torch.Tensor:
    """Return the labels (N,), each replaced by `null_class` with probability `share`."""
    dropped = torch.rand(labels.shape, generator=stream, dtype=torch.float32) < share
    return labels.masked_fill(send(dropped, labels.device), null_class)


def _fresh_unet(dataset: DataSet, channels: Sequence[int]) -> tuple[nn.Module, dict[str, Any]]:
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
    unet = _empty_unet(settings)
    theta = initial_parameters(unet, generator("unet weights"), dataset.train.device)
    unet.load_state_dict(theta, assign=True)
    return unet, settings


def _empty_unet(settings: Mapping[str, Any]) -> nn.Module:
    from diffusers import UNet2DModel

    with torch.device("meta"):  # so that nothing is drawn from the global random state
        return UNet2DModel(**settings)


def _read_unet(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    with reading(path), safetensors.safe_open(str(path), "pt", device=str(device)) as file:
        described = json.loads(file.metadata()["generator"])
        names = [name for name in file.keys() if name.startswith("unet.")]  # noqa: SIM118
        theta = {name.removeprefix("unet."): file.get_tensor(name) for name in names}
    unet = _empty_unet(described["unet"])
    unet.load_state_dict(theta, assign=True)
    return unet.eval(), described["schedule"]


def _pixel_space(dataset: DataSet, levels: int) -> tuple[Callable, Callable]:
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


def _chosen_ids(classes: Sequence[str], given: Sequence[int], count: int) -> list[int]:
    """Return the ids (C,) by which a model of `count` classes knows the data set's classes."""
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.DEFAULT.meta["categories"]  # of ImageNet, by id
    unknown = [name for name in classes if name not in names or count != len(names)]
    if unknown and not given:
        raise ValueError(
            f"class_ids is empty, and what the generator, of {count} classes, calls "
            f"{', '.join(unknown)} cannot be told from the names of ImageNet's {len(names)} "
            f"classes; give class_ids, {len(classes)} numbers below {count} in the order of "
            f"{', '.join(classes)}"
        )
    ids = list(given) or [names.index(name) for name in classes]
    if len(ids) != len(classes) or max(ids) >= count:
        raise ValueError(
            f"class_ids={ids} must be {len(classes)} numbers below {count}, one for each class: "
            "the ids by which the generator knows them"
        )
    return ids


def _report(losses: torch.Tensor, step: int) -> None:
    """Print about ten lines over a whole training, each the mean loss since the last."""
    every = max(1, len(losses) // 10)
    if (step + 1) % every == 0:
        recent = losses[step + 1 - every : step + 1].mean().item()
        print(f"unet: step {step + 1} of {len(losses)}, loss {recent:.3f}", flush=True)
