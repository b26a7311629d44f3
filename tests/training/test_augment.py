import math

import numpy as np
import pytest
import torch
from draws import noise, stream
from scipy import stats
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from ddlib.devices import precision
from ddlib.seeds import generator
from ddlib.training.augment import FAMILIES, STRATEGIES, Draw, apply, augmented, draw

ALL = ("color", "crop", "cutout", "flip", "scale", "rotate")
# Strengths of the reference implementation; positions and coins are fractions.
REFERENCE_RANGES = {
    "color": {"brightness": (-0.5, 0.5), "saturation": (0, 2), "contrast": (0.5, 1.5)},
    "crop": {"top": (0, 1), "left": (0, 1)},
    "cutout": {"row": (0, 1), "column": (0, 1)},
    "flip": {"coin": (0, 1)},
    "scale": {"x": (1 / 1.2, 1.2), "y": (1 / 1.2, 1.2)},
    "rotate": {"degrees": (-15, 15)},
}


def of(family, **strengths):
    """A draw by hand."""
    values = {name: torch.as_tensor(value).reshape(-1) for name, value in strengths.items()}
    return Draw(family, values)


def test_strategies_hold_the_six_families_and_digits_are_not_flipped():
    assert set(FAMILIES) == set(STRATEGIES["dsa"]) == set(ALL)
    assert set(STRATEGIES["dsa_no_flip"]) == set(ALL) - {"flip"}
    source, images = stream(), noise(4, 1, 8, 8)
    state = source.get_state()
    assert torch.equal(apply(images, draw(STRATEGIES["none"], 4, source)), images)
    assert torch.equal(state, source.get_state())


@pytest.mark.parametrize("family", ALL)
def test_strengths_are_independent_and_uniform_over_the_reference_ranges(family):
    drawn = draw((family,), 4000, stream())
    assert drawn.values.keys() == REFERENCE_RANGES[family].keys()
    for name, (low, high) in REFERENCE_RANGES[family].items():
        strengths = drawn.values[name]
        assert low - 1e-6 <= strengths.min() <= strengths.max() <= high + 1e-6
        assert stats.kstest(strengths.numpy(), "uniform", (low, high - low)).pvalue > 1e-3
    if len(drawn.values) > 1:
        correlation = np.corrcoef(np.stack(list(drawn.values.values()))) - np.eye(len(drawn.values))
        assert np.abs(correlation).max() < 4 / math.sqrt(4000)


def test_families_are_equally_likely_and_draws_are_their_seeds():
    pairs = (3000, stream()), (300, stream())
    first, again = ([draw(STRATEGIES["dsa"], 3, s) for _ in range(count)] for count, s in pairs)
    names = [drawn.family for drawn in first]
    assert stats.chisquare([names.count(family) for family in ALL]).pvalue > 1e-3
    assert names[:300] == [drawn.family for drawn in again]
    for ours, theirs in zip(first[:20], again, strict=False):
        assert all(torch.equal(value, theirs.values[name]) for name, value in ours.values.items())


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("shape", [(12, 1, 28, 28), (12, 3, 15, 10), (12, 1, 1, 1)])
def test_a_draw_per_image_equals_each_image_under_its_own_draw(family, shape):
    before = torch.get_rng_state()
    images, drawn = noise(*shape), draw((family,), 12, stream())
    singles = [
        apply(images[i : i + 1], Draw(family, {k: v[i : i + 1] for k, v in drawn.values.items()}))
        for i in range(12)
    ]
    torch.testing.assert_close(apply(images, drawn), torch.cat(singles))
    siamese = draw((family,), 1, stream())
    alone = torch.cat([apply(image[None], siamese) for image in images])
    torch.testing.assert_close(apply(images, siamese), alone)
    assert torch.equal(torch.get_rng_state(), before)


def test_color_against_loops():
    images = noise(3, 3, 4, 5, dtype=torch.float64)
    strengths = [(0.3, 1.7, 0.6), (-0.4, 0.0, 1.5), (0.0, 1.0, 1.0)]
    brightness, saturation, contrast = zip(*strengths, strict=True)
    drawn = of("color", brightness=brightness, saturation=saturation, contrast=contrast)
    expected = images.numpy().copy()
    for n, (b, s, c) in enumerate(strengths):
        expected[n] += b
        for i, j in np.ndindex(4, 5):
            grey = sum(expected[n, :, i, j]) / 3
            expected[n, :, i, j] = grey + s * (expected[n, :, i, j] - grey)
        mean = expected[n].sum() / 60
        expected[n] = mean + c * (expected[n] - mean)
    np.testing.assert_allclose(apply(images, drawn).numpy(), expected, atol=1e-6)
    grey = noise(2, 1, 6, 6)  # whose saturation changes nothing
    unsaturated = apply(grey, of("color", brightness=0.0, saturation=0.1, contrast=1.0))
    torch.testing.assert_close(unsaturated, grey)


def test_flip_against_torchvision():
    images = noise(4, 3, 6, 7)
    expected = images.clone()
    expected[[0, 2]] = tv.hflip(images[[0, 2]])
    assert torch.equal(apply(images, of("flip", coin=[0.1, 0.9, 0.4999, 0.5])), expected)
    assert torch.equal(apply(images, of("flip", coin=0.2)), tv.hflip(images))


@pytest.mark.parametrize(("height", "width", "down", "across"), [(32, 32, 4, 4), (28, 20, 4, 3)])
def test_crop_against_torchvision(height, width, down, across):
    images = noise(2, 3, height, width)
    padded = tv.pad(images, [across, down])
    for top, left in np.ndindex(2 * down + 1, 2 * across + 1):
        # The middle of the interval that belongs to this corner.
        row, column = (top + 0.5) / (2 * down + 1), (left + 0.5) / (2 * across + 1)
        expected = tv.crop(padded, top, left, height, width)
        assert torch.equal(apply(images, of("crop", top=row, left=column)), expected)
        assert torch.equal(apply(images, of("crop", top=[row] * 2, left=[column] * 2)), expected)


@pytest.mark.parametrize("length", [4, 7, 8, 10, 28])
def test_cutout_covers_each_hole_of_half_the_side_clipped_at_the_border(length):
    size = (length + 1) // 2
    centres = [c for c in range(length + 1) if c < length or size % 2 == 0]

    def covered(centre):
        return [r for r in range(length) if 0 <= r - centre + size // 2 < size]

    for place, centre in enumerate(centres):
        row = (place + 0.5) / len(centres)
        kept = apply(torch.ones(1, 1, length, length), of("cutout", row=row, column=0.5))[0, 0]
        expected = torch.ones(length, length)
        for r in covered(centre):
            expected[r, covered(centres[len(centres) // 2])] = 0
        assert torch.equal(kept, expected)


def bilinear_loop(image, source):
    """Sample (channels, H, W) at source(y, x), offsets from the centre in pixels; zero outside."""
    height, width = image.shape[1:]
    out = torch.zeros_like(image)
    for row, column in np.ndindex(height, width):
        y, x = source(row - (height - 1) / 2, column - (width - 1) / 2)
        y, x = y + (height - 1) / 2, x + (width - 1) / 2
        for i in (math.floor(y), math.floor(y) + 1):
            for j in (math.floor(x), math.floor(x) + 1):
                if 0 <= i < height and 0 <= j < width:
                    out[:, row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * image[:, i, j]
    return out


def test_scale_against_a_bilinear_loop():
    images = noise(2, 2, 6, 9, dtype=torch.float64)
    x, y = [1.2, 0.85], [0.9, 1.1]
    scaled = apply(images, of("scale", x=x, y=y))
    for n in range(2):
        expected = bilinear_loop(images[n], lambda v, u, n=n: (v * y[n], u * x[n]))
        torch.testing.assert_close(scaled[n], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("degrees", [-15.0, -3.5, 8.0, 90.0])
@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 3, 12, 20)])
def test_rotate_against_torchvision(degrees, shape):
    images = noise(*shape)
    expected = tv.rotate(images, degrees, InterpolationMode.BILINEAR)
    rotated = apply(images, of("rotate", degrees=degrees))
    torch.testing.assert_close(rotated, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["crop", "cutout"])
def test_the_largest_fraction_stays_inside(family):
    for length in range(1, 130):
        images, names = torch.ones(1, 1, length, 1), FAMILIES[family].ranges
        fractions = 1 - 2**-24, 1 - 1e-4
        last, near = (apply(images, of(family, **dict.fromkeys(names, f))) for f in fractions)
        assert torch.equal(last, near)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("count", [1, 3])
def test_gradients_are_those_of_finite_differences_and_bf16_changes_nothing(family, count):
    images = noise(3, 3, 6, 6, dtype=torch.float64).requires_grad_()
    drawn = draw((family,), count, stream(3))
    assert torch.autograd.gradcheck(lambda x: apply(x, drawn), images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: apply(x, drawn), images, fast_mode=True)
    (gradient,) = torch.autograd.grad(apply(images, drawn).square().sum(), images)
    assert gradient.abs().sum() > 0
    images = images.detach().float()
    with precision("bf16", "cpu"):
        rounded = apply(images, drawn)
    assert torch.equal(rounded, apply(images, drawn))


@pytest.mark.parametrize("augmentation", ["mixup", "cutmix"])
def test_a_mixed_image_counts_for_the_labels_of_both(augmentation):
    """On images of their labels, the mean pixel is the mean of the labels by their shares."""
    labels = torch.arange(16.0)
    images, shares = labels.view(-1, 1, 1, 1).expand(16, 1, 10, 10), []
    for seed in range(40):
        mixed, targets = augmented(images, labels, augmentation, generator("mix", seed))
        expected = sum(share * label for share, label in targets)
        assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-5)
        assert torch.equal(targets[0][1], labels)
        shares.append(targets[0][0])
    assert min(shares) >= 0
    assert 0.35 < sum(shares) / 40 < 0.75
    assert len(set(shares)) > 10


def test_flip_and_crop_are_both_applied_to_each_image_by_itself():
    row = torch.arange(16.0).expand(64, 1, 16, 16).contiguous() + 1
    changed, targets = augmented(row, torch.zeros(64), "flip_crop", stream())
    assert [share for share, _ in targets] == [1.0]
    flipped = sum(int((image[0, 8].diff() == -1).sum() > 8) for image in changed)
    shifted = sum(bool((image == 0).any()) for image in changed)
    assert 20 < flipped < 44
    assert shifted > 40


def test_each_image_is_cropped_scaled_or_rotated():
    """A spot 6 pixels right of the centre: a third of the images turn it by up to 45 degrees."""
    rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    spot = (-((rows - 16) ** 2 + (columns - 22) ** 2) / 8).exp()
    images, targets = augmented(
        spot.expand(3000, 1, 33, 33), torch.zeros(3000), "crop_scale_rotate", stream()
    )
    assert [share for share, _ in targets] == [1.0]
    mass = images[:, 0].sum((1, 2))
    up = (images[:, 0] * (16 - rows)).sum((1, 2)) / mass
    right = (images[:, 0] * (columns - 16)).sum((1, 2)) / mass
    whole = ((up - up.round()).abs() < 0.02) & ((right - right.round()).abs() < 0.02)
    level = up.abs() < 0.02  # scaled: it stays in its row, 4.8 to 7.2 from the centre
    turned = (torch.hypot(up, right) - 6).abs() < 0.1
    degrees = torch.rad2deg(torch.atan2(up, right))[turned & ~whole]
    assert 43 < degrees.max() <= 45.5
    assert -45.5 <= degrees.min() < -43
    assert abs(len(degrees) / 3000 - 1 / 3) < 0.04
    scaled = right[level & ~whole & ~turned]
    assert 4.7 < scaled.min() < 5
    assert 7 < scaled.max() < 7.3
    assert abs(len(scaled) / 3000 - 1 / 3 * 22 / 24) < 0.04  # but for those within 0.1 of 6
    shifts = torch.stack([up, right - 6], 1)[whole & ~level].round()
    assert shifts.abs().max() == 4  # an eighth of the side
