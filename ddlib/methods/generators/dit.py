"""A DiT pipeline of diffusers, with its VAE, to draw images from (Peebles & Xie, ICCV 2023)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ddlib.data.base import DataSet
from ddlib.files import from_root
from ddlib.fingerprints import existing
from ddlib.methods.generators.base import ImageGenerator

GUIDED = 3
"""Channels of a DiT's four that its own code guides, "for exact reproducibility" as it says."""


def load(name: str, dataset: DataSet, class_ids: Sequence[int]) -> ImageGenerator:
    """Return the DiT pipeline in a folder, from the project's root, or of that name on the hub.

    Images are resized to the side that its VAE takes, and back. Sampling follows DiT's own code, as
    MGD3 does, not DiTPipeline: classifier-free guidance moves three channels, DDPM draws with the
    variance that the DiT learned, and timesteps reach from the last, 999, to 0. class_ids: (C,),
    or empty for a DiT of ImageNet's 1,000 classes and classes with their names.

    Raises FileNotFoundError if there is no such pipeline, ValueError if it does not fit the data,
    does not predict noise, or its ids for the classes are not known.
    """
    pipeline = _open(name)
    device = dataset.train.device
    transformer, vae = pipeline.transformer.to(device).eval(), pipeline.vae.to(device).eval()
    if dataset.sample_shape[0] != vae.config.in_channels:
        raise ValueError(
            f"generator={name!r} makes images of {vae.config.in_channels} channels, but those of "
            f"{dataset.name} have {dataset.sample_shape[0]}; choose generator: unet"
        )
    null_class = transformer.config.num_embeds_ada_norm
    ids = known_ids(dataset.classes, class_ids, null_class)
    side = transformer.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)

    def resized(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)

    # Results are float32 in every precision, so that only the layers round.
    def encode(images: torch.Tensor) -> torch.Tensor:
        signed = 2 * resized(dataset.normalisation.denormalise(images), (side, side)) - 1
        return vae.encode(signed).latent_dist.mode().float() * vae.config.scaling_factor

    def decode(latents: torch.Tensor) -> torch.Tensor:
        pixels = vae.decode(latents / vae.config.scaling_factor).sample.float()
        unit = (pixels / 2 + 0.5).clamp(0, 1)
        return dataset.normalisation.normalise(resized(unit, dataset.sample_shape[1:]))

    def predict(latents: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        steps = t.to(device).expand(len(latents))
        return transformer(latents, timestep=steps, class_labels=labels).sample.float()

    learned = transformer.config.out_channels == 2 * transformer.config.in_channels
    variance = "learned_range" if learned else "fixed_small"
    settings = {"variance_type": variance, "timestep_spacing": "linspace"}
    schedule = {**pipeline.scheduler.config, **settings}
    return ImageGenerator(encode, decode, predict, GUIDED, schedule, ids, null_class, chunk=8)


def _open(name: str) -> Any:
    """Return the pipeline; raises as `load`."""
    from diffusers import DiTPipeline

    folder = from_root(name)
    place = existing(name) if folder.is_dir() else name
    try:
        pipeline = DiTPipeline.from_pretrained(place, low_cpu_mem_usage=False)
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


def known_ids(classes: Sequence[str], class_ids: Sequence[int], count: int) -> list[int]:
    """Return the ids (C,) of the data set's classes in a model of `count` classes.

    They are `class_ids`, or, where those are empty, ImageNet's for classes with its names.
    """
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.DEFAULT.meta["categories"]  # of ImageNet, by id
    if not class_ids and count == len(names) and set(classes) <= set(names):
        return [names.index(name) for name in classes]
    if not len(set(class_ids)) == len(class_ids) == len(classes) or max(class_ids) >= count:
        raise ValueError(
            f"class_ids={list(class_ids)} must be {len(classes)} different numbers below {count}, "
            f"the generator's own for {', '.join(classes)}, in that order; they can be left out "
            f"only for a generator of ImageNet's {len(names)} classes and classes with their names"
        )
    return list(class_ids)
