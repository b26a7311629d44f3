"""The small UNet: what it is trained on, its file, and the pixels it works in."""

import pytest
import torch
from chains import JOB
from diffusers import DDPMScheduler
from draws import labelled, noise, stream
from safetensors.torch import load_file

from ddlib.data.normalise import Normalisation
from ddlib.methods.generators import unet
from ddlib.training.divergence import DivergedError


def test_training_lowers_the_loss_and_repeats_to_the_byte(tiny, unet_file):
    before = torch.get_rng_state()
    assert unet.train(tiny, None, JOB) == unet_file.read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    losses = load_file(unet_file)["losses"]
    assert losses.shape == (40,)
    assert losses[:3].mean() > 0.7  # noise of unit variance, and a network that knows nothing
    assert losses[-15:].mean() < 0.7 * losses[:3].mean()


def test_averaged_weights_denoise_held_out_images(tiny, unet_file, tmp_path):
    model = unet.load(unet_file, tiny, [8, 8])
    assert (list(model.class_ids), model.null_class) == ([0, 1, 2], 3)
    scheduler, t = DDPMScheduler(beta_schedule="linear", clip_sample=False), torch.tensor(300)
    added = noise(60, 1, 8, 8, seed=3)
    noisy = scheduler.add_noise(model.encode(tiny.test.samples), added, t)
    with torch.no_grad():
        guess = model.predict(noisy, t, tiny.test.labels)
    assert (guess - added).pow(2).mean() < 0.5 * added.pow(2).mean()
    half = tmp_path / "half"
    half.write_bytes(unet_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"half is not whole .* delete it, and run again"):
        unet.load(half, tiny, [8, 8])


def test_a_unet_that_diverges_says_when(tiny):
    sentence = "the UNet's loss stopped being .* at step [1-9]; choose a smaller unet_learning_rate"
    with pytest.raises(DivergedError, match=sentence):
        unet.train(tiny, None, {**JOB, "learning_rate": 1e12})


@pytest.mark.parametrize(("height", "width", "levels"), [(8, 8, 2), (9, 7, 3), (28, 28, 4)])
def test_pixels_are_padded_for_the_unet_and_cropped_back(height, width, levels):
    unit = torch.rand(5, 3, height, width, generator=stream())
    normalisation = Normalisation((0.2, 0.5, 0.4), (0.3, 0.2, 0.1))
    images = normalisation.normalise(unit)
    model = unet.load(None, labelled(images, ["one"], normalisation), [8] * levels)
    pixels = model.encode(images)
    for side, padded in ((height, pixels.shape[2]), (width, pixels.shape[3])):
        assert padded == -(-side // 2 ** (levels - 1)) * 2 ** (levels - 1)
    torch.testing.assert_close(pixels[..., :height, :width], 2 * unit - 1)
    torch.testing.assert_close(model.decode(pixels), images, rtol=1e-5, atol=1e-5)
