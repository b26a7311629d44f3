import os
import pickle
import struct
import zlib
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.datasets import CIFAR10

from ddlib.data.load import load
from ddlib.data.normalise import Normalisation
from ddlib.data.sources import DATASETS
from ddlib.devices import precision
from ddlib.study.settings import read_ipcs

real_data = pytest.mark.skipif(
    not os.environ.get("DDLIB_DATA"), reason="DDLIB_DATA names no folder of real data"
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root that DDLIB_DATA names, with an empty home, so that no real data are found."""
    monkeypatch.setenv("DDLIB_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "root"


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_npz(folder, *, train=None, test=None):
    """Two classes, 6 training and 4 test images of 5 x 5, changed by train=... and test=..."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, changes in (("train", 6, train), ("test", 4, test)):
        arrays = {
            "images": pixels(count, 5, 5, 3, seed=count),
            "labels": np.arange(count) % 2,
            "class_names": np.array(["cat", "dog"]),
        }
        arrays |= changes or {}
        kept = {key: value for key, value in arrays.items() if value is not None}
        np.savez(folder / f"{split}.npz", **kept)
    return folder


def write_images(folder, *, size=(8, 6), test="test", classes=("ant", "bee")):
    """ImageFolder of PNG files: three training and two test images a class; size is (W, H)."""
    for split, count in (("train", 3), (test, 2)):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(pixels(size[1], size[0], 3, seed=10 * label + i))
                picture.save(folder / split / name / f"{i}.png")
    return folder


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(raw):
    """torchvision's layout of MNIST with 20 training and 10 test images of 4 x 4."""
    raw.mkdir(parents=True)
    for split, count in (("train", 20), ("t10k", 10)):
        parts = {
            "images-idx3": pixels(count, 4, 4, seed=count),
            "labels-idx1": np.arange(count) % 10,
        }
        for part, array in parts.items():
            (raw / f"{split}-{part}-ubyte").write_bytes(idx(array))
    return raw


# ---- what a data set holds ----


def test_digits_are_the_embedded_images_split_two_to_one_by_class():
    digits = load("digits")
    assert digits.image_shape == (1, 8, 8)
    assert digits.class_count == 10
    assert digits.classes == tuple("0123456789")
    original = load_digits()
    assert len(digits.train.labels) + len(digits.test.labels) == len(original.target) == 1797
    assert len(digits.test.labels) == 599
    for label in range(10):
        share = (digits.test.labels == label).sum().item() / (original.target == label).sum()
        assert share == pytest.approx(1 / 3, abs=0.01)
    both = torch.cat([digits.train.images, digits.test.images])
    grey = (digits.normalisation.denormalise(both) * 16).round().int().reshape(-1, 64).tolist()
    assert sorted(grey) == sorted(original.images.astype(int).reshape(-1, 64).tolist())


def test_tensors_are_float32_contiguous_and_normalised_by_the_training_images():
    digits = load("digits")
    for split in (digits.train, digits.test):
        assert (split.images.dtype, split.labels.dtype) == (torch.float32, torch.int64)
        assert split.images.is_contiguous()
    assert digits.train.images.double().mean().item() == pytest.approx(0, abs=1e-5)
    assert digits.train.images.double().std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_load_twice_gives_equal_bytes_and_leaves_random_state_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = load("digits", image_size=12), load("digits", image_size=12)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    for split in ("train", "test"):
        one, other = getattr(first, split), getattr(second, split)
        assert one.images.numpy().tobytes() == other.images.numpy().tobytes()
        assert torch.equal(one.labels, other.labels)


def test_data_set_is_frozen():
    with pytest.raises(FrozenInstanceError):
        load("digits").name = "other"


def test_normalisation_by_hand_and_back():
    normalisation = Normalisation((0.5, 0.2, 0.0), (0.25, 0.1, 2.0))
    unit = torch.tensor([1.0, 0.1, 0.5]).view(1, 3, 1, 1)
    normalised = normalisation.normalise(unit)
    assert normalised.flatten().tolist() == pytest.approx([2.0, -1.0, 0.25])
    torch.testing.assert_close(normalisation.denormalise(normalised), unit)
    outside = torch.tensor([9.0, -9.0, 0.0]).view(1, 3, 1, 1)
    assert normalisation.denormalise(outside).flatten().tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="images have 1 channels, but the normalisation has 3"):
        normalisation.normalise(torch.zeros(2, 1, 4, 4))


# ---- whitening ----


def unit_images(folder, split="train"):
    """The images of a folder of `write_npz` as numpy arrays in [0, 1], one row an image."""
    with np.load(folder / f"{split}.npz") as arrays:
        images = arrays["images"].transpose(0, 3, 1, 2) / 255
    return images.reshape(len(images), -1)


def reference_whitening(unit):
    """(Sigma + 0.1)^-1/2 as the inverse of a matrix root, and the mean."""
    return np.linalg.inv(sqrtm(np.cov(unit.T) + 0.1 * np.eye(unit.shape[1]))), unit.mean(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_splits_are_whitened_as_the_training_images_ask(tmp_path, channels):
    shapes = {"train": (40, 5, 5, channels), "test": (30, 5, 5, channels)}
    changes = {
        split: {"images": pixels(*shape, seed=shape[0]), "labels": np.arange(shape[0]) % 2}
        for split, shape in shapes.items()
    }
    folder = write_npz(tmp_path, **changes)
    loaded = load(folder, zca=True)
    matrix, mean = reference_whitening(unit_images(folder))
    for name, split in (("train", loaded.train), ("test", loaded.test)):
        expected = (unit_images(folder, name) - mean) @ matrix
        assert split.images.shape[1:] == (channels, 5, 5)
        assert (split.images.dtype, split.images.is_contiguous()) == (torch.float32, True)
        np.testing.assert_allclose(split.images.flatten(1).numpy(), expected, atol=1e-5)


def test_whitened_images_have_the_covariance_of_the_closed_form():
    plain, whitened = load("digits"), load("digits", zca=True)
    unit = plain.normalisation.denormalise(plain.train.images).flatten(1).double().numpy()
    variances, axes = np.linalg.eigh(np.cov(unit.T))
    expected = axes @ np.diag(variances / (variances + 0.1)) @ axes.T
    images = whitened.train.images.flatten(1).double().numpy()
    np.testing.assert_allclose(np.cov(images.T), expected, atol=1e-5)
    np.testing.assert_allclose(images.mean(0), 0, atol=1e-6)


def test_whitening_is_undone():
    plain, whitened = load("digits"), load("digits", zca=True)
    for split in ("train", "test"):
        unit = plain.normalisation.denormalise(getattr(plain, split).images)
        images = getattr(whitened, split).images
        back = whitened.normalisation.denormalise(images)
        torch.testing.assert_close(back, unit, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            whitened.normalisation.normalise(back), images, rtol=0, atol=1e-4
        )
        assert torch.equal(getattr(whitened, split).labels, getattr(plain, split).labels)
    far = whitened.normalisation.denormalise(100 * whitened.train.images)
    assert (far.min(), far.max()) == (0, 1)  # clamped
    with pytest.raises(ValueError, match="images have 16 values each, but the whitening has 64"):
        whitened.normalisation.normalise(torch.zeros(2, 1, 4, 4))


def test_a_whitening_is_inverted_once_however_many_chunks_and_files_have_it():
    whitening = load("digits", zca=True).normalisation
    images, content = torch.zeros(8, 1, 8, 8), pickle.dumps(whitening)
    expected = whitening.denormalise(images)
    assert len(pickle.dumps(whitening)) == len(content)  # the inverse does not travel along
    with Solves() as solves:
        for again in (whitening, pickle.loads(content), pickle.loads(content)):
            assert torch.equal(again.denormalise(images), expected)
    assert solves.count == 0
    other = replace(whitening, matrix=2 * whitening.matrix)
    assert whitening == again != other
    torch.testing.assert_close(
        other.denormalise(2 * images + 1), whitening.denormalise(images + 0.5)
    )


def test_a_whitening_is_exact_under_bf16():
    digits = load("digits", zca=True)
    images, whitening = digits.train.images, digits.normalisation
    unit = whitening.denormalise(images)
    with precision("bf16", "cpu"):
        assert torch.equal(whitening.denormalise(images), unit)
        again = whitening.normalise(unit)
    assert torch.equal(again, whitening.normalise(unit))


class Solves(TorchDispatchMode):
    """While it is on, `count` is how often a matrix is decomposed or inverted."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += "linalg" in str(operation)
        return operation(*args, **(kwargs or {}))


def test_whitening_is_fitted_to_all_training_images_whatever_is_kept():
    whole, part = load("digits", zca=True), load("digits", zca=True, classes=["3"], per_class=7)
    assert torch.equal(whole.normalisation.matrix, part.normalisation.matrix)
    kept = whole.train.images[whole.train.labels == 3][:7]
    torch.testing.assert_close(part.train.images, kept, rtol=0, atol=1e-5)


def test_images_are_whitened_at_the_size_asked_for():
    loaded = load("digits", zca=True, image_size=4)
    assert loaded.normalisation.matrix.shape == (16, 16)
    assert loaded.image_shape == (1, 4, 4)


def test_whitening_gives_the_same_bytes_whatever_the_threads():
    before = torch.get_num_threads()
    try:
        loaded = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            loaded.append(load("digits", zca=True).train.images.numpy().tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert loaded[0] == loaded[1]


def test_images_too_large_to_whiten_are_refused_before_the_work(tmp_path):
    train, test = ({"images": pixels(count, 48, 48, 3)} for count in (6, 4))
    folder = write_npz(tmp_path / "pets", train=train, test=test)
    with pytest.raises(ValueError, match=r"a matrix of 6912 x 6912 values for pets.* at most 36"):
        load(folder, zca=True)
    assert load(folder, zca=True, image_size=10).normalisation.matrix.shape == (300, 300)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_zca_that_is_neither_true_nor_false(value):
    with pytest.raises(ValueError, match=f"zca={value!r} must be true or false"):
        load("digits", zca=value)


# ---- named sets in their layouts ----


@pytest.mark.parametrize(
    ("name", "folder", "mean", "std"),
    [("mnist", "MNIST", 0.1307, 0.3081), ("fashion_mnist", "FashionMNIST", 0.2861, 0.3530)],
)
def test_idx_files(root, name, folder, mean, std):
    write_mnist(root / folder / "raw")
    loaded = load(name)
    expected = (pixels(20, 4, 4, seed=20)[:, None] / 255 - mean) / std
    np.testing.assert_allclose(loaded.train.images.numpy(), expected, atol=1e-5)
    assert loaded.test.labels.tolist() == list(range(10))
    first = {"mnist": "0", "fashion_mnist": "T-shirt/top"}
    assert (loaded.class_count, loaded.classes[0]) == (10, first[name])


def test_home_cache_is_searched_after_the_root(root, tmp_path):
    write_mnist(tmp_path / "home" / ".cache" / "ddlib" / "MNIST" / "raw")
    assert load("mnist").train.images.shape == (20, 1, 4, 4)
    grey = {"images": pixels(6, 9, 9)}, {"images": pixels(4, 9, 9)}
    write_npz(root / "mnist", train=grey[0], test=grey[1])
    assert load("mnist").train.images.shape == (6, 1, 9, 9)


def test_cifar_in_the_layout_of_torchvision(root, monkeypatch):
    reader = CIFAR10
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    images = pixels(4, 3, 32, 32)
    batch = {"data": images.reshape(4, -1), "labels": [1, 0, 1, 0]}
    for file, content in (
        ("batch", batch),
        ("batches.meta", {"label_names": ["plane", "car"]}),
    ):
        (folder / file).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(reader, "train_list", [["batch", None]])
    monkeypatch.setattr(reader, "test_list", [["batch", None]])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": None})
    loaded = load("cifar10")
    assert loaded.classes == ("plane", "car")
    assert loaded.train.labels.tolist() == [1, 0, 1, 0]
    unit = loaded.normalisation.denormalise(loaded.train.images)
    np.testing.assert_allclose(unit.numpy(), images / 255, atol=1e-6)


def test_damaged_cifar_is_refused_before_it_is_unpickled(root):
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    (folder / "train").write_bytes(b"not the published file")
    with pytest.raises(ValueError, match="cifar-100-python is damaged; delete it"):
        load("cifar100")


def test_packed_cifar_uses_published_statistics(root):
    write_npz(root / "cifar10")
    loaded = load("cifar10")
    assert loaded.normalisation.std == (0.2023, 0.1994, 0.2010)
    expected = (pixels(6, 5, 5, 3, seed=6) / 255 - [0.4914, 0.4822, 0.4465]) / [
        0.2023,
        0.1994,
        0.2010,
    ]
    np.testing.assert_allclose(
        loaded.train.images.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5
    )


@pytest.mark.parametrize("copy", ["imagenette2", "imagenette2-80"])
def test_imagenette_has_readable_names_and_64_pixels(root, copy):
    write_images(root / copy, size=(90, 80), test="val", classes=("n01440764", "n03888257"))
    loaded = load("imagenette")
    assert loaded.classes == ("tench", "parachute")
    assert loaded.image_shape == (3, 64, 64)
    assert load("imagenette", image_size=16).image_shape == (3, 16, 16)


def test_download_only_when_asked_and_into_the_root(root, monkeypatch):
    asked = []

    def fetch(folder):
        asked.append(folder)
        write_mnist(folder / "MNIST" / "raw")

    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], download=fetch))
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist")
    assert asked == []
    for part in (str(root), ".cache/ddlib", "set DDLIB_DATA", "download: true", "your own data"):
        assert part in str(caught.value)
    assert load("mnist", download=True).train.images.shape == (20, 1, 4, 4)
    load("mnist", download=True)  # found now: nothing is fetched again
    assert asked == [root]


def test_download_goes_to_the_home_cache_without_a_root(root, tmp_path, monkeypatch):
    monkeypatch.delenv("DDLIB_DATA")
    fetch = lambda folder: write_mnist(folder / "MNIST" / "raw")  # noqa: E731
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], download=fetch))
    load("mnist", download=True)
    assert (tmp_path / "home/.cache/ddlib/MNIST/raw/train-images-idx3-ubyte").exists()


def test_failed_download_is_one_sentence(root, monkeypatch):
    def fetch(folder):
        raise OSError("no route to host")

    monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], download=fetch))
    with pytest.raises(ConnectionError, match=r"downloading cifar10 to .* failed: no route"):
        load("cifar10", download=True)


# ---- folders of your own ----


@pytest.mark.parametrize("given", [str, lambda path: path])
def test_own_npz_is_normalised_by_its_training_images(tmp_path, given):
    loaded = load(given(write_npz(tmp_path / "pets")))
    assert (loaded.name, loaded.classes) == ("pets", ("cat", "dog"))
    unit = pixels(6, 5, 5, 3, seed=6) / 255
    assert loaded.normalisation.mean == pytest.approx(unit.mean((0, 1, 2)))
    assert loaded.normalisation.std == pytest.approx(unit.std((0, 1, 2)))
    back = loaded.normalisation.denormalise(loaded.train.images).numpy()
    np.testing.assert_allclose(back, unit.transpose(0, 3, 1, 2), atol=1e-6)


def test_own_grey_images_without_a_channel_axis(tmp_path):
    folder = write_npz(
        tmp_path, train={"images": pixels(6, 5, 7)}, test={"images": pixels(4, 5, 7)}
    )
    assert load(folder).image_shape == (1, 5, 7)


def test_constant_channel_stays_finite(tmp_path):
    images = pixels(6, 5, 5, 3)
    images[..., 1] = 77
    loaded = load(write_npz(tmp_path, train={"images": images}))
    assert loaded.train.images[:, 1].abs().max() < 1e-4
    assert loaded.test.images.isfinite().all()


@pytest.mark.parametrize("test", ["test", "val"])
def test_own_image_folder(tmp_path, test):
    folder = write_images(tmp_path / "insects", test=test)
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    loaded = load(folder)
    assert loaded.classes == ("ant", "bee")
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.test.images.shape == (4, 3, 6, 8)
    unit = loaded.normalisation.denormalise(loaded.train.images)[4]
    expected = pixels(6, 8, 3, seed=11).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(unit.numpy(), expected, atol=1e-6)


# ---- what pictures hold ----


def write_pictures(folder, **pictures):
    """Two classes; every split of class ant holds the pictures, saved as name.suffix."""
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (folder / split / name).mkdir(parents=True)
        pictures["bee"].save(folder / split / "bee" / "0.png")
        for name, picture in pictures.items():
            if name != "bee":
                picture.save(folder / split / "ant" / name.replace("_", "."))
    return folder


def grey_levels(loaded):
    """The images (N, channels, H, W) as grey levels of 8 bits."""
    return (loaded.normalisation.denormalise(loaded.train.images) * 255).round().int()


def test_grey_images_of_16_bits_are_scaled_and_said(tmp_path):
    deep = np.array([[0, 257 * 100, 65535], [128, 129, 32768]], np.uint16)
    deep = Image.fromarray(deep)
    folder = write_pictures(tmp_path, deep_png=deep, deep_tif=deep, bee=deep)
    with pytest.warns(UserWarning, match=r"train: images of 16 bits scaled from 0..65535.*: 3$"):
        loaded = load(folder)
    assert loaded.image_shape == (1, 2, 3)
    # 128 / 257 is below a half, 129 / 257 above; 32768 / 257 = 127.502
    for image in grey_levels(loaded):
        assert image[0].tolist() == [[0, 100, 255], [0, 1, 128]]


def deep_colour(suffix):
    """A file of one pixel, of red 0x1234 in 16 bits, which Pillow can read but not write."""
    pixel = struct.pack(">3H", 0x1234, 0, 0)
    if suffix == "ppm":
        return b"P6 1 1 65535\n" + pixel
    if suffix == "png":
        parts = (b"IHDR", struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0)), (b"IEND", b"")
        chunks = [parts[0], (b"IDAT", zlib.compress(b"\0" + pixel)), parts[1]]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in chunks
        )
    tags = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1 << 16)]
    tags += [(262, 3, 1, 2 << 16), (273, 4, 1, 128), (277, 3, 1, 3 << 16), (278, 4, 1, 1)]
    tags += [(279, 4, 1, 6)]
    entries = b"".join(struct.pack(">2H2I", *tag) for tag in tags)
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)
    return head + struct.pack(">3H", 16, 16, 16) + pixel


@pytest.mark.parametrize("suffix", ["png", "ppm", "tif"])
def test_colours_of_16_bits_are_refused_by_name(tmp_path, suffix):
    folder = write_pictures(tmp_path, bee=Image.new("RGB", (1, 1)))
    (folder / "train" / "ant" / f"a.{suffix}").write_bytes(deep_colour(suffix))
    with pytest.raises(ValueError, match=rf"ant/a.{suffix} is 16-bit colour, .*; save it with 8"):
        load(folder)


def test_a_bmp_of_16_bits_for_all_three_channels_is_read(tmp_path):
    folder = write_pictures(tmp_path, bee=Image.new("RGB", (1, 1)))
    header = struct.pack("<2sI2HI", b"BM", 70, 0, 0, 66)
    header += struct.pack("<I2i2H6I", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    header += struct.pack("<3I", 0xF800, 0x7E0, 0x1F)  # of red, green and blue
    for split in ("train", "test"):
        (folder / split / "ant" / "a.bmp").write_bytes(header + struct.pack("<HH", 0xF800, 0))
    assert grey_levels(load(folder))[0].flatten().tolist() == [255, 0, 0]


def test_grey_folders_keep_one_channel_and_mixed_ones_are_said(tmp_path):
    grey, bits = Image.fromarray(pixels(5, 4)), Image.new("1", (4, 5), 1)
    opaque = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    folder = write_pictures(tmp_path / "grey", a_png=grey, b_png=bits, c_png=opaque, bee=grey)
    levels = grey_levels(load(folder))
    assert levels.shape == (4, 1, 5, 4)
    assert [image[0].tolist() for image in levels[[0, 2, 3]]] == [pixels(5, 4).tolist()] * 3
    assert levels[1].unique().tolist() == [255]

    colour = Image.fromarray(pixels(5, 4, 3))
    palette = colour.quantize(20)
    folder = write_pictures(tmp_path / "mixed", a_png=grey, b_png=palette, bee=colour)
    with pytest.warns(UserWarning, match=r"train: grey images repeated in three channels.*: 1$"):
        levels = grey_levels(load(folder))
    assert levels[0].tolist() == [pixels(5, 4).tolist()] * 3
    assert levels[1].permute(1, 2, 0).tolist() == np.array(palette.convert("RGB")).tolist()
    assert levels[2].permute(1, 2, 0).tolist() == pixels(5, 4, 3).tolist()


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn a quarter clockwise
    picture = Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], np.uint8))
    folder = write_pictures(tmp_path, bee=picture.transpose(Image.Transpose.ROTATE_270))
    for split in ("train", "test"):
        picture.save(folder / split / "ant" / "0.png", exif=exif)
    for image in grey_levels(load(folder)):
        assert image[0].tolist() == [[40, 10], [50, 20], [60, 30]]


@pytest.mark.parametrize(
    ("name", "picture", "sentence"),
    [
        ("a_jpg", Image.new("CMYK", (4, 5)), "has pixels of mode CMYK"),
        ("a_tif", Image.new("F", (4, 5), 0.5), "has pixels of mode F, which 8 bits"),
        ("a_tif", Image.new("I", (4, 5), 70_000), "has pixels of mode I, which 8 bits"),
        ("a_png", Image.new("RGBA", (4, 5), (9, 9, 9, 254)), "has transparent pixels"),
        ("a_png", Image.new("LA", (4, 5), (9, 0)), "has transparent pixels"),
    ],
)
def test_pictures_that_cannot_be_kept_are_refused_by_name(tmp_path, name, picture, sentence):
    folder = write_pictures(tmp_path, **{name: picture}, bee=Image.new("RGB", (4, 5)))
    with pytest.raises(ValueError, match=rf"ant/{name.replace('_', '.')} {sentence}.*; save it"):
        load(folder)


def test_palettes_with_a_transparent_colour_and_moving_pictures_are_refused(tmp_path):
    plain = Image.fromarray(pixels(5, 4, 3))
    folder = write_pictures(tmp_path, a_png=plain, bee=plain)
    path = folder / "train" / "ant" / "a.png"
    plain.quantize(20).save(path, transparency=0)
    with pytest.raises(ValueError, match=r"ant/a.png has transparent pixels"):
        load(folder)
    plain.save(path, save_all=True, append_images=[Image.fromarray(pixels(5, 4, 3, seed=1))])
    with pytest.raises(ValueError, match=r"ant/a.png cannot be read \(it holds several pictures"):
        load(folder)


def test_what_is_no_image_is_passed_over_or_counted(tmp_path):
    folder = write_images(tmp_path)
    ant = folder / "train" / "ant"
    (ant / ".ipynb_checkpoints").mkdir()
    (ant / "below").mkdir()
    content = (ant / "0.png").read_bytes()
    for name in ("._0.png", ".ipynb_checkpoints/0.png", "0.png~", "#0.png#", "Thumbs.db"):
        (ant / name).write_bytes(content)
    (ant / "below" / "3.PNG").write_bytes(content)
    loaded = load(folder)  # says nothing
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 3
    for name in ("ant/a.gif", "ant/b.GIF", "bee/notes", "9.png"):
        (folder / "train" / name).write_bytes(content)
    said = (
        r"train: files skipped for their suffix \(none\): 1; "
        "files skipped for their suffix .gif: 2; "
        "images skipped for being in no class's folder: 1$"
    )
    with pytest.warns(UserWarning, match=said):
        again = load(folder)
    assert torch.equal(again.train.images, loaded.train.images)


def test_a_link_that_leads_back_adds_no_images_and_is_said(tmp_path):
    folder = write_images(tmp_path / "own")
    apart = tmp_path / "apart"
    (folder / "train" / "bee").rename(apart)
    (folder / "train" / "bee").symlink_to(apart)
    wanted = load(folder)  # a link elsewhere is followed, and nothing said
    assert wanted.train.labels.tolist() == [0] * 3 + [1] * 3
    for place, target in (("ant/self", "."), ("ant/up", ".."), ("bee/again", apart)):
        (folder / "train" / place).symlink_to(target)
    with pytest.warns(UserWarning, match=r"train: folders skipped because a link leads .*: 3$"):
        loaded = load(folder)
    assert torch.equal(loaded.train.images, wanted.train.images)


# ---- options ----


def test_classes_are_renumbered_in_the_order_given(tmp_path):
    images = np.zeros((6, 2, 2), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None]
    arrays = {
        "images": images,
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "class_names": np.array(["a", "b", "c"]),
    }
    folder = write_npz(tmp_path, train=arrays, test=arrays)
    loaded = load(folder, classes=["c", "a"])
    assert loaded.classes == ("c", "a")
    assert loaded.train.labels.tolist() == loaded.test.labels.tolist() == [1, 0, 1, 0]
    grey = loaded.normalisation.denormalise(loaded.train.images)[:, 0, 0, 0] * 255
    assert grey.round().tolist() == [0, 2, 3, 5]


def test_names_that_yaml_reads_as_numbers_are_names_still():
    assert load("digits", classes=[7, "1"]).classes == ("7", "1")


def test_per_class_keeps_the_first_training_images_and_the_whole_test_set(tmp_path):
    labels = np.array([1, 1, 1, 1, 0, 0])
    folder = write_npz(tmp_path, train={"labels": labels})
    whole, capped = load(folder), load(folder, per_class=3)
    assert torch.equal(capped.train.images, whole.train.images[[0, 1, 2, 4, 5]])
    assert capped.train.labels.tolist() == [1, 1, 1, 0, 0]
    assert torch.equal(capped.test.images, whole.test.images)
    assert capped.normalisation == whole.normalisation


def test_held_out_tests_on_the_last_training_images_of_every_class(tmp_path):
    labels = np.array([1, 1, 1, 1, 0, 0])
    folder = write_npz(tmp_path, train={"labels": labels})
    whole, held = load(folder), load(folder, held_out=1)
    assert torch.equal(held.train.images, whole.train.images[[0, 1, 2, 4]])
    assert torch.equal(held.test.images, whole.train.images[[3, 5]])
    assert held.test.labels.tolist() == [1, 0]
    assert held.normalisation == whole.normalisation
    capped = load(folder, held_out=1, per_class=2)
    assert torch.equal(capped.train.images, whole.train.images[[0, 1, 4]])
    assert torch.equal(capped.test.images, held.test.images)


def test_held_out_that_takes_a_whole_class(tmp_path):
    folder = write_npz(tmp_path, train={"labels": np.array([1, 1, 1, 1, 0, 0])})
    with pytest.raises(ValueError, match="held_out=2 leaves nothing of the 2 training images"):
        load(folder, held_out=2)


def test_image_size_resizes_the_shorter_side_then_crops_the_centre(tmp_path):
    # Columns of grey 0, 0, 90, 90, 90, 90, 200, 200: halved, then 2 of 4 columns are kept.
    row = np.array([0, 0, 90, 90, 90, 90, 200, 200], np.uint8)
    images = np.broadcast_to(row, (6, 4, 8))
    folder = write_npz(tmp_path, train={"images": images}, test={"images": images[:4]})
    loaded = load(folder, image_size=2)
    assert loaded.image_shape == (1, 2, 2)
    grey = loaded.normalisation.denormalise(loaded.train.images) * 255
    # Antialiased bilinear at half size weighs four columns by 1, 3, 3, 1 eighths: columns 1 to 4
    # give 7/8 of 90 = 78.75, columns 3 to 6 give 7/8 of 90 + 1/8 of 200 = 103.75.
    np.testing.assert_allclose(grey[0, 0].numpy(), [[78.75, 103.75]] * 2, atol=0.51)


def test_image_size_of_files_of_any_shape_agrees_with_torch(tmp_path):
    folder = write_images(tmp_path, size=(40, 30))
    tall = pixels(50, 20, 3, seed=5)
    Image.fromarray(tall).save(folder / "train" / "ant" / "9.png")
    loaded = load(folder, image_size=10)
    assert loaded.image_shape == (3, 10, 10)
    grey = loaded.normalisation.denormalise(loaded.train.images)[3] * 255
    halved = torch.nn.functional.interpolate(
        torch.tensor(tall).permute(2, 0, 1)[None].double(),
        (25, 10),
        mode="bilinear",
        antialias=True,
    )
    # Pillow rounds to whole grey levels after each of its two passes.
    assert (grey - halved[0, :, 7:17]).abs().max() <= 1.01


def test_image_size_makes_train_and_test_alike(tmp_path):
    folder = write_npz(tmp_path, test={"images": pixels(4, 7, 9, 3)})
    assert load(folder, image_size=5).test.images.shape == (4, 3, 5, 5)


# ---- sizes ----


def test_ipc_up_to_the_smallest_class(tmp_path):
    dataset = load(write_npz(tmp_path, train={"labels": np.array([0, 0, 0, 0, 1, 1])}))
    assert read_ipcs([4, 2, 4], dataset) == [1, 2]
    with pytest.raises(ValueError, match="ipc=3 is more than the 2 images of class dog; choose"):
        read_ipcs([2, 6], dataset)


# ---- bad input ----


def test_unknown_data_set_names_the_known_and_the_close():
    with pytest.raises(ValueError, match="did you mean 'fashion_mnist'") as caught:
        load("FashionMNIST")
    assert all(name in str(caught.value) for name in DATASETS)
    assert "nor the path of a folder of your own data" in str(caught.value)
    for name in ("", None, 5, "qqq"):
        with pytest.raises(ValueError, match=r"is not a data set, nor .*; allowed: digits"):
            load(name)


def test_missing_folder(tmp_path):
    for name in (tmp_path / "nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(FileNotFoundError, match="nowhere does not exist; give an existing"):
            load(name)


def test_folder_without_data(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no train.npz or train$"):
        load(tmp_path)


def test_missing_files(tmp_path, root):
    (write_npz(tmp_path / "a") / "test.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no test.npz or test or val$"):
        load(tmp_path / "a")
    write_images(tmp_path / "b", test="elsewhere")
    with pytest.raises(FileNotFoundError, match=r"holds no test.npz or test or val$"):
        load(tmp_path / "b")
    (write_mnist(root / "MNIST" / "raw") / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="MNIST is damaged; delete it"):
        load("mnist")


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_truncated_npz(tmp_path, keep):
    path = write_npz(tmp_path) / "train.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train.npz cannot be read .* truncated or not an npz"):
        load(tmp_path)


def test_pickled_arrays_are_refused(tmp_path):
    write_npz(tmp_path, train={"class_names": np.array(["cat", "dog"], dtype=object)})
    with pytest.raises(
        ValueError, match=r"train.npz cannot be read .* not an npz of the plain arrays"
    ):
        load(tmp_path)


@pytest.mark.parametrize("part", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("keep", [0, 2, 9, 17, -1])
def test_truncated_idx(root, keep, part):
    path = write_mnist(root / "MNIST" / "raw") / f"train-{part}-ubyte"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"MNIST is damaged; delete it"):
        load("mnist")


@pytest.mark.parametrize("keep", [0, 20, 100, -30])
def test_truncated_image(tmp_path, keep):
    path = write_images(tmp_path) / "train" / "bee" / "1.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"bee/1.png cannot be read .*; replace or remove it"):
        load(tmp_path)


@pytest.mark.parametrize("array", ["images", "labels", "class_names"])
def test_npz_that_lacks_an_array(tmp_path, array):
    write_npz(tmp_path, test={array: None})
    with pytest.raises(ValueError, match=f"test.npz cannot be read .*{array} is not a file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("images", "seen"),
    [
        (pixels(6, 5, 5, 3) / 255, r"float64 \(6, 5, 5, 3\)"),
        (pixels(6, 25), r"uint8 \(6, 25\)"),
        (pixels(6, 3, 5, 5), r"uint8 \(6, 3, 5, 5\)"),
        (pixels(6, 5, 5, 3, 1), r"uint8 \(6, 5, 5, 3, 1\)"),
    ],
)
def test_images_of_wrong_dtype_or_rank(tmp_path, images, seen):
    folder = write_npz(tmp_path / "pets", train={"images": images})
    with pytest.raises(ValueError, match=f"pets train: images are {seen}; give uint8"):
        load(folder)


@pytest.mark.parametrize("labels", [np.arange(6.0) % 2, np.zeros((6, 1), int)])
def test_labels_of_wrong_dtype_or_rank(tmp_path, labels):
    with pytest.raises(ValueError, match=r"train: labels are .*; give integers"):
        load(write_npz(tmp_path, train={"labels": labels}))


def test_train_and_test_of_differing_shape(tmp_path):
    folder = write_npz(tmp_path / "a", test={"images": pixels(4, 7, 9, 3)})
    with pytest.raises(ValueError, match=r"\(5, 5, 3\) but test images are \(7, 9, 3\)"):
        load(folder)
    folder = write_npz(tmp_path / "b", test={"images": pixels(4, 5, 5)})
    with pytest.raises(ValueError, match=r"\(5, 5, 3\) but test images are \(5, 5, 1\)"):
        load(folder, image_size=5)


def test_image_files_of_differing_shape(tmp_path):
    folder = write_images(tmp_path)
    Image.fromarray(pixels(9, 7, 3)).save(folder / "train" / "bee" / "2.png")
    with pytest.raises(ValueError, match=r"bee/2.png is \(9, 7\) but .*ant/0.png is \(6, 8\)"):
        load(folder)


@pytest.mark.parametrize("split", ["train", "test"])
def test_class_absent_from_a_split(tmp_path, split):
    count = {"train": 6, "test": 4}[split]
    folder = write_npz(tmp_path / "pets", **{split: {"labels": np.zeros(count, int)}})
    with pytest.raises(ValueError, match=f"pets {split}: no images of class dog; add some"):
        load(folder)
    assert load(folder, classes=["cat"]).classes == ("cat",)


def test_class_folder_absent_from_test(tmp_path):
    folder = write_images(tmp_path / "insects")
    (folder / "train" / "wasp").mkdir()
    Image.fromarray(pixels(6, 8, 3)).save(folder / "train" / "wasp" / "0.png")
    with pytest.raises(
        ValueError, match=r"insects: the training classes \(ant, bee, wasp\) differ"
    ):
        load(folder)


def test_splits_without_images(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "a" / split / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train holds no images"):
        load(tmp_path / "a")
    nothing = {"images": pixels(0, 5, 5, 3), "labels": np.zeros(0, int)}
    with pytest.raises(ValueError, match="b train: no images of class cat, dog"):
        load(write_npz(tmp_path / "b", train=nothing))


@pytest.mark.parametrize("label", [2, -1])
def test_labels_out_of_range(tmp_path, label):
    folder = write_npz(tmp_path, test={"labels": np.array([0, 1, 0, label])})
    with pytest.raises(ValueError, match=f"label {label} has no class name; give labels 0 to 1"):
        load(folder)


def test_counts_of_labels_and_images_differ(tmp_path):
    folder = write_npz(tmp_path, train={"labels": np.array([0, 1, 0])})
    with pytest.raises(ValueError, match=r"labels are int64 \(3,\); give integers \(6,\)"):
        load(folder)


def test_class_names_that_differ_between_splits(tmp_path):
    folder = write_npz(tmp_path, test={"class_names": np.array(["dog", "cat"])})
    with pytest.raises(ValueError, match=r"classes \(cat, dog\) differ from the test classes"):
        load(folder)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cow"], "'cow' is not a class of this data set; allowed: 0, 1, 2"),
        ([10], "'10' is not a class of this data set; .* allowed: 0, 1, 2"),
        ([3, "3"], "is not a list of class names, each once"),
        ([], "is not a list of class names"),
        ("3", "is not a list of class names"),
        (3, "is not a list of class names"),
    ],
)
def test_wrong_classes(classes, message):
    with pytest.raises(ValueError, match=message):
        load("digits", classes=classes)


@pytest.mark.parametrize("option", ["per_class", "held_out", "image_size"])
@pytest.mark.parametrize("value", [0, -3, 2.5, True, "8"])
def test_options_that_are_not_positive_whole_numbers(option, value):
    with pytest.raises(ValueError, match=f"{option}=.* must be a whole number of at least 1"):
        load("digits", **{option: value})


# ---- real data ----


@real_data
def test_real_mnist():
    mnist = load("mnist")
    assert mnist.train.images.shape == (60_000, 1, 28, 28)
    assert mnist.test.images.shape == (10_000, 1, 28, 28)
    assert mnist.train.labels[0] == 5
    assert mnist.train.images.mean().item() == pytest.approx(0, abs=1e-3)
    assert mnist.train.images.std().item() == pytest.approx(1, abs=1e-3)
    assert mnist.train.labels.bincount().min() == 5421  # class 5 is the smallest


@real_data
def test_real_fashion_mnist():
    try:
        fashion = load("fashion_mnist")
    except FileNotFoundError:
        pytest.skip("FashionMNIST is not among the real data")
    assert fashion.train.labels.bincount().tolist() == [6000] * 10
    assert fashion.test.labels.bincount().tolist() == [1000] * 10
    assert fashion.classes[fashion.train.labels[0]] == "Ankle boot"
    assert fashion.train.images.mean().item() == pytest.approx(0, abs=1e-3)
    assert fashion.train.images.std().item() == pytest.approx(1, abs=1e-3)


@real_data
def test_real_cifar10():
    cifar = load("cifar10", per_class=1000)
    assert cifar.train.images.shape == (10_000, 3, 32, 32)
    assert cifar.test.images.shape == (10_000, 3, 32, 32)
    assert cifar.test.labels.bincount().tolist() == [1000] * 10
    assert cifar.classes[:3] == ("airplane", "automobile", "bird")
    # The published deviations are means over images, so these are near 1, not 1.
    assert cifar.train.images.mean((0, 2, 3)).abs().max() < 0.05
    assert (cifar.train.images.std((0, 2, 3)) - 1.2).abs().max() < 0.15
