import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
)
from sklearn.cluster import KMeans

from ddlib.data.base import DataSet, Split
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.devices import precision
from ddlib.methods import diffusion, generators
from ddlib.methods.diffusion import (
    ModeGuidedDiffusion,
    ddim_step,
    ddpm_step,
    distil,
    jobs,
    modes,
    outside,
    sample,
)
from ddlib.methods.generators import (
    ImageGenerator,
    _chosen_ids,
    drop_labels,
    load_dit,
    load_unet,
    unet_losses,
)
from ddlib.methods.generators import train_unet as make
from ddlib.seeds import generator
from ddlib.training.divergence import DivergedError

LINEAR = {"beta_schedule": "linear", "clip_sample": False}
ALPHAS_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # of the linear schedule
UNET = {
    "unet_channels": [8, 8],
    "unet_steps": 50,
    "unet_batch_size": 16,
    "unet_learning_rate": 0.01,
}
IPCS = [1]


def settings(**changes):
    return ModeGuidedDiffusion(**{**UNET, "steps": 6, "stop": 3, **changes})


def streams(count, seed=0):
    return [torch.Generator().manual_seed(100 * seed + number) for number in range(count)]


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def unet(tiny, tmp_path_factory):
    """The file of a small UNet trained on the tiny set."""
    path = tmp_path_factory.mktemp("unet") / "unet.safetensors"
    path.write_bytes(make(tiny, None, jobs(settings(), IPCS)[0]))
    return path


def gaussian(mean=0.0, variance=0.25, chunk=64):
    """A generator that knows its data, N(mean, variance): its noise is the exact expectation."""
    kept = torch.tensor(ALPHAS_BAR, dtype=torch.float32)

    def noise(latents, t, labels):
        spread = kept[t] * variance + 1 - kept[t]
        return (1 - kept[t]).sqrt() * (latents - kept[t].sqrt() * mean) / spread

    return ImageGenerator(torch.clone, torch.clone, noise, 9, LINEAR, range(3), 3, chunk)


# The two steps against the formulas


@pytest.mark.parametrize("t", [980, 500, 20, 0])
def test_a_ddpm_step_is_the_posterior_mean_plus_guidance_plus_noise(t):
    scheduler = DDPMScheduler(**LINEAR)
    scheduler.set_timesteps(50)
    latents, noise, targets = (normal(seed, 2, 1, 3, 3) for seed in (1, 2, 3))
    made = ddpm_step(scheduler, noise, torch.tensor(t), latents, targets, 0.7, streams(2))

    kept, before = ALPHAS_BAR[t], ALPHAS_BAR[t - 20] if t else 1.0
    alpha = kept / before
    x, e, m = (value.double().numpy() for value in (latents, noise, targets))
    x0 = (x - math.sqrt(1 - kept) * e) / math.sqrt(kept)
    mean = math.sqrt(before) * (1 - alpha) / (1 - kept) * x0
    mean += math.sqrt(alpha) * (1 - before) / (1 - kept) * x
    sigma = math.sqrt((1 - before) / (1 - kept) * (1 - alpha))
    z = torch.cat([torch.randn(1, 1, 3, 3, generator=stream) for stream in streams(2)])
    expected = mean + 0.7 * sigma * (m - x0) + sigma * z.double().numpy()
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("t", [980, 500, 20, 0])
def test_a_ddim_step_follows_the_guided_noise(t):
    scheduler = DDIMScheduler(**LINEAR)
    scheduler.set_timesteps(50)
    latents, noise, targets = (normal(seed, 2, 1, 3, 3) for seed in (1, 2, 3))
    made = ddim_step(scheduler, noise, torch.tensor(t), latents, targets, 0.7, streams(2))

    kept, before = ALPHAS_BAR[t], ALPHAS_BAR[t - 20] if t else 1.0
    x, e, m = (value.double().numpy() for value in (latents, noise, targets))
    x0 = (x - math.sqrt(1 - kept) * e) / math.sqrt(kept)
    guided = e - math.sqrt(1 - kept) * 0.7 * (m - x0)
    moved = (x - math.sqrt(1 - kept) * guided) / math.sqrt(kept)
    expected = math.sqrt(before) * moved + math.sqrt(1 - before) * guided
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5, atol=2e-5)


# The whole chain


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


@pytest.mark.parametrize("stop", [0, 4, 10])
def test_sampling_a_known_gaussian_is_the_closed_form_chain(stop):
    parameters = settings(steps=10, stop=stop, guidance=0.5)
    targets = torch.full((3, 1, 2, 2), 2.0)
    made = sample(gaussian(mean=-1), targets, torch.arange(3), streams(3), parameters)
    draws = np.stack(
        [
            [torch.randn(1, 2, 2, generator=s).double().numpy() for _ in range(10)]
            for s in streams(3)
        ],
        axis=1,
    )
    noise = np.concatenate([draws[1:], np.zeros((1, 3, 1, 2, 2))])
    expected = guided_chain(draws[0], noise, -1, 0.25, 2.0, 0.5, stop, 10)
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_more_guidance_ends_nearer_to_the_mode_and_none_at_the_data(sampler):
    targets = torch.full((200, 1, 2, 2), 1.0)
    ends = []
    for guidance in (0.0, 0.02, 0.1, 0.5):
        parameters = settings(sampler=sampler, steps=25, stop=0, guidance=guidance)
        ids = torch.zeros(200, dtype=torch.int64)
        ends.append(sample(gaussian(), targets, ids, streams(200), parameters))
    means = [float(end.mean()) for end in ends]
    assert abs(means[0]) < 0.06  # 0.5 / sqrt(800) = 0.018 is the standard error
    assert abs(float(ends[0].std()) - 0.5) < 0.1
    assert means == sorted(means)
    assert abs(means[-1] - 1) < 0.5


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_without_guidance_it_is_diffusers_own_loop(sampler):
    model, targets = gaussian(mean=0.3), normal(0, 4, 1, 3, 3)
    parameters = settings(sampler=sampler, guidance=0, steps=20, stop=0, classifier_free_guidance=1)
    made = sample(model, targets, torch.arange(4) % 3, streams(4), parameters)

    scheduler = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[sampler](**LINEAR)
    scheduler.set_timesteps(20)
    chains = streams(4)
    x = torch.cat([torch.randn(1, 1, 3, 3, generator=stream) for stream in chains])
    for t in scheduler.timesteps:
        options = {"generator": chains} if sampler == "ddpm" else {}
        x = scheduler.step(model.predict(x, t, None), t, x, **options).prev_sample
    torch.testing.assert_close(made, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("steps", "stop"), [(6, 0), (6, 2), (6, 6), (50, 25)])
def test_guidance_stops_for_the_last_steps(monkeypatch, steps, stop):
    used = []

    def record(scheduler, noise, t, latents, targets, guidance, streams):
        used.append(guidance)
        return latents

    monkeypatch.setitem(diffusion.STEPS, "ddpm", record)
    parameters = settings(steps=steps, stop=stop, guidance=0.2)
    sample(gaussian(), torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), streams(1), parameters)
    assert used == [0.2] * (steps - stop) + [0.0] * stop


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_classifier_free_guidance_extrapolates_from_the_null_class(monkeypatch, scale):
    seen, used = [], []

    def noise(latents, t, labels):
        seen.append((latents.clone(), labels.tolist()))
        return torch.ones_like(latents) * labels.view(-1, 1, 1, 1)

    def record(scheduler, noise, t, latents, *rest):
        used.append(noise)
        return latents

    monkeypatch.setitem(diffusion.STEPS, "ddpm", record)
    model = replace(gaussian(), predict=noise, null_class=10)
    parameters = settings(steps=1, stop=0, classifier_free_guidance=scale)
    sample(model, torch.zeros(2, 1, 2, 2), torch.tensor([3, 7]), streams(2), parameters)
    [(latents, labels)], [combined] = seen, used
    assert labels == [3, 7, 10, 10]
    assert torch.equal(latents[:2], latents[2:])
    assert combined[:, 0, 0, 0].tolist() == [10 + scale * (3 - 10), 10 + scale * (7 - 10)]


# Modes


def blobs():
    """Three tight clusters of 20 latents each, in shuffled order, and their means."""
    centres = torch.tensor([[5.0, 0], [0, 5], [-5, -5]]).view(3, 1, 1, 2)
    labels = torch.arange(3).repeat_interleave(20)[torch.randperm(60, generator=streams(1)[0])]
    points = centres[labels] + 0.1 * normal(1, 60, 1, 1, 2)
    return points, torch.stack([points[labels == label].mean(0) for label in range(3)])


def ordered(points):
    return sorted(map(tuple, np.round(np.asarray(points).reshape(len(points), -1), 4)))


def test_modes_are_the_means_of_obvious_clusters_and_sklearns():
    points, means = blobs()
    found = modes(points, 3, generator("test"))
    assert found.shape == (3, 1, 1, 2)
    assert found.dtype == torch.float32
    assert ordered(found) == ordered(means)
    theirs = KMeans(3, n_init=10, random_state=1).fit(points.flatten(1).numpy())
    assert ordered(found) == ordered(theirs.cluster_centers_)


@pytest.mark.parametrize("ipc", [1, 2, 7, 40])
def test_there_are_as_many_modes_as_images(tiny, ipc):
    latents = tiny.train.images[tiny.train.labels == 1]
    found = modes(latents, ipc, generator("test"))
    assert found.shape == (ipc, 1, 8, 8)
    if ipc == 1:
        torch.testing.assert_close(found[0], latents.mean(0), rtol=1e-5, atol=1e-5)
    if ipc == 40:  # every image is its own mode
        assert ordered(found) == ordered(latents)


def test_nearest_images_are_the_real_ones_closest_to_each_mode(tiny, monkeypatch):
    found = []

    def record(*arguments):
        found.append(modes(*arguments))
        return found[-1]

    monkeypatch.setattr(diffusion, "modes", record)
    parameters = settings(images="nearest")
    assert jobs(parameters, IPCS) == []
    made = distil(tiny, None, [2, 5], 0, parameters, [])
    assert [len(each) for each in found] == [2, 5] * 3
    unit = tiny.normalisation.denormalise(tiny.train.images)
    for label in range(3):
        members = torch.nonzero(tiny.train.labels == label).flatten().tolist()
        for row, centre in enumerate(found[2 * label + 1]):
            distances = [float((2 * unit[i] - 1 - centre).norm()) for i in members]
            best = tiny.train.images[members[int(np.argmin(distances))]]
            assert torch.equal(made[5].images[5 * label + row], best)


def test_modes_as_images_are_the_means_of_the_clusters():
    points, means = blobs()
    split = Split(points / 5, torch.zeros(60, dtype=torch.int64))
    dataset = DataSet("own", split, split, Normalisation((0.5,), (0.25,)), ("one",))
    parameters = settings(images="modes")
    assert jobs(parameters, IPCS) == []
    made = distil(dataset, None, [1, 3], 0, parameters, [])
    assert made[3].images.shape == (3, 1, 1, 2)
    for ipc, expected in ((1, points.mean(0, keepdim=True)), (3, means)):
        found, expected = (torch.tensor(ordered(each)) for each in (made[ipc].images, expected / 5))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


# The UNet


def test_training_lowers_the_loss_and_repeats_to_the_byte(tiny, unet, capsys):
    before = torch.get_rng_state()
    again = make(tiny, None, jobs(settings(), IPCS)[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert again == unet.read_bytes()
    losses = unet_losses(unet)
    assert losses.shape == (50,)
    assert losses[:3].mean() > 0.7  # noise of unit variance, and a network that knows nothing
    assert losses[-20:].mean() < 0.6 * losses[:3].mean()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 10
    assert printed[-1] == f"unet: step 50 of 50, loss {losses[-5:].mean():.3f}"


def test_the_file_says_what_it_holds(tiny, unet):
    with safetensors.safe_open(str(unet), "pt") as file:
        described = json.loads(file.metadata()["generator"])
    assert described["unet"]["block_out_channels"] == [8, 8]
    assert described["unet"]["num_class_embeds"] == 4
    # Those of diffusers' own are in an order that differs from process to process.
    assert not [name for name in described["schedule"] if name.startswith("_")]
    model = load_unet(unet, tiny, levels=2)
    assert (list(model.class_ids), model.null_class) == ([0, 1, 2], 3)
    assert model.schedule["num_train_timesteps"] == 1000
    bad = unet.parent / "half"
    bad.write_bytes(unet.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"half is not whole .* delete it, and run again"):
        load_unet(bad, tiny, levels=2)


def test_averaged_weights_denoise_held_out_images(tiny, unet):
    model, scheduler = load_unet(unet, tiny, levels=2), DDPMScheduler(**LINEAR)
    pixels, noise, t = model.encode(tiny.test.images), normal(3, 60, 1, 8, 8), torch.tensor(300)
    with torch.no_grad():
        guess = model.predict(scheduler.add_noise(pixels, noise, t), t, tiny.test.labels)
    assert (guess - noise).pow(2).mean() < 0.5 * noise.pow(2).mean()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_labels_are_dropped_for_the_null_class(share):
    labels = torch.arange(10).repeat(1000)
    dropped = drop_labels(labels, 10, share, streams(1)[0])
    lost = dropped == 10
    assert torch.equal(dropped[~lost], labels[~lost])
    assert abs(float(lost.double().mean()) - share) <= 4 * math.sqrt(share * (1 - share) / 10000)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_unet_is_trained_with_dropped_labels(tiny, monkeypatch, share):
    seen = []
    forward = generators._fresh_unet

    def record(*arguments):
        made, described = forward(*arguments)
        made.register_forward_pre_hook(
            lambda module, given, named: seen.extend(named["class_labels"].tolist()),
            with_kwargs=True,
        )
        return made, described

    monkeypatch.setattr(generators, "_fresh_unet", record)
    make(tiny, None, jobs(settings(unet_steps=3, unet_label_drop=share), IPCS)[0])
    assert set(seen) == ({3} if share else {0, 1, 2})


def test_a_unet_that_diverges_says_when(tiny):
    sentence = (
        r"the UNet's loss stopped being .* at step [1-9]; choose a smaller unet_learning_rate"
    )
    with pytest.raises(DivergedError, match=sentence):
        make(tiny, None, jobs(settings(unet_learning_rate=1e12), IPCS)[0])


@pytest.mark.parametrize(("height", "width", "levels"), [(8, 8, 2), (9, 7, 3), (28, 28, 4)])
def test_pixels_are_padded_for_the_unet_and_cropped_back(height, width, levels):
    unit = torch.rand(5, 3, height, width, generator=streams(1)[0])
    normalisation = Normalisation((0.2, 0.5, 0.4), (0.3, 0.2, 0.1))
    split = Split(normalisation.normalise(unit), torch.zeros(5, dtype=torch.int64))
    model = load_unet(None, DataSet("own", split, split, normalisation, ("one",)), levels)
    pixels = model.encode(split.images)
    assert pixels.shape[2] % 2 ** (levels - 1) == pixels.shape[3] % 2 ** (levels - 1) == 0
    assert pixels.shape[2] - height < 2 ** (levels - 1)
    torch.testing.assert_close(pixels[..., :height, :width], 2 * unit - 1)
    torch.testing.assert_close(model.decode(pixels), split.images, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("side", "chunk"), [(8, 64), (32, 64), (64, 64), (128, 16), (1024, 1)])
def test_large_images_are_drawn_fewer_at_a_time(side, chunk):
    split = Split(torch.zeros(1, 3, side, side), torch.zeros(1, dtype=torch.int64))
    data = DataSet("own", split, split, Normalisation((0.5,) * 3, (0.5,) * 3), ("one",))
    assert load_unet(None, data, levels=2).chunk == chunk


# distil


def test_images_are_guided_towards_their_own_modes(tiny, unet):
    plain, guided = (
        distil(tiny, None, [2], 0, settings(guidance=g, steps=20, stop=2), [unet])[2]
        for g in (0, 1)
    )
    assert guided.images.shape == (6, 1, 8, 8)
    assert guided.labels.tolist() == [0, 0, 1, 1, 2, 2]
    pixels = tiny.normalisation.denormalise(tiny.train.images)
    targets = torch.cat(
        [
            modes(2 * pixels[tiny.train.labels == label] - 1, 2, generator("modes", 0, 2, label))
            for label in range(3)
        ]
    )
    targets = tiny.normalisation.normalise((targets + 1) / 2)
    near, far = ((each.images - targets).pow(2).sum() for each in (guided, plain))
    assert near < 0.5 * far


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_an_image_does_not_depend_on_its_company(tiny, unet, monkeypatch, sampler):
    parameters = settings(sampler=sampler)
    together = distil(tiny, None, [1, 3], 2, parameters, [unet])
    load = diffusion.load_unet
    monkeypatch.setattr(diffusion, "load_unet", lambda *given: replace(load(*given), chunk=2))
    alone = distil(tiny, None, [3], 2, parameters, [unet])
    torch.testing.assert_close(together[3].images, alone[3].images, rtol=1e-3, atol=1e-3)


def test_one_seed_gives_one_set_and_the_global_state_is_left_alone(tiny, unet):
    before, theirs = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (
        distil(tiny, None, [2], seed, settings(), [unet])[2] for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], theirs)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert len({tuple(image.flatten().tolist()) for image in first.images}) == 6


def test_the_set_says_what_made_it(tiny, unet):
    made = distil(tiny, None, [1], 4, settings(), [unet])[1]
    assert (made.data, made.method, made.seed, made.classes) == ("tiny", "mgd3", 4, tiny.classes)
    assert made.parameters["stop"] == 3
    assert made.parameters["unet_channels"] == [8, 8]
    pixels = made.images * 0.25 + 0.5
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6


def test_guidance_without_measure_is_a_divergence(tiny, unet):
    parameters = settings(guidance=1e30, steps=20, stop=2)
    outcome = distil(tiny, None, [1], 0, parameters, [unet])[1]
    assert isinstance(outcome, DivergedError)
    assert str(outcome).startswith("a generated pixel stopped being a finite number at step 20")
    assert str(outcome).endswith("choose less guidance or classifier_free_guidance")


def test_jobs_hold_all_that_decides_the_unet():
    [job] = jobs(settings(), IPCS)
    assert json.loads(json.dumps(job)) == {
        "channels": [8, 8],
        "steps": 50,
        "batch_size": 16,
        "learning_rate": 0.01,
        "timesteps": 1000,
        "label_drop": 0.1,
    }
    assert jobs(settings(guidance=3, steps=9), IPCS) == [job]  # sampling does not touch the UNet
    assert jobs(settings(generator="facebook/DiT-XL-2-256"), IPCS) == []


# A DiT pipeline


@pytest.fixture(scope="module")
def coloured():
    """Three classes of 3x8x8 images."""
    images = normal(7, 30, 3, 8, 8)
    split = Split(images, torch.arange(3).repeat(10))
    return DataSet("own", split, split, Normalisation((0.5,) * 3, (0.25,) * 3), ("x", "y", "z"))


def save_dit(folder, channels=8, **schedule):
    """Save a DiT of so many channels of output on the 4x4 latents of a VAE that halves 8x8."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=4,
            out_channels=channels,
            num_layers=2,
            norm_num_groups=2,
            sample_size=4,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=[4, 8],
            norm_num_groups=2,
            scaling_factor=0.3,
        )
    scheduler = DDIMScheduler(**LINEAR, **schedule)
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
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


def test_a_dit_is_sampled_as_by_its_own_code(dit, coloured):
    """Three of four channels guided, a learned sigma, timesteps from 999 to 0."""
    parameters = ModeGuidedDiffusion(generator=str(dit), steps=6, stop=2, guidance=0.5)
    model = load_dit(str(dit), coloured, [5, 999, 0])
    targets, ids = normal(9, 3, 4, 4, 4), torch.tensor([5, 999, 0])
    made = sample(model, targets, ids, streams(3), parameters)
    own = DiTTransformer2DModel.from_pretrained(dit / "transformer", low_cpu_mem_usage=False)
    chains = streams(3)
    first = torch.cat([torch.randn(1, 4, 4, 4, generator=chain) for chain in chains]).double()
    expected = ddpm_of_dit(own, first, targets.double(), ids, chains, 6, 2, 0.5, 4.0)
    torch.testing.assert_close(made.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_dit_without_guidance_draws_what_its_pipeline_draws(dit, coloured):
    sampling = {"sampler": "ddim", "guidance": 0, "classifier_free_guidance": 1}
    parameters = ModeGuidedDiffusion(
        generator=str(dit), class_ids=[5, 999, 0], steps=8, stop=4, **sampling
    )
    made = distil(coloured, None, [1], 3, parameters, [])[1]
    pipeline = DiTPipeline.from_pretrained(dit, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    chains = [generator("mode guidance", 3, 1, label, 0) for label in range(3)]
    [unit] = pipeline([5, 999, 0], 1.0, chains, 8, output_type="pt", return_dict=False)
    torch.testing.assert_close(made.images * 0.25 + 0.5, unit, rtol=1e-4, atol=1e-4)
    assert unit.std() > 0.01


def test_a_dit_is_guided_towards_modes_of_scaled_latents(dit, coloured, monkeypatch):
    vae = AutoencoderKL.from_pretrained(dit / "vae", low_cpu_mem_usage=False)
    unit = (coloured.train.images * 0.25 + 0.5).clamp(0, 1)
    with torch.no_grad():
        latents = 0.3 * vae.encode(2 * unit - 1).latent_dist.mean
        shown = (vae.decode(latents / 0.3).sample / 2 + 0.5).clamp(0, 1)
    asked = []

    def record(model, targets, class_ids, streams, parameters):
        asked.append((targets, class_ids))
        return targets

    monkeypatch.setattr(diffusion, "sample", record)
    parameters = ModeGuidedDiffusion(generator=str(dit), class_ids=[4, 5, 6])
    made = distil(coloured, None, [10], 0, parameters, [])[10]  # every image is its own mode
    targets, ids = (torch.cat(parts) for parts in zip(*asked, strict=True))
    assert ids.tolist() == [4] * 10 + [5] * 10 + [6] * 10
    for label in range(3):
        rows, own = slice(10 * label, 10 * label + 10), coloured.train.labels == label
        order = torch.cdist(targets[rows].flatten(1), latents[own].flatten(1)).argmin(1)
        assert sorted(order.tolist()) == list(range(10))
        torch.testing.assert_close(targets[rows], latents[own][order], rtol=1e-4, atol=1e-5)
        pixels = made.images[rows] * 0.25 + 0.5
        torch.testing.assert_close(pixels, shown[own][order], rtol=1e-4, atol=1e-4)
    modes_shown = distil(coloured, None, [10], 0, parameters.replace(images="modes"), [])[10]
    torch.testing.assert_close(modes_shown.images, made.images)
    assert len(asked) == 4  # chunks of 8 of the 30 images: none is asked for again


@pytest.mark.parametrize("images", ["generated", "modes"])
def test_whitened_images_under_bf16_are_float32_and_rounded_by_networks_alone(
    dit, coloured, images
):
    pixels = torch.randint(256, (200, 192), generator=torch.Generator().manual_seed(3))
    whitened = replace(coloured, normalisation=Whitening.fit(pixels, 255))
    for name, within in (("unet", 0.0), (str(dit), 0.1)):
        if name == "unet" and images == "generated":
            continue
        parameters = settings(generator=name, images=images, class_ids=[4, 5, 6])
        exact = distil(whitened, None, [2], 0, parameters, [])[2].images
        with precision("bf16", "cpu"):
            rounded = distil(whitened, None, [2], 0, parameters, [])[2].images
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=0, atol=within)


def test_images_of_another_size_are_resized_there_and_back(dit, coloured):
    large = normal(8, 30, 3, 12, 10)
    data = replace(coloured, train=Split(large, coloured.train.labels))
    assert load_dit(str(dit), data, [7, 8, 9]).encode(large).shape == (30, 4, 4, 4)
    parameters = ModeGuidedDiffusion(generator=str(dit), steps=4, stop=2, class_ids=[7, 8, 9])
    made = distil(data, None, [2], 0, parameters, [])[2]
    assert made.images.shape == (6, 3, 12, 10)
    assert torch.isfinite(made.images).all()


def test_imagenette_classes_have_their_imagenet_ids(dit, coloured):
    names = (
        ("tench", 0),
        ("English springer", 217),
        ("cassette player", 482),
        ("chain saw", 491),
        ("church", 497),
        ("French horn", 566),
        ("garbage truck", 569),
        ("gas pump", 571),
        ("golf ball", 574),
        ("parachute", 701),
    )
    for chosen in (names, names[::-1], names[3:6]):
        data = replace(coloured, classes=tuple(name for name, _ in chosen))
        assert load_dit(str(dit), data, []).class_ids == [number for _, number in chosen]
    others = replace(coloured, classes=("goldfish", "daisy", "toilet tissue"))
    assert load_dit(str(dit), others, []).class_ids == [1, 985, 999]
    assert load_dit(str(dit), coloured, [7, 8, 9]).class_ids == [7, 8, 9]
    assert load_dit(str(dit), coloured, [7, 8, 9]).null_class == 1000


@pytest.mark.parametrize(
    ("classes", "count", "named"),
    [
        (["tench", "goldfish", "my cat"], 1000, "my cat"),
        (["goldfish", "tench"], 2, "goldfish, tench"),  # a model that was not made on ImageNet
    ],
)
def test_classes_that_the_generator_may_call_otherwise_ask_for_class_ids(classes, count, named):
    with pytest.raises(ValueError, match=f"class_ids is empty.* calls {named} cannot be told"):
        _chosen_ids(classes, [], count)
    ids = list(range(len(classes)))[::-1]
    assert _chosen_ids(classes, ids, count) == ids


@pytest.mark.parametrize("ids", [[1, 2], [1, 2, 1000]])
def test_class_ids_that_do_not_fit_are_refused(dit, coloured, ids):
    with pytest.raises(ValueError, match=r"class_ids=.* must be 3 numbers below 1000, one for"):
        load_dit(str(dit), coloured, ids)


def test_a_dit_of_another_number_of_channels_is_refused(dit, tiny):
    with pytest.raises(ValueError, match="makes images of 3 channels, but those of tiny have 1"):
        load_dit(str(dit), tiny, [])


@pytest.mark.parametrize("channels", [4, 8])
def test_a_dit_predicts_the_noise_and_the_variance_that_it_may_have_learned(
    coloured, tmp_path, channels
):
    save_dit(tmp_path, channels)
    model = load_dit(str(tmp_path), coloured, [7, 8, 9])
    own = DiTTransformer2DModel.from_pretrained(tmp_path / "transformer", low_cpu_mem_usage=False)
    latents, labels = normal(4, 2, 4, 4, 4), torch.tensor([3, 1000])
    with torch.no_grad():
        predicted = model.predict(latents, torch.tensor(500), labels)
        whole = own(latents, timestep=torch.tensor([500, 500]), class_labels=labels).sample
    assert whole.shape == (2, channels, 4, 4)
    assert torch.equal(predicted, whole)
    assert model.schedule["variance_type"] == {4: "fixed_small", 8: "learned_range"}[channels]


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_a_dit_that_does_not_predict_noise_is_refused(coloured, tmp_path, kind):
    save_dit(tmp_path, prediction_type=kind)
    with pytest.raises(ValueError, match=f"predicts '{kind}' .* choose one with 'epsilon'") as e:
        load_dit(str(tmp_path), coloured, [])
    assert "\n" not in str(e.value)


def test_a_dit_in_a_folder_is_known_by_its_content_and_one_of_the_hub_by_its_name(dit, tmp_path):
    copy = shutil.copytree(dit, tmp_path / "copy")
    [digest] = outside(ModeGuidedDiffusion(generator=str(dit)))
    assert outside(ModeGuidedDiffusion(generator=str(copy))) == [digest]
    for part in ("transformer", "vae"):
        [weights] = (copy / part).glob("*.safetensors")
        whole = bytearray(weights.read_bytes())
        whole[-1] ^= 1
        weights.write_bytes(whole)
        [changed] = outside(ModeGuidedDiffusion(generator=str(copy)))
        assert changed != digest
        digest = changed
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.02", "0.03"))
    assert outside(ModeGuidedDiffusion(generator=str(copy))) != [digest]
    for name in ("unet", "facebook/DiT-XL-2-256"):
        assert outside(ModeGuidedDiffusion(generator=name)) == []


def test_the_folder_of_a_dit_counts_from_the_projects_root(dit, tmp_path, monkeypatch):
    shutil.copytree(dit, tmp_path / "weights")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert outside(ModeGuidedDiffusion(generator="weights")) == outside(
        ModeGuidedDiffusion(generator=str(dit))
    )


def test_a_missing_dit_is_one_clear_sentence(tiny, tmp_path):
    for place in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"generator=.* cannot be loaded") as raised:
            load_dit(str(place), tiny, [])
        assert "\n" not in str(raised.value)
        assert "give 'unet', a folder that DiTPipeline.save_pretrained wrote" in str(raised.value)


# Parameters


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generator": ""}, r"generator='' must be text"),
        ({"generator": 3}, r"generator=3 must be text"),
        ({"class_ids": 3}, r"class_ids=3 must be a list of whole numbers"),
        ({"class_ids": [0, -1]}, r"class_ids\[1\]=-1 must be a whole number of at least 0"),
        ({"images": "closest"}, r"'closest' is not an images; allowed: generated, modes, nearest"),
        ({"sampler": "dppm"}, r"did you mean 'ddpm'\? allowed: ddpm, ddim"),
        ({"stop": 51}, r"stop=51 is more than the 50 sampling steps; choose stop <= steps"),
        ({"unet_timesteps": 40}, r"steps=50 is more than unet_timesteps=40; choose fewer"),
        ({"unet_channels": []}, r"unet_channels=\[\] must be a list of one or more whole"),
        ({"unet_channels": [8, 0]}, r"unet_channels\[1\]=0 must be a whole number of at least 1"),
        (
            {"unet_label_drop": 1.5},
            r"unet_label_drop=1\.5 must be a number of at least 0 and at most 1",
        ),
        ({"guidance": -1}, r"guidance=-1 must be a number of at least 0"),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(given, message):
    with pytest.raises(ValueError, match=message) as raised:
        ModeGuidedDiffusion.read(given, "mgd3")
    assert str(raised.value).startswith("mgd3: ")
    assert "\n" not in str(raised.value)
