"""MGD3, mode-guided diffusion: one generated image for each mode of each class.

The paper draws images from a DiT pipeline. The default here, `generator: unet`, is a small model
that the study trains itself. Its images are worse than the paper's, so expect lower accuracies.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from ddlib.data.base import DataSet
from ddlib.devices import check_autocast
from ddlib.distilled import DistilledSet, hard_labels
from ddlib.methods.common import centroids, class_members, finished
from ddlib.methods.generators import dit, unet
from ddlib.methods.generators.base import ImageGenerator
from ddlib.networks.layers import Network
from ddlib.parameters import ByIpc, Parameters, Text, at_ipc
from ddlib.seeds import generator
from ddlib.training.divergence import DivergedError, or_diverged


class ModeGuidedDiffusion(Parameters):
    """Defaults of sampling are the paper's for its DiT; those of the UNet suit digits of 8x8.

    For the UNet, guidance 1, stop 5 to 10 and classifier_free_guidance 2 gave better sets of
    digits (judged on training images) than the paper's values.

    generator: "unet", or a DiT pipeline: its folder (from the project's root) or its name on the
    hub. images: "generated", or one of two controls: "modes" are the modes, decoded; "nearest" are
    the real images nearest to them (the paper's ablation "mode discovery"). guidance: 0 is plain
    sampling. stop: the number of last steps without guidance. class_ids: see `dit.load`.
    """

    generator: Text = "unet"
    class_ids: list[NonNegativeInt] = []
    images: Literal["generated", "modes", "nearest"] = "generated"
    steps: Annotated[int, Field(ge=1, le=unet.TIMESTEPS)] = 50
    guidance: ByIpc[NonNegativeFloat] = 0.1
    stop: NonNegativeInt = 25
    classifier_free_guidance: NonNegativeFloat = 4.0
    unet_channels: Annotated[list[PositiveInt], Field(min_length=1)] = [32, 32]
    unet_steps: PositiveInt = 500
    unet_batch_size: PositiveInt = 32
    unet_learning_rate: NonNegativeFloat = 0.002

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.stop > self.steps:
            raise ValueError(
                f"stop={self.stop} is more than the {self.steps} sampling steps; choose stop <= "
                "steps (0 guides all the way)"
            )
        left_out = unet.TIMESTEPS % self.steps
        draws = self.generator == "unet" and self.images == "generated"
        if draws and left_out >= unet.TIMESTEPS // 10:
            nearest = unet.TIMESTEPS // (unet.TIMESTEPS // self.steps)
            raise ValueError(
                f"steps={self.steps} leave out the noisiest {left_out} of {unet.TIMESTEPS} "
                f"timesteps of the UNet; choose {nearest}, or 50"
            )
        return self


def jobs(parameters: ModeGuidedDiffusion, ipcs: Sequence[int]) -> list[dict[str, Any]]:
    """Return the one UNet to train for all sizes and seeds; none if it draws no images."""
    if parameters.generator != "unet" or parameters.images != "generated":
        return []
    options = vars(parameters)
    return [{name[5:]: options[name] for name in options if name.startswith("unet_")}]


@torch.no_grad()
def distil(
    dataset: DataSet,
    network: Network,
    ipcs: Sequence[int],
    seed: int,
    parameters: ModeGuidedDiffusion,
    prepared: Sequence[Path],
) -> dict[int, DistilledSet | DivergedError]:
    """Find `ipc` modes of the latents of each class, and draw an image guided towards each mode.

    All sizes use the same latents; `network` is not used. Source: Chan-Santiago et al., "MGD3"
    (ICML 2025). As in its code, guidance moves the mean, where the paper's equation 6 moves the
    noise.
    """
    check_autocast(dataset.train.device)
    model = _load(dataset, parameters, prepared)
    targets: dict[int, list[torch.Tensor]] = {ipc: [] for ipc in ipcs}
    for label, members in enumerate(class_members(dataset)):
        images = dataset.train.at(members)
        latents = torch.cat([model.encode(part) for part in images.split(model.chunk)])
        for ipc in ipcs:
            centres = centroids(latents, ipc, generator("modes", seed, ipc, label))
            if parameters.images == "nearest":
                centres = images[torch.cdist(centres.flatten(1), latents.flatten(1)).argmin(1)]
            targets[ipc].append(centres)

    def draw(ipc: int) -> DistilledSet:
        images = torch.cat(targets[ipc])
        if parameters.images == "generated":
            images = _generate(model, images, ipc, seed, parameters)
        if parameters.images != "nearest":
            images = torch.cat([model.decode(part) for part in images.split(model.chunk)])
        if not torch.isfinite(images).all():
            advice = "choose less guidance or classifier_free_guidance"
            raise DivergedError(parameters.steps, "a generated pixel", advice=advice)
        return finished(dataset, images, "mgd3", parameters, seed)

    return {ipc: or_diverged(draw, ipc) for ipc in ipcs}


def _load(
    dataset: DataSet, parameters: ModeGuidedDiffusion, prepared: Sequence[Path]
) -> ImageGenerator:
    if parameters.generator == "unet":
        return unet.load(next(iter(prepared), None), dataset, parameters.unet_channels)
    draws = parameters.images == "generated"  # without drawing, any ids will do
    ids = parameters.class_ids if draws else range(dataset.class_count)
    return dit.load(parameters.generator, dataset, ids)


def _generate(
    model: ImageGenerator,
    targets: torch.Tensor,
    ipc: int,
    seed: int,
    parameters: ModeGuidedDiffusion,
) -> torch.Tensor:
    """Return a latent for each mode (ipc x C, c, h, w), grouped by class.

    Each latent has its own random stream, so it does not depend on the others in its pass.
    """
    labels = hard_labels(len(model.class_ids), ipc)
    parameters = parameters.replace(guidance=at_ipc(parameters.guidance, ipc))
    streams = [
        generator("mode guidance", seed, ipc, label, number % ipc)
        for number, label in enumerate(labels.tolist())
    ]
    class_ids = torch.tensor(model.class_ids)[labels].to(targets.device)
    parts = [slice(at, at + model.chunk) for at in range(0, len(labels), model.chunk)]
    return torch.cat(
        [sample(model, targets[at], class_ids[at], streams[at], parameters) for at in parts]
    )


@torch.no_grad()
def sample(
    model: ImageGenerator,
    targets: torch.Tensor,
    class_ids: torch.Tensor,
    streams: list[torch.Generator],
    parameters: ModeGuidedDiffusion,
) -> torch.Tensor:
    """Return latents (N, c, h, w) drawn from the model by DDPM, each guided towards its mode.

    targets: the modes (N, c, h, w); class_ids: (N,); streams: one for each image. A guided step is
    x_{t-1} = mean + guidance sigma_t (mode - x0) + sigma_t z, with x0 estimated from the noise
    after classifier-free guidance (Ho & Salimans, 2021), as in the reference.
    """
    from diffusers import DDPMScheduler
    from diffusers.utils.torch_utils import randn_tensor

    scheduler = DDPMScheduler.from_config(model.schedule)
    scheduler.set_timesteps(parameters.steps)
    labels = torch.cat([class_ids, torch.full_like(class_ids, model.null_class)])
    options = {"device": targets.device, "dtype": targets.dtype}
    latents = randn_tensor(targets.shape, generator=streams, **options)
    for left, t in zip(range(parameters.steps, 0, -1), scheduler.timesteps, strict=True):
        of_class, free = model.predict(torch.cat([latents, latents]), t, labels).chunk(2)
        noise = free + parameters.classifier_free_guidance * (of_class - free)
        predicted = torch.cat([noise[:, : model.guided], of_class[:, model.guided :]], 1)
        step = scheduler.step(predicted, t, latents, generator=streams)
        latents = step.prev_sample
        if parameters.guidance and left > parameters.stop:
            sigma = _deviation(scheduler, t, predicted[:, targets.shape[1] :])
            towards = targets - step.pred_original_sample
            latents = latents + parameters.guidance * sigma * towards
    return latents


def _deviation(scheduler: Any, t: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation sigma_t of a step.

    learned: the variance that the model predicts, or no channels. -1 stands for the posterior's
    variance, 1 for that of a forward step, geometric between (Nichol & Dhariwal, ICML 2021, eq.
    15). At the last step sigma is 0, where the reference takes the sigma of the step before: that
    makes a difference only with `stop: 0`.
    """
    kept, before = scheduler.alphas_cumprod[t], scheduler.previous_timestep(t)
    kept_before = scheduler.alphas_cumprod[before] if before >= 0 else torch.tensor(1.0)
    largest = 1 - kept / kept_before
    variance = (1 - kept_before) / (1 - kept) * largest
    if learned.shape[1] and before >= 0:
        variance = variance * ((learned + 1) / 2 * (largest / variance).log()).exp()
    return variance.sqrt()
