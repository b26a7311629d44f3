"""What loads: named sets in their layouts, options, and bad input by its sentence."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layouts import grey_levels, images, pixels, real_data, write_images, write_mnist, write_npz
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from ddlib.data.base import RawSplit
from ddlib.data.load import load
from ddlib.data.normalise import Whitening
from ddlib.data.sources import DATASETS, Source


def test_digits_are_the_embedded_images_split_two_to_one_by_class():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    digits, again, original = load("digits"), load("digits"), load_digits()
    assert torch.equal(images(digits.test), images(again.test))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert (digits.sample_shape, digits.classes) == ((1, 8, 8), tuple("0123456789"))
    assert len(digits.train.labels) + len(digits.test.labels) == len(original.target) == 1797
    for label in range(10):
        share = (digits.test.labels == label).sum().item() / (original.target == label).sum()
        assert share == pytest.approx(1 / 3, abs=0.01)
    both = torch.cat([images(digits.train), images(digits.test)])
    assert (both.dtype, digits.train.labels.dtype) == (torch.float32, torch.int64)
    grey = (digits.normalisation.denormalise(both) * 16).round().int().reshape(-1, 64).tolist()
    assert sorted(grey) == sorted(original.images.astype(int).reshape(-1, 64).tolist())
    trained_on = images(digits.train).double()
    assert trained_on.mean().item() == pytest.approx(0, abs=1e-5)
    assert trained_on.std(correction=0).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "folder", "mean", "std", "first"),
    [
        ("mnist", "MNIST", 0.1307, 0.3081, "0"),
        ("fashion_mnist", "FashionMNIST", 0.2861, 0.3530, "T-shirt/top"),
    ],
)
def test_idx_files(root, name, folder, mean, std, first):
    write_mnist(root / folder / "raw")
    loaded = load(name)
    expected = (pixels(20, 4, 4, seed=20)[:, None] / 255 - mean) / std
    np.testing.assert_allclose(images(loaded.train).numpy(), expected, atol=1e-5)
    assert loaded.test.labels.tolist() == list(range(10))
    assert (loaded.class_count, loaded.classes[0]) == (10, first)


def test_whitening_takes_the_place_of_published_statistics(root):
    write_mnist(root / "MNIST" / "raw")
    loaded, plain = load("mnist", zca=True), load("mnist")
    levels = (255 * plain.normalisation.denormalise(images(plain.train))).round().byte()
    whitening = Whitening.fit(levels, 255)
    torch.testing.assert_close(images(loaded.train), whitening.normalise(levels, 255.0).float())
    assert (images(loaded.train) - images(plain.train)).abs().max() > 0.1


def test_the_root_is_searched_before_the_home_cache(root, tmp_path):
    write_mnist(tmp_path / "home" / ".cache" / "ddlib" / "MNIST" / "raw")
    assert load("mnist").sample_shape == (1, 4, 4)
    grey = {"images": pixels(6, 9, 9)}, {"images": pixels(4, 9, 9)}
    write_npz(root / "mnist", train=grey[0], test=grey[1])
    assert load("mnist").sample_shape == (1, 9, 9)


def test_no_other_copy_takes_the_place_of_half_a_set(root, tmp_path):
    """The folder that is searched first is not passed over, though the other one is whole."""
    home, classes = tmp_path / "home" / ".cache" / "ddlib", ("n01440764", "n03888257")
    for place, test in ((root, "elsewhere"), (home, "val")):
        write_images(place / "imagenette2", test=test, classes=classes)
        write_npz(place / "adult")
    (root / "adult" / "test.npz").unlink()
    with pytest.raises(ValueError, match=r"root/adult holds no test\.npz or .*; complete the"):
        load("adult")
    with pytest.raises(ValueError, match=r"root/imagenette2 holds no test\.npz .*; complete the"):
        load("imagenette")


def test_cifar_in_the_layout_of_torchvision(root, monkeypatch):
    folder, values = root / CIFAR10.base_folder, pixels(4, 3, 32, 32)
    folder.mkdir(parents=True)
    batch = {"data": values.reshape(4, -1), "labels": [1, 0, 1, 0]}
    (folder / "batch").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car"]}))
    monkeypatch.setattr(CIFAR10, "train_list", [["batch", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    loaded = load("cifar10")
    assert (loaded.classes, loaded.train.labels.tolist()) == (("plane", "car"), [1, 0, 1, 0])
    mean, std = np.array([[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]])[..., None, None]
    expected = (values / 255 - mean) / std
    np.testing.assert_allclose(images(loaded.train).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("copy", ["imagenette2", "imagenette2-80"])
def test_imagenette_has_readable_names_and_64_pixels(root, copy):
    write_images(root / copy, size=(90, 80), test="val", classes=("n01440764", "n03888257"))
    loaded = load("imagenette")
    assert (loaded.classes, loaded.sample_shape) == (("tench", "parachute"), (3, 64, 64))
    assert load("imagenette", image_size=16).sample_shape == (3, 16, 16)


def test_download_only_when_asked_and_into_the_root(root, monkeypatch):
    asked = []

    def fetch(folder):
        asked.append(folder)
        if len(asked) == 1:
            raise OSError("no route to host")
        write_mnist(folder / "MNIST" / "raw")

    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], download=fetch))
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist")
    for part in (str(root), ".cache/ddlib", "set DDLIB_DATA", "download: true", "your own data"):
        assert part in str(caught.value)
    assert asked == []
    with pytest.raises(ConnectionError, match=r"downloading mnist to .* failed: no route"):
        load("mnist", download=True)
    load("mnist", download=True)
    assert load("mnist", download=True).sample_shape == (1, 4, 4)  # found now: not fetched again
    assert asked == [root, root]


def test_a_set_without_a_download_is_not_said_to_have_one(root):
    with pytest.raises(FileNotFoundError, match="new study may instead name the path of your own"):
        load("sst2", download=True)


def test_classes_are_renumbered_in_the_order_given(tmp_path):
    arrays = {
        "images": np.zeros((6, 2, 2), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None],
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "class_names": np.array(["a", "b", "c"]),
    }
    loaded = load(write_npz(tmp_path, train=arrays, test=arrays), classes=["c", "a"])
    assert loaded.classes == ("c", "a")
    assert loaded.train.labels.tolist() == loaded.test.labels.tolist() == [1, 0, 1, 0]
    assert grey_levels(loaded)[:, 0, 0, 0].tolist() == [0, 2, 3, 5]
    assert load("digits", classes=[7, "1"]).classes == ("7", "1")  # as YAML reads them


def test_per_class_and_held_out_choose_rows_and_leave_the_statistics(tmp_path):
    folder = write_npz(tmp_path, train={"labels": np.array([1, 1, 1, 1, 0, 0])})
    whole = load(folder)
    for options, trained, tested in (
        ({"per_class": 3}, [0, 1, 2, 4, 5], None),
        ({"held_out": 1}, [0, 1, 2, 4], [3, 5]),
        ({"held_out": 1, "per_class": 2}, [0, 1, 4], [3, 5]),
    ):
        part = load(folder, **options)
        assert torch.equal(images(part.train), images(whole.train)[trained])
        assert torch.equal(part.train.labels, whole.train.labels[trained])
        expected = images(whole.test) if tested is None else images(whole.train)[tested]
        assert torch.equal(images(part.test), expected)
        assert part.normalisation == whole.normalisation
    with pytest.raises(ValueError, match="held_out=2 leaves nothing of the 2 training samples"):
        load(folder, held_out=2)
    larger = load(folder, held_out=2, classes=[whole.classes[1]])
    assert len(larger.train.labels) == len(larger.test.labels) == 2


@pytest.mark.parametrize("files", [True, False])
def test_image_size_resizes_the_shorter_side_then_crops_the_centre(tmp_path, files):
    """As torch does; Pillow rounds to whole grey levels after each of its two passes."""
    tall = pixels(50, 20, 3, seed=5)
    if files:
        folder = write_images(tmp_path, size=(40, 30))
        Image.fromarray(tall).save(folder / "train" / "ant" / "9.png")
    else:
        train, test = ({"images": np.stack([tall] * count)} for count in (6, 4))
        folder = write_npz(tmp_path, train=train, test=test)
    channels_first = torch.tensor(tall).permute(2, 0, 1)[None].double()
    halved = F.interpolate(channels_first, (25, 10), mode="bilinear", antialias=True)
    loaded = load(folder, image_size=10)
    assert (grey_levels(loaded)[3] - halved[0, :, 7:17]).abs().max() <= 1.01
    trained_on = images(loaded.train).double()
    assert trained_on.mean((0, 2, 3)).abs().max() < 1e-5
    assert (trained_on.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "FashionMNIST"}, "did you mean 'fashion_mnist'"),
        *[({"name": name}, "is not a data set, nor .*; allowed: digits") for name in ("", 5)],
        ({"classes": ["cow"]}, "'cow' is not a class of this data set; allowed: 0, 1, 2"),
        *[({"classes": c}, "is not a list of class names") for c in ([3, "3"], [])],
        *[({"classes": c}, "classes=.* must be a list of text or") for c in ("3", 3)],
        ({"zca": 1}, "zca=1 must be true or false"),
        *[
            ({option: value}, f"{option}=.* must be a whole number of at least 1")
            for option, value in (("per_class", 0), ("held_out", 2.5), ("image_size", True))
        ],
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        load(**{"name": "digits", **options})


def test_missing_data(tmp_path, root):
    (write_npz(tmp_path / "a") / "test.npz").unlink()
    write_images(tmp_path / "b", test="elsewhere")
    (tmp_path / "c").mkdir()
    for name, sentence in (
        ("nowhere", "nowhere does not exist; give an existing"),
        ("a", r"holds no test.npz or test.csv or test.parquet or test or val$"),
        ("b", r"holds no test.npz or test.csv or test.parquet or test or val$"),
        ("c", r"holds no train.npz or train.csv or train.parquet or train$"),
    ):
        with pytest.raises(FileNotFoundError, match=sentence):
            load(tmp_path / name)
    (write_mnist(root / "MNIST" / "raw") / "t10k-labels-idx1-ubyte").unlink()
    (root / "cifar-100-python").mkdir(parents=True)
    (root / "cifar-100-python" / "train").write_bytes(b"not the published file")
    for name, folder in (("mnist", "MNIST"), ("cifar100", "cifar-100-python")):
        with pytest.raises(ValueError, match=f"{folder} is damaged; delete it"):
            load(name)


@pytest.mark.parametrize("keep", [0, 9, -30])
def test_truncated_files(tmp_path, root, keep):
    files = [write_mnist(root / "MNIST" / "raw") / "train-images-idx3-ubyte"]
    files += [write_npz(tmp_path / "a") / "train.npz"]
    files += [write_images(tmp_path / "b") / "train" / "bee" / "1.png"]
    for file in files:
        file.write_bytes(file.read_bytes()[:keep])
    for name, message in (
        ("mnist", "MNIST is damaged; delete it"),
        (tmp_path / "a", "train.npz cannot be read .* truncated or not an npz of the plain arrays"),
        (tmp_path / "b", "bee/1.png cannot be read .*; replace or remove it"),
    ):
        with pytest.raises(ValueError, match=message):
            load(name)


NOTHING = {"images": pixels(0, 5, 5, 3), "labels": np.zeros(0, int)}
REVERSED = {"class_names": np.array(["dog", "cat"])}
PICKLED = {"class_names": np.array(["cat", "dog"], dtype=object)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *[
            ({"train": {"images": values}}, f"pets train: images are {content}; give uint8")
            for values, content in (
                (pixels(6, 5, 5, 3) / 255, r"float64 \(6, 5, 5, 3\)"),
                (pixels(6, 25), r"uint8 \(6, 25\)"),
                (pixels(6, 3, 5, 5), r"uint8 \(6, 3, 5, 5\)"),
                (pixels(6, 0, 5, 3), r"uint8 \(6, 0, 5, 3\)"),
                (np.ones((6, 32), int), r"int64 \(6, 32\)"),  # numbers of tokens
            )
        ],
        ({"train": {"images": pixels(6, 5, 5) // 200}}, r"up to 1; give 0 \(black\) to 255"),
        *[
            ({"train": {"labels": labels}}, "pets train: labels are .*; give integers")
            for labels in (np.arange(6.0) % 2, np.zeros((6, 1), int), np.array([0, 1, 0]))
        ],
        *[
            ({"test": {"labels": np.array([0, 1, 0, label])}}, f"label {label} has no class name")
            for label in (2, -1)
        ],
        ({"test": {"class_names": None}}, "test.npz cannot be read .*class_names is not a file"),
        ({"test": {"class_names": np.array("cat")}}, r"test.npz .*class_names has the shape \(\)"),
        ({"train": {"class_names": np.array(["cat"] * 2)}}, "class_names holds 'cat' twice; name"),
        (
            {"train": {"class_names": np.array([b"\xc3\x84", b"b"])}},
            "train.npz cannot be read .*asc",
        ),
        ({"train": PICKLED}, r"train.npz cannot be read .* not an npz of the plain arrays"),
        ({"train": NOTHING}, "pets train: no images of class cat, dog"),
        ({"test": {"labels": np.zeros(4, int)}}, "pets test: no images of class dog; add some"),
        ({"test": REVERSED}, r"classes \(cat, dog\) differ from the test classes \(dog, cat\)"),
        ({"test": {"images": pixels(4, 5, 5)}}, r"\(5, 5, 3\) but test images are \(5, 5, 1\)"),
    ],
)
def test_bad_arrays(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load(write_npz(tmp_path / "pets", **changes))


def test_class_names_may_be_bytes(tmp_path):
    names = {"class_names": np.array([b"cat", b"dog"])}
    assert load(write_npz(tmp_path / "pets", train=names, test=names)).classes == ("cat", "dog")


def test_an_image_too_large_for_pillow_is_named(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "b")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(ValueError, match=r"ant/.*png cannot be read .*; replace or remove it"):
        load(folder)


def test_white_of_an_extension_is_at_least_its_brightest_pixel(monkeypatch):
    images, labels = pixels(4, 5, 5, 3), [0, 1, 0, 1]
    for white, sentence in ((255, None), (16, "but white=16; give the value"), (0, "white=0")):
        pair = [RawSplit(images, labels, ("a", "b"), white=white)] * 2
        monkeypatch.setitem(DATASETS, "mine", Source(lambda root, options, pair=pair: pair))
        if sentence is None:
            assert load("mine").train.labels.tolist() == labels
            continue
        with pytest.raises(ValueError, match=f"mine train: images .* of values up to .*{sentence}"):
            load("mine")


def test_vectors_of_an_extension_have_no_missing_values(monkeypatch):
    values = np.array([[0.0], [np.nan]])
    pair = [RawSplit(values, np.arange(2), ("a", "b"), format="tables")] * 2
    monkeypatch.setitem(DATASETS, "mine", Source(lambda root, options: pair))
    with pytest.raises(ValueError, match=r"mine train: tables are .* with missing or infinite"):
        load("mine")


def test_an_array_is_no_archive_of_arrays(tmp_path):
    with (write_npz(tmp_path) / "train.npz").open("wb") as file:
        np.save(file, pixels(6, 5, 5, 3))
    with pytest.raises(ValueError, match=r"train.npz cannot be read .* not an npz of the plain"):
        load(tmp_path)


def test_images_too_large_to_whiten_are_refused(tmp_path):
    train, test = ({"images": pixels(count, 48, 48, 3)} for count in (6, 4))
    message = r"a matrix of 6912 x 6912 values for images 48 x 48.* at most 36"
    with pytest.raises(ValueError, match=message):
        load(write_npz(tmp_path, train=train, test=test), zca=True)


@real_data
@pytest.mark.parametrize(
    ("name", "shape", "counts", "zeros", "std"),
    [
        ("mnist", (1, 28, 28), (60_000, 10_000), 5_923, 1),
        # CIFAR's published deviations are means over images, so these are near 1.2, not 1.
        ("cifar10", (3, 32, 32), (50_000, 10_000), 5_000, 1.2),
    ],
)
def test_real_sets(name, shape, counts, zeros, std):
    loaded = load(name)
    assert loaded.sample_shape == shape
    assert (len(loaded.train.labels), len(loaded.test.labels)) == counts
    assert (loaded.train.labels == 0).sum() == zeros
    sample = loaded.train.at(torch.arange(10_000))
    assert sample.mean((0, 2, 3)).abs().max() < 0.05
    assert (sample.std((0, 2, 3)) - std).abs().max() < 0.15
