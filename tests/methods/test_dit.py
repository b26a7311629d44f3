"""A tiny DiT pipeline: sampled as by DiT's own code, guided, resized, and refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from chains import ALPHAS_BAR, LINEAR, streams
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from draws import labelled, noise

from ddlib.data.base import Split
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.devices import precision
from ddlib.methods import diffusion
from ddlib.methods.diffusion import ModeGuidedDiffusion, distil, sample
from ddlib.methods.generators import dit


@pytest.fixture(scope="module")
def coloured():
    """Three classes of 3x8x8 images."""
    return labelled(noise(30, 3, 8, 8), "xyz", Normalisation((0.5,) * 3, (0.25,) * 3))


def save_dit(folder, channels=8, **schedule):
    """Save a DiT of so many channels of output on the 4x4 latents of a VAE that halves 8x8."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            **{"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2},
            **{"in_channels": 4, "out_channels": channels, "sample_size": 4, "patch_size": 2},
            **{"norm_num_groups": 2, "num_embeds_ada_norm": 1000},
        )
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            **{"block_out_channels": [4, 8], "norm_num_groups": 2, "scaling_factor": 0.3},
        )
    scheduler = DDIMScheduler(**LINEAR, **schedule)
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a DiT with learned variance, like DiT-XL/2."""
    return save_dit(tmp_path_factory.mktemp("dit"))


def ddpm_of_dit(transformer, x, targets, ids, chains, steps, stop, guidance, scale):
    """DiT's sampler (p_sample with forward_with_cfg and a learned range) with MGD3's term."""
    times = np.linspace(0, 999, steps).round().astype(int)[::-1]
    for number, t in enumerate(times):
        kept, before = ALPHAS_BAR[t], ALPHAS_BAR[times[number + 1]] if t else 1.0
        alpha = kept / before
        with torch.no_grad():
            own, free = (
                transformer(x.float(), timestep=torch.full((3,), t), class_labels=labels).sample
                for labels in (ids, torch.full((3,), 1000))
            )
        own, free = own.double(), free.double()
        noise = torch.cat([(free + scale * (own - free))[:, :3], own[:, 3:4]], 1)
        x0 = (x - math.sqrt(1 - kept) * noise) / math.sqrt(kept)
        x = (
            math.sqrt(before) * (1 - alpha) / (1 - kept) * x0
            + math.sqrt(alpha) * (1 - before) / (1 - kept) * x
        )
        if t:
            share = (own[:, 4:] + 1) / 2
            low, high = math.log((1 - before) / (1 - kept) * (1 - alpha)), math.log(1 - alpha)
            sigma = torch.exp(0.5 * (share * high + (1 - share) * low))
            x += (guidance if steps - number > stop else 0) * sigma * (targets - x0)
            x += sigma * torch.cat([torch.randn(1, 4, 4, 4, generator=chain) for chain in chains])
    return x


def test_a_dit_is_sampled_as_by_its_own_code(folder, coloured):
    """Three of four channels guided, a learned sigma, timesteps from 999 to 0."""
    parameters = ModeGuidedDiffusion(generator=str(folder), steps=6, stop=2, guidance=0.5)
    model = dit.load(str(folder), coloured, [5, 999, 0])
    targets, ids = noise(3, 4, 4, 4, seed=9), torch.tensor([5, 999, 0])
    latents = sample(model, targets, ids, streams(3), parameters)
    own = DiTTransformer2DModel.from_pretrained(folder / "transformer", low_cpu_mem_usage=False)
    chains = streams(3)
    first = torch.cat([torch.randn(1, 4, 4, 4, generator=chain) for chain in chains]).double()
    expected = ddpm_of_dit(own, first, targets.double(), ids, chains, 6, 2, 0.5, 4.0)
    torch.testing.assert_close(latents.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_dit_is_guided_towards_modes_of_scaled_latents(folder, coloured, monkeypatch):
    vae = AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False)
    unit = (coloured.train.samples * 0.25 + 0.5).clamp(0, 1)
    with torch.no_grad():
        latents = 0.3 * vae.encode(2 * unit - 1).latent_dist.mean
        decoded = (vae.decode(latents / 0.3).sample / 2 + 0.5).clamp(0, 1)
    asked = []

    def record(model, targets, class_ids, streams, parameters):
        asked.append((targets, class_ids))
        return targets

    monkeypatch.setattr(diffusion, "sample", record)
    parameters = ModeGuidedDiffusion(generator=str(folder), class_ids=[4, 5, 6])
    images = distil(coloured, None, [10], 0, parameters, [])[10].samples  # each its own mode
    targets, ids = (torch.cat(parts) for parts in zip(*asked, strict=True))
    assert [len(part) for part, _ in asked] == [8, 8, 8, 6]
    assert ids.tolist() == [4] * 10 + [5] * 10 + [6] * 10
    for label in range(3):
        rows, own = slice(10 * label, 10 * label + 10), coloured.train.labels == label
        order = torch.cdist(targets[rows].flatten(1), latents[own].flatten(1)).argmin(1)
        assert sorted(order.tolist()) == list(range(10))
        torch.testing.assert_close(targets[rows], latents[own][order], rtol=1e-4, atol=1e-5)
        pixels = images[rows] * 0.25 + 0.5
        torch.testing.assert_close(pixels, decoded[own][order], rtol=1e-4, atol=1e-4)
    shown = distil(coloured, None, [10], 0, parameters.replace(images="modes"), [])[10].samples
    torch.testing.assert_close(shown, images)


@pytest.mark.parametrize("images", ["generated", "modes"])
def test_networks_alone_round_whitened_images_under_bf16(folder, coloured, images):
    pixels = torch.randint(256, (200, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    whitened = replace(coloured, normalisation=Whitening.fit(pixels, 255))
    parameters = ModeGuidedDiffusion(
        generator=str(folder), images=images, class_ids=[4, 5, 6], steps=6, stop=3
    )
    exact = distil(whitened, None, [2], 0, parameters, [])[2].samples
    with precision("bf16", "cpu"):
        rounded = distil(whitened, None, [2], 0, parameters, [])[2].samples
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1)


def test_images_of_another_size_are_resized_there_and_back(folder, coloured):
    large = noise(30, 3, 12, 10)
    data = replace(coloured, train=Split(large, coloured.train.labels))
    assert dit.load(str(folder), data, [7, 8, 9]).encode(large).shape == (30, 4, 4, 4)
    parameters = ModeGuidedDiffusion(generator=str(folder), steps=4, stop=2, class_ids=[7, 8, 9])
    images = distil(data, None, [2], 0, parameters, [])[2].samples
    assert images.shape == (6, 3, 12, 10)
    assert images.isfinite().all()


def test_imagenette_classes_have_their_imagenet_ids(folder, coloured):
    names = ["tench", "English springer", "cassette player", "chain saw", "church"]
    names += ["French horn", "garbage truck", "gas pump", "golf ball", "parachute", "toilet tissue"]
    ids = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701, 999]
    assert dit.known_ids(names, [], 1000) == ids
    assert dit.known_ids(names[::-1], [], 1000) == ids[::-1]
    model = dit.load(str(folder), coloured, [7, 8, 9])
    assert (model.class_ids, model.null_class) == ([7, 8, 9], 1000)


@pytest.mark.parametrize(
    ("classes", "class_ids", "count"),
    [
        (["tench", "goldfish", "my cat"], [], 1000),
        (["goldfish", "tench"], [], 2),  # a model that was not made on ImageNet
        (["goldfish", "tench"], [1], 1000),
        (["goldfish", "tench"], [1, 1000], 1000),
        (["goldfish", "tench"], [1, 1], 1000),
    ],
)
def test_classes_whose_ids_are_not_known_are_refused(classes, class_ids, count):
    sentence = f"must be {len(classes)} different numbers below {count}, .*{classes[-1]}"
    with pytest.raises(ValueError, match=sentence):
        dit.known_ids(classes, class_ids, count)


def test_a_dit_without_a_learned_variance_predicts_the_noise_alone(coloured, tmp_path):
    save_dit(tmp_path, channels=4)
    model = dit.load(str(tmp_path), coloured, [7, 8, 9])
    latents, labels = noise(2, 4, 4, 4), torch.tensor([3, 1000])
    with torch.no_grad():
        assert model.predict(latents, torch.tensor(500), labels).shape == (2, 4, 4, 4)
    assert model.schedule["variance_type"] == "fixed_small"


def test_a_dit_that_is_missing_or_of_another_kind_is_refused(folder, coloured, tiny, tmp_path):
    save_dit(tmp_path, prediction_type="v_prediction")
    for path, dataset, kind, sentence in (
        (tmp_path, coloured, ValueError, r"predicts 'v_prediction' .* choose one with 'epsilon'"),
        (folder, tiny, ValueError, "makes images of 3 channels, but those of tiny have 1"),
        (tmp_path / "absent", tiny, FileNotFoundError, "^generator=.* cannot be loaded .*give 'un"),
    ):
        with pytest.raises(kind, match=sentence):
            dit.load(str(path), dataset, [])


def test_a_folder_in_the_root_needs_a_slash(folder, coloured, tmp_path, monkeypatch):
    """Without one, its content would not count in names of results."""
    (tmp_path / "mydit").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"needs a slash or an ending; write ./mydit for mydit"):
        dit.load("mydit", coloured, [7, 8, 9])
    assert dit.load("./mydit", coloured, [7, 8, 9]).class_ids
