"""Sets of other programs, written here in each of their formats with known pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ddlib.data.base import DataSet, Pixels, Split
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.fingerprints import digests, named_files
from ddlib.methods import METHODS
from ddlib.seeds import generator

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.2)
CENTRE, SPREAD = torch.tensor([MEAN, STD]).view(2, 3, 1, 1)
DISTIL = METHODS["imported"].distil


def smooth(count, seed):
    """Pixels (count, 3, 8, 8), uint8, of about the moments above; neighbours are alike."""
    stream = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 4, generator=stream)
    images = torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear")
    unit = images / images.std() * SPREAD + CENTRE
    return unit.mul(255).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def colours() -> DataSet:
    """Three classes of 3x8x8 images, twenty of each."""
    pixels, normalisation = smooth(60, 0), Normalisation(MEAN, STD)
    split = Split(Pixels(pixels, normalisation), torch.arange(60) % 3)
    return DataSet("colours", split, split, normalisation, ("ant", "bee", "cat"))


@pytest.fixture(scope="module")
def stored():
    """Pixels (6, 3, 8, 8) of a set, two of each class, and the same normalised by hand."""
    pixels = smooth(6, 1)
    return pixels, (pixels / 255 - CENTRE) / SPREAD


LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def read(dataset, path, form, ipc=2, seed=0, **options):
    values = {"path": str(path) if not isinstance(path, dict) else path, "format": form, **options}
    parameters = METHODS["imported"].parameters.read(values, "imported")
    return DISTIL(dataset, None, [ipc], seed, parameters)[ipc]


def write_dc(path, *sets):
    """As DC, DSA and DM do: sets of experiments, and accuracies that are numbers of numpy."""
    accuracies = {"ConvNet": [np.float64(0.25), np.mean([0.5, 0.75])]}
    torch.save({"data": [list(pair) for pair in sets], "accs_all_exps": accuracies}, path)


def test_the_file_of_dc_holds_a_set_of_each_experiment(tmp_path, colours, stored):
    _, samples = stored
    write_dc(tmp_path / "res_DC.pt", (samples, LABELS), (samples + 0.5, LABELS))
    for experiment in (0, 1):
        synthetic = read(colours, tmp_path / "res_DC.pt", "dc", experiment=experiment, seed=3)
        assert torch.equal(synthetic.samples, samples + 0.5 * experiment)
        assert synthetic.labels.tolist() == LABELS.tolist()
        assert (synthetic.method, synthetic.seed, synthetic.learned) == ("imported", 3, {})
    with pytest.raises(ValueError, match="of 2 sets, none is experiment 2; count from 0"):
        read(colours, tmp_path / "res_DC.pt", "dc", experiment=2)


@pytest.mark.parametrize("rate", [0.03, "lr_best.pt"])
def test_the_files_of_mtt_are_images_labels_and_a_learned_rate(tmp_path, colours, stored, rate):
    """Its images require gradients, and samples are put in the order of the classes."""
    order = torch.tensor([5, 0, 2, 4, 3, 1])
    torch.save(stored[1][order].requires_grad_(), tmp_path / "images_best.pt")
    torch.save(LABELS[order], tmp_path / "labels_best.pt")
    torch.save(torch.tensor(0.03), tmp_path / "lr_best.pt")
    rate = str(tmp_path / rate) if isinstance(rate, str) else rate
    synthetic = read(colours, tmp_path / "images_best.pt", "mtt", step_size=rate)
    assert torch.equal(synthetic.samples, stored[1][[0, 1, 2, 3, 5, 4]])
    assert synthetic.learned == {"step_size": pytest.approx(0.03)}
    parameters = METHODS["imported"].parameters(path=str(tmp_path / "images_best.pt"), format="mtt")
    before = digests(named_files(parameters.model_dump()))
    torch.save(LABELS, tmp_path / "labels_best.pt")
    assert digests(named_files(parameters.model_dump())) != before  # labels name results, too


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.tensor(0.0), "lr.pt holds the step size 0.0; give one above 0"),
        (torch.tensor(-0.1), "holds the step size -0.1"),
        (torch.tensor(torch.nan), "holds the step size nan"),
        (torch.ones(2), "no step size can be read from .*lr.pt"),
        (None, "no step size can be read from .*lr.pt"),
    ],
)
def test_a_step_size_that_cannot_be_one_is_refused(tmp_path, colours, stored, content, message):
    torch.save(stored[1], tmp_path / "images_best.pt")
    torch.save(LABELS, tmp_path / "labels_best.pt")
    if content is None:
        (tmp_path / "lr.pt").write_bytes(b"damaged")
    else:
        torch.save(content, tmp_path / "lr.pt")
    with pytest.raises(ValueError, match=message):
        read(colours, tmp_path / "images_best.pt", "mtt", step_size=str(tmp_path / "lr.pt"))


def test_images_of_several_smaller_ones_are_decoded_for_networks(tmp_path, colours, stored):
    write_dc(tmp_path / "res_DC.pt", (stored[1], LABELS))
    synthetic = read(colours, tmp_path / "res_DC.pt", "dc", factor=2)
    assert torch.equal(synthetic.samples, stored[1])
    assert len(synthetic.decoded.samples) == 4 * len(LABELS)
    parameters = METHODS["imported"].parameters(
        path=str(tmp_path / "res_DC.pt"), format="dc", factor=3
    )
    with pytest.raises(ValueError, match="factor=3 does not divide images of"):
        METHODS["imported"].check(parameters, colours, None, [2])


def test_soft_labels_are_kept_and_classes_go_by_place(tmp_path, colours, stored):
    soft = torch.softmax(torch.randn(6, 3, generator=generator("soft")), 1).double()
    torch.save(stored[1], tmp_path / "images_1.pt")
    torch.save(soft, tmp_path / "mine.pt")
    options = {"labels": str(tmp_path / "mine.pt")}
    synthetic = read(colours, tmp_path / "images_1.pt", "mtt", **options)
    assert torch.equal(synthetic.labels, soft.float())
    assert torch.equal(synthetic.samples, stored[1])
    values = {"path": str(tmp_path / "images_1.pt"), "format": "mtt", **options}
    parameters = METHODS["imported"].parameters.read(values, "imported")
    METHODS["imported"].check(parameters, colours, None, [2])
    torch.save(soft.log(), tmp_path / "mine.pt")  # as DATM's own files
    with pytest.raises(ValueError, match=r"should be probabilities, .* take the softmax of logits"):
        METHODS["imported"].check(parameters, colours, None, [2])


def test_the_largest_shares_decide_classes_where_they_fill_each_alike(tmp_path, colours, stored):
    order = torch.tensor([0, 2, 4, 1, 3, 5])  # a sample of each class, and one more
    soft = 0.7 * torch.nn.functional.one_hot(LABELS, 3) + 0.1
    np.savez(tmp_path / "set.npz", images=stored[0][order].numpy(), labels=soft[order].numpy())
    synthetic = read(colours, tmp_path / "set.npz", "npz")
    torch.testing.assert_close(synthetic.samples, stored[1])
    assert torch.equal(synthetic.labels, soft)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "unit"])
def test_an_npz_holds_bytes_in_either_layout_or_values_with_their_normalisation(
    tmp_path, colours, stored, layout
):
    pixels, samples = stored
    images = pixels / 255 if layout == "unit" else pixels
    images = images if layout == "NCHW" else images.permute(0, 2, 3, 1)
    np.savez(tmp_path / "set.npz", images=images.numpy(), labels=LABELS.numpy().astype(np.int32))
    options = {"normalised_by": {"mean": [0.0], "std": [1.0]}} if layout == "unit" else {}
    synthetic = read(colours, tmp_path / "set.npz", "npz", **options)
    torch.testing.assert_close(synthetic.samples, samples)
    if layout != "unit":
        with pytest.raises(ValueError, match="holds bytes, which are pixels; leave normalised_by"):
            read(colours, tmp_path / "set.npz", "npz", normalised_by={"mean": [0.0], "std": [1.0]})


@pytest.mark.parametrize("names", [("cat", "ant", "bee"), ("002", "000", "001"), ("a", "b", "c")])
def test_a_folder_has_images_by_class_or_number(tmp_path, colours, stored, names):
    pixels, samples = stored
    for image, place in zip(pixels, [1, 1, 2, 2, 0, 0], strict=True):
        folder = tmp_path / "set" / names[place]
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.iterdir()))
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    if names == ("a", "b", "c"):
        with pytest.raises(ValueError, match=r"the folders a, b, c .*, but the classes are ant, b"):
            read(colours, tmp_path / "set", "folder")
        return
    torch.testing.assert_close(read(colours, tmp_path / "set", "folder").samples, samples)
    parameters = METHODS["imported"].parameters(path=str(tmp_path / "set"), format="folder")
    before = digests(named_files(parameters.model_dump()))
    Image.new("RGB", (8, 8)).save(next((tmp_path / "set").rglob("*.png")))
    assert digests(named_files(parameters.model_dump())) != before


def test_another_normalisation_is_undone_without_clamping(tmp_path, colours, stored):
    """Pixels beyond black and white stay so."""
    bright = stored[1].clone()
    bright[0, 0, 0, 0] = 9.0
    write_dc(tmp_path / "res.pt", ((bright * SPREAD + CENTRE - 0.5) / 0.2, LABELS))
    options = {"normalised_by": {"mean": [0.5], "std": [0.2]}}
    samples = read(colours, tmp_path / "res.pt", "dc", **options).samples
    torch.testing.assert_close(samples, bright, rtol=1e-4, atol=1e-5)
    own = {"normalised_by": {"mean": list(MEAN), "std": list(STD)}}
    write_dc(tmp_path / "same.pt", (bright, LABELS))
    torch.testing.assert_close(read(colours, tmp_path / "same.pt", "dc", **own).samples, bright)


@pytest.mark.parametrize(
    ("scale", "options", "likelier"),
    [
        ("unit", {}, r"normalised_by: {'mean': \[0.0\], 'std': \[1.0\]} is likelier"),
        ("bytes", {}, r"normalised_by: {'mean': \[0.0\], 'std': \[0.0039"),
        ("normalised", {"mean": [0.0], "std": [1.0]}, "no normalised_by is likelier"),
    ],
)
def test_statistics_far_from_the_datas_name_the_likelier_reading(
    tmp_path, colours, stored, scale, options, likelier
):
    pixels, samples = stored
    values = {"unit": pixels / 255, "bytes": pixels.float(), "normalised": samples}[scale]
    write_dc(tmp_path / "res.pt", (values, LABELS))
    asked = {"normalised_by": options} if options else {}
    with pytest.raises(ValueError, match=f"res.pt, read as asked, has channels .*{likelier}"):
        read(colours, tmp_path / "res.pt", "dc", **asked)


def test_methods_may_raise_contrast_and_start_from_noise(tmp_path, colours, stored):
    noise = torch.randn(6, 3, 8, 8, generator=generator("noise"))
    for samples in (3 * stored[1], 0.4 * stored[1], noise, noise + 0.3):
        write_dc(tmp_path / "res.pt", (samples, LABELS))
        assert torch.equal(read(colours, tmp_path / "res.pt", "dc").samples, samples)


def test_a_whitened_set_goes_with_whitened_data(tmp_path, colours, stored):
    """Pixels that were only normalised, or not at all, are recognised."""
    whitening = Whitening.fit(colours.train.samples.values, 255)
    whitened = whitening.normalise(colours.train.samples.values, 255)
    split = Split(whitened, colours.train.labels)
    dataset = replace(colours, train=split, test=split, normalisation=whitening)
    samples = whitening.normalise(stored[0], 255)
    write_dc(tmp_path / "res.pt", (samples, LABELS))
    assert torch.equal(read(dataset, tmp_path / "res.pt", "dc").samples, samples)
    write_dc(tmp_path / "unit.pt", (stored[0] / 255, LABELS))
    with pytest.raises(ValueError, match=r"'std': \[1.0\]} is likelier"):
        read(dataset, tmp_path / "unit.pt", "dc")
    unit = {"normalised_by": {"mean": [0.0], "std": [1.0]}}
    torch.testing.assert_close(read(dataset, tmp_path / "unit.pt", "dc", **unit).samples, samples)


def test_sizes_that_no_file_has_and_other_files_are_refused(tmp_path, colours, stored, monkeypatch):
    samples, path = stored[1], tmp_path / "res.pt"
    write_dc(path, (samples, LABELS))
    write_dc(tmp_path / "uneven.pt", (samples[:5], LABELS[:5]))
    write_dc(tmp_path / "small.pt", (samples[..., :4], LABELS))
    write_dc(tmp_path / "ten.pt", (samples, LABELS + 4))
    write_dc(tmp_path / "short.pt", (samples, LABELS[:4]))
    (tmp_path / "torn.pt").write_bytes(path.read_bytes()[:400])
    torch.save(samples, tmp_path / "images_alone.pt")
    torch.save(samples, tmp_path / "alone.pt")
    np.savez(tmp_path / "words.npz", images=samples, labels=["ant"] * 6)
    np.savez(tmp_path / "between.npz", images=samples, labels=LABELS + 0.5)
    np.savez(tmp_path / "none.npz", images=samples[:0], labels=LABELS[:0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "mysets").mkdir()
    for name in ("mylabels", "myrate"):
        torch.save(torch.tensor(0.1), tmp_path / name)
        option = {"labels": name} if name == "mylabels" else {"step_size": name}
        with pytest.raises(ValueError, match=f"needs a slash or an ending; write ./{name} for"):
            read(colours, "images_alone.pt", "mtt", **option)
    both = {2: str(path), 4: str(path)}
    assert torch.equal(read(colours, both, "dc").samples, samples)
    for file, form, ipc, message in (
        (path, "dc", 4, r"res.pt holds 2 samples of each class, not ipc=4; choose k: \[6\], or a"),
        (
            {2: "mysets"},
            "folder",
            2,
            "a path needs a slash or an ending; write ./mysets for mysets",
        ),
        (both, "dc", 3, "path names no file for ipc=3; leave that size out of k"),
        ("uneven.pt", "dc", 2, "holds 1 to 2 samples of each class; give as many of every class"),
        ("words.npz", "npz", 2, "words.npz cannot be read .*TypeError"),
        ("none.npz", "npz", 2, "it has 0 images, but 0 labels"),
        ("alone.pt", "mtt", 2, "its name says no 'images'; name the file of its `labels`, too"),
        ("small.pt", "dc", 2, "samples of 3 x 8 x 4, but those of colours are 3 x 8 x 8"),
        ("ten.pt", "dc", 2, "labels of other classes than the 3 of colours"),
        ("between.npz", "npz", 2, "labels of other classes than the 3 of colours"),
        ("short.pt", "dc", 2, "it has 6 images, but 4 labels"),
        ("torn.pt", "dc", 2, "torn.pt cannot be read .*check that it is whole, and of"),
        ("res.pt", "npz", 2, "res.pt cannot be read .*of the format 'npz'"),
    ):
        file = tmp_path / file if isinstance(file, str) else file
        with pytest.raises(ValueError, match=message):
            read(colours, file, form, ipc)
    with pytest.raises(FileNotFoundError, match=r"there is no .*nowhere.pt; check the path"):
        read(colours, tmp_path / "nowhere.pt", "dc")
    with pytest.raises(FileNotFoundError, match=r"there is no .*labels_alone.pt; check the path"):
        read(colours, tmp_path / "images_alone.pt", "mtt")
