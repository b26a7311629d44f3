"""Normalisation and whitening by their formulas, and bytes that are normalised when read."""

import pickle

import numpy as np
import pytest
import torch
from layouts import images, pixels, write_npz
from scipy.linalg import sqrtm

from ddlib.data.base import Pixels, Split
from ddlib.data.load import load
from ddlib.data.normalise import Normalisation
from ddlib.devices import precision


def test_normalisation_by_hand_and_back():
    normalisation = Normalisation((0.5, 0.2, 0.0), (0.25, 0.1, 2.0))
    unit = torch.tensor([1.0, 0.1, 0.5]).view(1, 3, 1, 1)
    normalised = normalisation.normalise(unit)
    assert normalised.flatten().tolist() == pytest.approx([2.0, -1.0, 0.25])
    assert unit.flatten().tolist() == pytest.approx([1.0, 0.1, 0.5])  # left as it was
    torch.testing.assert_close(normalisation.denormalise(normalised), unit)
    outside = torch.tensor([9.0, -9.0, 0.0]).view(1, 3, 1, 1)
    assert normalisation.denormalise(outside).flatten().tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="images have 1 channels, but the normalisation has 3"):
        normalisation.normalise(torch.zeros(2, 1, 4, 4))


def test_a_split_of_bytes_gives_the_floats_of_its_rows():
    """Whichever way rows are named, the bits are those of one division and two steps on floats."""
    values = torch.from_numpy(pixels(9, 3, 4, 4))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    split = Split(Pixels(values, Normalisation(mean, std), white=240), torch.arange(9) % 2)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (mean, std))
    floats = Split((values.float() / 240 - mean) / std, split.labels)
    rows = torch.tensor([7, 0, 7])
    for at in (rows, split.labels == 1, slice(2, 5)):
        assert torch.equal(split.at(at), floats.at(at))
        assert torch.equal(split.samples[at], floats.samples[at])
    for whole in (split, floats):
        part = whole.subset(torch.tensor([8, 7, 0]))
        assert part.labels.tolist() == [0, 1, 0]
        assert torch.equal(part.at(torch.tensor([1, 2])), floats.samples[[7, 0]])
        assert torch.equal(part.at(slice(1)), floats.samples[[8]])


def test_grey_images_have_the_strides_of_a_file_that_is_mapped():
    """Other strides of the one channel make convolutions round otherwise."""
    assert images(load("digits", per_class=1).train).stride() == (64, 64, 8, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_splits_are_whitened_as_the_training_images_ask(tmp_path, channels):
    """By (Sigma + 0.1)^-1/2, here the inverse of a matrix root."""
    values = {"train": pixels(40, 5, 5, channels, seed=1), "test": pixels(30, 5, 5, channels)}
    arrays = {
        split: {"images": array, "labels": np.arange(len(array)) % 2}
        for split, array in values.items()
    }
    loaded, unit = load(write_npz(tmp_path, **arrays), zca=True), {}
    for split, each in values.items():
        unit[split] = each.transpose(0, 3, 1, 2).reshape(len(each), -1) / 255
    covariance = np.cov(unit["train"].T) + 0.1 * np.eye(25 * channels)
    for name, split in (("train", loaded.train), ("test", loaded.test)):
        expected = (unit[name] - unit["train"].mean(0)) @ np.linalg.inv(sqrtm(covariance))
        assert split.samples.shape[1:] == loaded.sample_shape == (channels, 5, 5)
        assert split.samples.dtype == torch.float32
        np.testing.assert_allclose(images(split).flatten(1).numpy(), expected, atol=1e-5)


def test_whitening_is_undone():
    plain, whitened = load("digits"), load("digits", zca=True)
    unit = plain.normalisation.denormalise(images(plain.test))
    back = whitened.normalisation.denormalise(images(whitened.test))
    torch.testing.assert_close(back, unit, rtol=0, atol=1e-5)
    with precision("bf16", "cpu"):
        assert torch.equal(whitened.normalisation.denormalise(images(whitened.test)), back)
    far = whitened.normalisation.denormalise(100 * images(whitened.test))
    assert (far.min(), far.max()) == (0, 1)  # clamped
    with pytest.raises(ValueError, match="images have 16 values each, but the whitening has 64"):
        whitened.normalisation.normalise(torch.zeros(2, 1, 4, 4))


def test_whitening_is_fitted_to_all_training_images_at_the_size_asked_for():
    whole, part = load("digits", zca=True), load("digits", zca=True, classes=["3"], per_class=7)
    assert whole.normalisation == pickle.loads(pickle.dumps(part.normalisation))
    kept = whole.train.at(whole.train.labels == 3)[:7]
    torch.testing.assert_close(images(part.train), kept, rtol=0, atol=1e-5)
    assert load("digits", zca=True, image_size=4).normalisation.matrix.shape == (16, 16)


def test_whitening_gives_the_same_bytes_whatever_the_threads():
    before, loaded = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            loaded.append(images(load("digits", zca=True).train).numpy().tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert loaded[0] == loaded[1]
