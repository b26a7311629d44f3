"""What a diffusion model is to the method that draws from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ImageGenerator:
    """A class-conditional diffusion model and the latent space it works in.

    encode: normalised images (N, channels, H, W) -> latents (N, c, h, w); decode: the way back;
    predict: latents, a timestep and class ids (N,) -> the noise (N, c, h, w), or (N, 2c, h, w)
    with the learned variance behind it, in -1 to 1 of its range; guided: how many channels, the
    first, classifier-free guidance moves (the others stay those of the class); schedule: the
    settings of its diffusers scheduler; class_ids: its numbers for the data set's classes;
    null_class: its number for no class; chunk: images a forward pass.
    """

    encode: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor], torch.Tensor]
    predict: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    guided: int
    schedule: Mapping[str, Any]
    class_ids: Sequence[int]
    null_class: int
    chunk: int
