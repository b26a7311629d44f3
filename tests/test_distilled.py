"""Distilled sets: their files, their pixels, what a study refuses, and images of several."""

import base64
import io
import json
import math
import operator
import pickle
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch
from draws import decoded_by_hand, noise, stream
from PIL import Image

from ddlib import pictures
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.distilled import DistilledSet, check_set, decode, encode, load_distilled


def distilled_set(classes=("ant", "bee", "cat"), ipc=2, channels=1, side=4, seed=0, **changes):
    mean, std = (0.5, 0.25, 0.0)[:channels], (0.25, 0.5, 1.0)[:channels]
    parameters = {"iterations": 5, "learning_rate": 0.1, "outer_steps": {1: 1, 5: 3, 10: 9}}
    fields = {
        "samples": noise(ipc * len(classes), channels, side, side, seed=seed),
        "labels": torch.arange(len(classes)).repeat_interleave(ipc),
        **{"normalisation": Normalisation(mean, std), "classes": classes, "data": "insects"},
        **{"method": "dc", "parameters": parameters, "seed": 7},
    }
    return DistilledSet(**{**fields, **changes})


def test_what_is_saved_comes_back(tmp_path):
    """Also where the images are a view of others."""
    images = torch.arange(96.0 * 3).view(6, 4, 4, 3).permute(0, 3, 2, 1)
    synthetic = distilled_set(channels=3, samples=images)
    synthetic.save(tmp_path / "new" / "set.safetensors")
    loaded = load_distilled(tmp_path / "new" / "set.safetensors")
    for name, value in vars(synthetic).items():
        same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
        assert same(getattr(loaded, name), value), name
    assert list(loaded.parameters["outer_steps"]) == [1, 5, 10]  # whole numbers, as they were
    assert (loaded.k, loaded.ipc) == (6, 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.eye(3).repeat_interleave(2, 0), ""),
        (torch.tensor([[2.0, -1.0, 0.0]] * 6), "probabilities, .* but the least is -1, and"),
        (torch.tensor([[2.0, 1.0, 0.5]] * 6), "rows sum to 3.5 to 3.5; take the softmax"),
        (torch.full((6, 3), math.nan), "its soft labels should be probabilities"),
        (torch.full((6, 4), 0.25), r"labels of shape \(6, 3\), not \(6, 4\)"),
        (torch.full((6, 3), 1 / 3).double(), "labels of type torch.float32, not torch.f"),
        (torch.zeros(6, dtype=torch.int64), "2 samples of every class, in ascending label"),
    ],
)
def test_soft_labels_must_be_probabilities(tiny, labels, message):
    fields = {"side": 8, "normalisation": tiny.normalisation, "data": "tiny"}
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        check_set(distilled_set(labels=labels, **fields), tiny, "dc", 2, 7)


def test_equal_sets_give_equal_bytes(tmp_path):
    paths = [tmp_path / name for name in ("first", "again", "loaded", "other")]
    distilled_set().save(paths[0])
    shuffled = dict(reversed(distilled_set().parameters.items()))
    distilled_set(parameters=shuffled).save(paths[1])
    load_distilled(paths[0]).save(paths[2])
    distilled_set(seed=1).save(paths[3])
    first, again, loaded, other = (path.read_bytes() for path in paths)
    assert first == again == loaded
    assert first != other


def test_the_file_is_plain_numbers_that_others_can_read(tmp_path):
    synthetic = distilled_set()
    synthetic.save(tmp_path / "set")
    with safetensors.safe_open(tmp_path / "set", "numpy") as file:
        described = json.loads(file.metadata()["distilled"])
        assert set(file.keys()) == {"samples", "labels"}
        assert np.array_equal(file.get_tensor("samples"), synthetic.samples.numpy())
        assert file.get_tensor("labels").tolist() == [0, 0, 1, 1, 2, 2]
    assert described["method"] == "dc"
    assert described["normalisation"] == {"mean": [0.5], "std": [0.25], "columns": []}


def test_a_whitened_set_carries_what_undoes_it(tmp_path):
    """With W = 2 on the diagonal and 0 elsewhere, a value is half the whitened plus the mean."""
    whitening = Whitening(torch.full((16,), 0.25), 2 * torch.eye(16))
    images = torch.tensor([0.4, -0.1, 9.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    synthetic = distilled_set(ipc=1, samples=images, normalisation=whitening)
    synthetic.save(tmp_path / "first")
    loaded = load_distilled(tmp_path / "first")
    loaded.save(tmp_path / "again")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()
    assert torch.equal(loaded.samples, images)
    assert loaded.normalisation == whitening
    for values in (synthetic.pixels(), loaded.pixels()):
        assert values[:, 0, 0, 0].tolist() == [115, 51, 255]  # 0.45, 0.2 and more than 1
    tensors = safetensors.numpy.load_file(tmp_path / "first")
    assert set(tensors) == {"samples", "labels", "mean", "matrix"}


def safetensors_file(metadata):
    header = {"samples": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header["labels"] = {"dtype": "I64", "shape": [1], "data_offsets": [4, 12]}
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(12)


@pytest.mark.parametrize(
    "content",  # or the share of a whole file
    [
        *(0, 0.01, 0.3, 0.99),
        b"some text that was never a distilled set",
        pickle.dumps({"samples": [1, 2, 3]}),
        safetensors_file(None),
        safetensors_file({"distilled": "{"}),
        safetensors_file({"distilled": "[]"}),
        safetensors_file({"distilled": '{"normalisation": null}'}),  # whitened, without its matrix
    ],
)
def test_a_file_that_is_no_whole_set_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "set.safetensors"
    distilled_set().save(path)
    whole = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: int(content * len(whole))])
    sentence = rf"^[^\n]*{path} is not a whole distilled set .*; delete it"
    with pytest.raises(ValueError, match=sentence):
        load_distilled(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no distilled set at .*absent; check"):
        load_distilled(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="there is no distilled set"):
        load_distilled(tmp_path)


def test_pixels_are_denormalised_clamped_and_rounded():
    # value * 0.25 + 0.5, times 255: 0.1 -> 133.875, -1 -> 63.75, +-9 -> clamped
    images = torch.tensor([[[[0.1, -1.0], [9.0, -9.0]]]])
    pixels = distilled_set(classes=("ant",), ipc=1, side=2, samples=images).pixels()
    assert pixels.tolist() == [[[[134], [64]], [[255], [0]]]]
    assert pixels.dtype == torch.uint8
    # red 0 * 0.25 + 0.5 = 0.5; green 0.91 * 0.5 + 0.25 = 0.705; blue 0.2 * 1 + 0 = 0.2
    images = torch.tensor([0.0008, 0.91, 0.2]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    pixels = distilled_set(classes=("ant",), ipc=1, channels=3, side=2, samples=images).pixels()
    assert pixels[0, 1, 1].tolist() == [128, 180, 51]  # 127.55, 179.775, 51


@pytest.mark.parametrize("whitened", [False, True])
def test_images_of_0_to_255_are_refused_and_large_values_of_a_method_are_not(tiny, whitened):
    """White is 2 where the mean is 0.5 and the deviation 0.25; a method may go far beyond it."""
    pixels = torch.randint(256, (60, 1, 8, 8), generator=stream())
    normalisation = Whitening.fit(pixels, 255) if whitened else tiny.normalisation
    dataset, raw = replace(tiny, normalisation=normalisation), pixels[:6].float()

    def check(images):
        synthetic = distilled_set(samples=images, side=8, normalisation=normalisation, data="tiny")
        check_set(synthetic, dataset, "dc", 2, 7)

    for images in (raw, raw * (raw > 200), raw.clamp(min=1)):
        with pytest.raises(ValueError, match=r"normalised images, and its values of . to 255 are"):
            check(images)
    check(raw / 255)  # which cannot be told from a normalised set
    for scale in (1, 50, 1e6):
        check(normalisation.normalise(raw / 255) * scale)


def test_images_have_one_row_a_class():
    table = pictures.images([distilled_set(ipc=1), distilled_set(ipc=2, method="dm")])
    assert list(table.columns) == ["method", "ipc", "k", "label", "class_name", "url"]
    rows = list(table.drop(columns="url").itertuples(index=False, name=None))
    assert rows == [
        (method, ipc, 3 * ipc, label, name)
        for method, ipc in (("dc", 1), ("dm", 2))
        for label, name in enumerate(("ant", "bee", "cat"))
    ]
    assert pictures.images([]).empty


@pytest.mark.parametrize(
    ("side", "factor", "channels"), [(4, 14, 1), (10, 6, 3), (28, 2, 1), (56, 1, 3), (64, 1, 3)]
)
def test_images_are_enlarged_with_square_pixels(side, factor, channels):
    synthetic = distilled_set(classes=("ant", "bee"), ipc=1, side=side, channels=channels)
    for url, pixels in zip(
        pictures.images([synthetic])["url"], synthetic.pixels().numpy(), strict=True
    ):
        start, content = url.split(",")
        assert start == "data:image/png;base64"
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert np.array_equal(decoded, pixels.repeat(factor, 0).repeat(factor, 1).squeeze())


@pytest.mark.parametrize(("factor", "shape"), [(1, (3, 5)), (2, (4, 6)), (3, (6, 9)), (4, (4, 4))])
def test_decode_is_slow_slicing_and_torchs_enlargement(factor, shape):
    images = noise(5, 2, *shape, dtype=torch.float64).requires_grad_()
    tiles = decode(images, factor)
    assert tiles.shape == (5 * factor**2, 2, *shape)
    torch.testing.assert_close(tiles, decoded_by_hand(images, factor))
    # The weights of each output sum to 1, so all gradients sum to the number of outputs.
    (slopes,) = torch.autograd.grad(tiles.sum(), images)
    assert slopes.sum().item() == pytest.approx(tiles.numel())
    assert (slopes > 0).all()


@pytest.mark.parametrize("factor", [2, 3])
def test_encode_averages_squares_and_puts_them_where_decode_looks(factor):
    """Images that are constant come back unchanged, in their order."""
    levels = torch.arange(2.0 * factor**2)
    stored = encode(levels.view(-1, 1, 1, 1).expand(-1, 3, 6, 6), factor)
    assert stored.shape == (2, 3, 6, 6)
    assert decode(stored, factor)[:, 2, 4, 1].tolist() == levels.tolist()
    image = noise(factor**2, 1, 6, 6)
    corner = encode(image, factor)[0, 0, 0, 6 // factor]  # of the second tile
    torch.testing.assert_close(corner, image[1, 0, :factor, :factor].mean())


def test_a_set_keeps_its_factor_and_is_decoded_with_its_labels(tmp_path):
    """Classes go by place, also where another class has the largest label."""
    soft = torch.tensor([[0.2, 0.7, 0.1]]).repeat(6, 1) + torch.arange(6.0)[:, None]
    for labels in (torch.arange(3).repeat_interleave(2), soft):
        distilled_set(labels=labels, factor=2).save(tmp_path / "set")
        stored = load_distilled(tmp_path / "set")
        seen = stored.decoded
        assert (stored.k, stored.ipc, stored.factor) == (6, 2, 2)
        assert stored.hard_labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert (seen.k, seen.ipc, seen.factor) == (24, 8, 1)
        torch.testing.assert_close(seen.samples, decoded_by_hand(stored.samples, 2))
        assert all(torch.equal(seen.labels[row], labels[row // 4]) for row in range(24))
        assert seen.hard_labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
        assert len(stored.pixels()) == 6
        assert torch.equal(seen.decoded.samples, seen.samples)
