"""The small UNet: what it is trained on, its file, and the pixels it works in."""

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

from ddlib.data.base import DataSet, Split
from ddlib.data.normalise import Normalisation
from ddlib.methods.generators import unet
from ddlib.training.divergence import DivergedError

JOB = {"channels": [8, 8], "steps": 40, "batch_size": 16, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def path(tiny, tmp_path_factory):
    """The file of a small UNet trained on the tiny set."""
    path = tmp_path_factory.mktemp("unet") / "unet.safetensors"
    path.write_bytes(unet.train(tiny, None, JOB))
    return path


def own(normalisation, images):
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    return DataSet("own", split, split, normalisation, ("one",))


def test_training_lowers_the_loss_and_repeats_to_the_byte(tiny, path):
    before = torch.get_rng_state()
    assert unet.train(tiny, None, JOB) == path.read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    losses = load_file(path)["losses"]
    assert losses.shape == (40,)
    assert losses[:3].mean() > 0.7  # noise of unit variance, and a network that knows nothing
    assert losses[-15:].mean() < 0.7 * losses[:3].mean()


def test_averaged_weights_denoise_held_out_images(tiny, path):
    model = unet.load(path, tiny, [8, 8])
    assert (list(model.class_ids), model.null_class) == ([0, 1, 2], 3)
    scheduler, t = DDPMScheduler(beta_schedule="linear", clip_sample=False), torch.tensor(300)
    noise = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    noisy = scheduler.add_noise(model.encode(tiny.test.samples), noise, t)
    with torch.no_grad():
        guess = model.predict(noisy, t, tiny.test.labels)
    assert (guess - noise).pow(2).mean() < 0.5 * noise.pow(2).mean()
    half = path.parent / "half"
    half.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"half is not whole .* delete it, and run again"):
        unet.load(half, tiny, [8, 8])


def test_a_unet_that_diverges_says_when(tiny):
    sentence = "the UNet's loss stopped being .* at step [1-9]; choose a smaller unet_learning_rate"
    with pytest.raises(DivergedError, match=sentence):
        unet.train(tiny, None, {**JOB, "learning_rate": 1e12})


@pytest.mark.parametrize(("height", "width", "levels"), [(8, 8, 2), (9, 7, 3), (28, 28, 4)])
def test_pixels_are_padded_for_the_unet_and_cropped_back(height, width, levels):
    unit = torch.rand(5, 3, height, width, generator=torch.Generator().manual_seed(0))
    normalisation = Normalisation((0.2, 0.5, 0.4), (0.3, 0.2, 0.1))
    images = normalisation.normalise(unit)
    model = unet.load(None, own(normalisation, images), [8] * levels)
    pixels = model.encode(images)
    for side, padded in ((height, pixels.shape[2]), (width, pixels.shape[3])):
        assert padded == -(-side // 2 ** (levels - 1)) * 2 ** (levels - 1)
    torch.testing.assert_close(pixels[..., :height, :width], 2 * unit - 1)
    torch.testing.assert_close(model.decode(pixels), images, rtol=1e-5, atol=1e-5)
