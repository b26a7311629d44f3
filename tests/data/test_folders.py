"""Folders of your own: arrays, and files of images in all their kinds."""

import struct
import zlib

import numpy as np
import pytest
import torch
from layouts import grey_levels, images, pixels, write_images, write_npz, write_pictures
from PIL import Image

from ddlib.data.load import load


def test_arrays_are_normalised_by_the_training_images(tmp_path):
    loaded = load(str(write_npz(tmp_path / "pets")))
    assert (loaded.name, loaded.classes) == ("pets", ("cat", "dog"))
    unit = pixels(6, 5, 5, 3, seed=6) / 255
    mean, std = unit.mean((0, 1, 2)), unit.std((0, 1, 2))
    assert loaded.normalisation.mean == pytest.approx(mean)
    assert loaded.normalisation.std == pytest.approx(std)
    expected = ((unit - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images(loaded.train).numpy(), expected, atol=1e-5)


def test_a_constant_channel_stays_finite_and_grey_needs_no_channel_axis(tmp_path):
    values = pixels(6, 5, 5, 3)
    values[..., 1] = 77
    loaded = load(write_npz(tmp_path / "a", train={"images": values}))
    assert images(loaded.train)[:, 1].abs().max() < 1e-4
    assert images(loaded.test).isfinite().all()
    grey = {"train": {"images": pixels(6, 5, 7)}, "test": {"images": pixels(4, 5, 7)}}
    assert load(write_npz(tmp_path / "b", **grey)).sample_shape == (1, 5, 7)


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_of_images(tmp_path, test):
    """The folder of a class may be a link."""
    folder = write_images(tmp_path / "insects", test=test)
    (folder / "train" / "bee").rename(tmp_path / "apart")
    (folder / "train" / "bee").symlink_to(tmp_path / "apart")
    loaded = load(folder)
    assert (loaded.classes, loaded.sample_shape) == (("ant", "bee"), (3, 6, 8))
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = pixels(6, 8, 3, seed=11)
    assert grey_levels(loaded)[4].permute(1, 2, 0).tolist() == expected.tolist()


def test_what_is_no_image_is_passed_over_or_counted(tmp_path):
    folder = write_images(tmp_path)
    ant = folder / "train" / "ant"
    (ant / ".ipynb_checkpoints").mkdir()
    (ant / "below").mkdir()
    content = (ant / "0.png").read_bytes()
    for name in ("._0.png", ".ipynb_checkpoints/0.png", "0.png~", "#0.png#", "Thumbs.db"):
        (ant / name).write_bytes(content)
    (ant / "below" / "3.PNG").write_bytes(content)
    loaded = load(folder)  # without a warning
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 3
    for name in ("ant/a.gif", "ant/b.GIF", "bee/notes", "9.png"):
        (folder / "train" / name).write_bytes(content)
    (ant / "up").symlink_to("..")
    said = (
        r"train: files skipped for their suffix \(none\): 1; "
        "files skipped for their suffix .gif: 2; "
        "images skipped for being in no class's folder: 1; links to folders within a class "
        "skipped: 1$"
    )
    with pytest.warns(UserWarning, match=said):
        again = load(folder)
    assert torch.equal(images(again.train), images(loaded.train))


def test_grey_images_of_16_bits_are_scaled_with_a_warning(tmp_path):
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535], [128, 129, 32768]], np.uint16))
    folder = write_pictures(tmp_path, deep_png=deep, deep_tif=deep, bee=deep)
    with pytest.warns(UserWarning, match=r"train: images of 16 bits scaled from 0..65535.*: 3$"):
        levels = grey_levels(load(folder))
    # 128 / 257 is below a half, 129 / 257 above; 32768 / 257 = 127.502
    assert levels.tolist() == [[[[0, 100, 255], [0, 1, 128]]]] * 3


@pytest.mark.parametrize(("tag", "usual", "value"), [(258, 16, 12), (262, 1, 0)])
def test_grey_that_would_be_read_as_other_levels_is_refused(tmp_path, tag, usual, value):
    """Files of 12 bits a pixel, and those in which white is zero; Pillow can only read them."""
    deep = Image.fromarray(np.array([[0, 65535]], np.uint16))
    file = write_pictures(tmp_path, a_tif=deep, bee=deep) / "train" / "ant" / "a.tif"
    entries = [struct.pack("<HHIH", tag, 3, 1, number) for number in (usual, value)]
    assert file.read_bytes().count(entries[0]) == 1
    file.write_bytes(file.read_bytes().replace(*entries))
    with pytest.raises(ValueError, match=r"ant/a.tif is a TIFF of .*; save it as grey of 8 or 16"):
        load(tmp_path)


def deep_colour(suffix):
    """A file of one pixel, of red 0x1234 in 16 bits, which Pillow can read but not write."""
    pixel = struct.pack(">3H", 0x1234, 0, 0)
    if suffix == "ppm":
        return b"P6 1 1 65535\n" + pixel
    header, data = struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0), zlib.compress(b"\0" + pixel)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "ppm"])
def test_colours_of_16_bits_are_refused_by_name(tmp_path, suffix):
    folder = write_pictures(tmp_path, bee=Image.new("RGB", (1, 1)))
    (folder / "train" / "ant" / f"a.{suffix}").write_bytes(deep_colour(suffix))
    with pytest.raises(ValueError, match=rf"ant/a.{suffix} is 16-bit colour, .*; save it with 8"):
        load(folder)


def test_grey_folders_keep_one_channel_and_mixed_ones_warn(tmp_path):
    grey, bits = Image.fromarray(pixels(5, 4)), Image.new("1", (4, 5), 1)
    opaque = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    folder = write_pictures(tmp_path / "grey", a_png=grey, b_png=bits, c_png=opaque, bee=grey)
    levels = grey_levels(load(folder))
    assert levels[:, 0].tolist() == [pixels(5, 4).tolist() if i != 1 else [[255] * 4] * 5
                                     for i in range(4)]  # fmt: skip

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
    assert grey_levels(load(folder)).tolist() == [[[[40, 10], [50, 20], [60, 30]]]] * 2


COLOURS = Image.fromarray(pixels(5, 4, 3))
SEVERAL = {"save_all": True, "append_images": [Image.new("RGB", (4, 5))]}


@pytest.mark.parametrize(
    ("name", "picture", "options", "sentence"),
    [
        ("a_jpg", Image.new("CMYK", (4, 5)), {}, "has pixels of mode CMYK, which 8 bits"),
        ("a_tif", Image.new("F", (4, 5), 0.5), {}, "has pixels of mode F, which 8 bits"),
        ("a_png", Image.new("RGBA", (4, 5), (9, 9, 9, 254)), {}, "has transparent pixels"),
        ("a_png", COLOURS.quantize(20), {"transparency": 0}, "has transparent pixels"),
        ("a_png", COLOURS, SEVERAL, "holds several pictures"),
    ],
)
def test_pictures_that_cannot_be_kept_are_refused(tmp_path, name, picture, options, sentence):
    folder, file = write_pictures(tmp_path, bee=COLOURS), name.replace("_", ".")
    picture.save(folder / "train" / "ant" / file, **options)
    with pytest.raises(ValueError, match=rf"ant/{file} {sentence}.*; save "):
        load(folder)


def test_folders_that_do_not_fit_together(tmp_path):
    folder = write_images(tmp_path / "insects")
    (folder / "train" / "wasp").mkdir()
    Image.fromarray(pixels(6, 8, 3)).save(folder / "train" / "wasp" / "0.png")
    with pytest.raises(ValueError, match=r"insects: the training classes \(ant, bee, wasp\) diff"):
        load(folder)
    Image.fromarray(pixels(9, 7, 3)).save(folder / "train" / "bee" / "2.png")
    with pytest.raises(ValueError, match=r"bee/2.png is \(9, 7\) but .*ant/0.png is \(6, 8\)"):
        load(folder)
    for split in ("train", "test"):
        (tmp_path / "empty" / split / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train holds no images"):
        load(tmp_path / "empty")
