"""Mode guidance against closed forms, and with the small UNet."""

import math

import numpy as np
import pytest
import torch
from chains import ALPHAS_BAR, JOB, LINEAR, streams
from draws import labelled
from draws import noise as normal

from ddlib.data.normalise import Normalisation
from ddlib.methods.diffusion import ModeGuidedDiffusion, distil, jobs, sample
from ddlib.methods.generators.base import ImageGenerator
from ddlib.training.divergence import DivergedError


def settings(**changes):
    unet = {f"unet_{name}": value for name, value in JOB.items()}
    return ModeGuidedDiffusion(**{**unet, "steps": 6, "stop": 3, **changes})


def gaussian(mean=0.0, variance=0.25):
    """A generator that knows its data, N(mean, variance): its noise is the exact expectation."""
    kept = torch.tensor(ALPHAS_BAR, dtype=torch.float32)

    def noise(latents, t, labels):
        spread = kept[t] * variance + 1 - kept[t]
        return (1 - kept[t]).sqrt() * (latents - kept[t].sqrt() * mean) / spread

    return ImageGenerator(torch.clone, torch.clone, noise, 9, LINEAR, range(3), 3, 64)


def guided_chain(x, z, mean, variance, mode, guidance, stop, steps):
    """The DDPM chain on N(mean, variance), where x0's posterior mean is known in closed form."""
    times = np.arange(steps)[::-1] * (1000 // steps)
    for number, t in enumerate(times):
        kept, before = ALPHAS_BAR[t], ALPHAS_BAR[times[number + 1]] if t else 1.0
        gain = math.sqrt(kept) * variance / (kept * variance + 1 - kept)
        x0 = mean + gain * (x - math.sqrt(kept) * mean)
        alpha = kept / before
        sigma = math.sqrt((1 - before) / (1 - kept) * (1 - alpha))
        x = (
            math.sqrt(before) * (1 - alpha) / (1 - kept) * x0
            + math.sqrt(alpha) * (1 - before) / (1 - kept) * x
            + (guidance * sigma * (mode - x0) if steps - number > stop else 0)
            + sigma * z[number]
        )
    return x


@pytest.mark.parametrize(("stop", "guidance"), [(0, 0.5), (4, 0.5), (10, 0.5), (0, 0.0)])
def test_sampling_a_known_gaussian_is_the_closed_form_chain(stop, guidance):
    parameters = settings(steps=10, stop=stop, guidance=guidance)
    targets = torch.full((3, 1, 2, 2), 2.0)
    latents = sample(gaussian(mean=-1), targets, torch.arange(3), streams(3), parameters)
    draws = [[torch.randn(1, 2, 2, generator=s).numpy() for _ in range(10)] for s in streams(3)]
    draws = np.stack(draws, axis=1).astype(float)
    noise = np.concatenate([draws[1:], np.zeros((1, 3, 1, 2, 2))])
    expected = guided_chain(draws[0], noise, -1, 0.25, 2.0, guidance, stop, 10)
    np.testing.assert_allclose(latents.numpy(), expected, rtol=1e-4, atol=1e-4)


def blobs():
    """Three tight clusters of 20 latents each, in shuffled order, and their means."""
    centres = torch.tensor([[5.0, 0], [0, 5], [-5, -5]]).view(3, 1, 1, 2)
    labels = torch.arange(3).repeat_interleave(20)[torch.randperm(60, generator=streams(1)[0])]
    points = centres[labels] + 0.1 * normal(60, 1, 1, 2)
    return points, torch.stack([points[labels == label].mean(0) for label in range(3)])


def ordered(points):
    return sorted(map(tuple, np.round(np.asarray(points).reshape(len(points), -1), 4)))


def test_the_controls_are_the_modes_and_the_real_images_nearest_to_them():
    points, means = blobs()
    dataset = labelled(points / 5, ["one"], Normalisation((0.5,), (0.25,)))
    for images in ("modes", "nearest"):
        parameters = settings(images=images)
        assert jobs(parameters, [1]) == []
        outcome = distil(dataset, None, [1, 3], 0, parameters, [])
        for ipc, centres in ((1, points.mean(0, keepdim=True)), (3, means)):
            apart = np.linalg.norm((points[None] - centres[:, None]).flatten(2).numpy(), axis=2)
            expected = points[apart.argmin(1)] if images == "nearest" else centres
            pairs = zip(ordered(outcome[ipc].samples), ordered(expected / 5), strict=True)
            assert all(ours == pytest.approx(theirs, abs=2e-4) for ours, theirs in pairs)


def test_guidance_may_be_a_table_by_size(tiny, unet_file):
    both = distil(tiny, None, [1, 2], 0, settings(guidance={1: 0.0, 2: 2.0}), [unet_file])
    for ipc, guidance in ((1, 0.0), (2, 2.0)):
        alone = distil(tiny, None, [ipc], 0, settings(guidance=guidance), [unet_file])
        assert torch.equal(both[ipc].samples, alone[ipc].samples)


def test_guidance_without_measure_is_a_divergence(tiny, unet_file):
    parameters = settings(guidance=1e30, steps=20, stop=2)
    outcome = distil(tiny, None, [1], 0, parameters, [unet_file])[1]
    assert isinstance(outcome, DivergedError)
    assert str(outcome) == (
        "a generated pixel stopped being a finite number at step 20; choose less guidance or "
        "classifier_free_guidance"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "closest"}, r"'closest' is not an images; allowed: generated, modes, nearest"),
        ({"stop": 51}, r"stop=51 is more than the 50 sampling steps; choose stop <= steps"),
        ({"steps": 300}, r"steps=300 leave out the noisiest 100 of 1000 .* choose 333, or 50"),
        ({"steps": 1001}, r"steps=1001 must be a whole number of at least 1 and at most 1000"),
        ({"unet_channels": []}, r"unet_channels=\[\] must be a list of one or more whole"),
    ],
)
def test_bad_parameters_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"^mgd3: .*{message}"):
        ModeGuidedDiffusion.read(changes, "mgd3")
