import math
import random

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from ddlib.devices import precision
from ddlib.training.augment import FAMILIES, STRATEGIES, Draw, apply, draw

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


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def values_of(**strengths):
    return {name: torch.as_tensor(value).reshape(-1) for name, value in strengths.items()}


def bilinear_loop(image, source):
    """Sample (channels, H, W) at source(y, x), offsets from the centre in pixels; zero outside."""
    height, width = image.shape[1:]
    out = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y, x = source(row - (height - 1) / 2, column - (width - 1) / 2)
            y, x = y + (height - 1) / 2, x + (width - 1) / 2
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        weight = (1 - abs(y - i)) * (1 - abs(x - j))
                        out[:, row, column] += weight * image[:, i, j]
    return out


# Drawing


def test_strategies_hold_the_six_families_and_digits_are_not_flipped():
    assert set(FAMILIES) == set(ALL)
    assert STRATEGIES["none"] == ()
    assert set(STRATEGIES["dsa"]) == set(ALL)
    assert set(STRATEGIES["dsa_no_flip"]) == set(ALL) - {"flip"}


@pytest.mark.parametrize("family", ALL)
def test_strengths_are_uniform_over_the_reference_ranges(family):
    drawn = draw((family,), 4000, seeded())
    assert drawn.family == family
    assert drawn.values.keys() == REFERENCE_RANGES[family].keys()
    for name, (low, high) in REFERENCE_RANGES[family].items():
        strengths = drawn.values[name]
        assert strengths.shape == (4000,)
        assert low - 1e-6 <= strengths.min() <= strengths.max() <= high + 1e-6
        assert stats.kstest(strengths.numpy(), "uniform", (low, high - low)).pvalue > 1e-3


def test_strengths_of_one_draw_are_independent_of_each_other():
    for family in ("color", "crop", "cutout", "scale"):
        strengths = torch.stack(list(draw((family,), 4000, seeded()).values.values()))
        correlation = torch.corrcoef(strengths) - torch.eye(len(strengths))
        assert correlation.abs().max() < 4 / math.sqrt(4000)


def test_families_are_equally_likely():
    generator = seeded()
    names = [draw(STRATEGIES["dsa"], 1, generator).family for _ in range(3000)]
    assert stats.chisquare([names.count(family) for family in ALL]).pvalue > 1e-3


def test_same_seed_same_draw_and_another_seed_another():
    def sequence(seed):
        generator = seeded(seed)
        return [draw(STRATEGIES["dsa"], 3, generator) for _ in range(20)]

    for first, second in zip(sequence(5), sequence(5), strict=True):
        assert first.family == second.family
        assert all(torch.equal(first.values[name], second.values[name]) for name in first.values)
    families = [[drawn.family for drawn in sequence(seed)] for seed in (5, 6)]
    assert families[0] != families[1]


def test_no_trace_in_the_global_random_states():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for family in ALL:
        apply(noise(4, 3, 8, 8), draw((family,), 4, seeded()))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


def test_no_families_is_the_identity_and_leaves_the_generator_alone():
    generator, images = seeded(), noise(4, 1, 8, 8)
    state = generator.get_state()
    assert torch.equal(apply(images, draw(STRATEGIES["none"], 4, generator)), images)
    assert torch.equal(state, generator.get_state())


def test_errors_name_what_was_given_and_what_is_allowed():
    with pytest.raises(ValueError, match=r"'blur'.*color, crop, cutout, flip, scale, rotate"):
        draw(("flip", "blur"), 1, seeded())
    with pytest.raises(ValueError, match="count=0"):
        draw(("flip",), 0, seeded())
    with pytest.raises(ValueError, match="5 images but the batch has 8"):
        apply(noise(8, 1, 4, 4), draw(("flip",), 5, seeded()))


# One draw for several batches, and a draw per image


@pytest.mark.parametrize("family", ALL)
def test_siamese_draw_treats_the_image_alike_in_any_batch(family):
    real, synthetic = noise(7, 3, 16, 16), noise(2, 3, 16, 16, seed=2)
    real[4] = synthetic[1]
    for seed in range(10):
        drawn = draw((family,), 1, seeded(seed))
        torch.testing.assert_close(apply(real, drawn)[4], apply(synthetic, drawn)[1])


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("shape", [(12, 1, 28, 28), (12, 3, 15, 10)])
def test_draw_per_image_equals_each_image_under_its_own_draw(family, shape):
    images, drawn = noise(*shape), draw((family,), 12, seeded())
    singles = []
    for i in range(12):
        own = Draw(family, {name: value[i : i + 1] for name, value in drawn.values.items()})
        singles.append(apply(images[i : i + 1], own))
    torch.testing.assert_close(apply(images, drawn), torch.cat(singles))


@pytest.mark.parametrize("family", ALL)
def test_a_draw_fits_images_of_any_size(family):
    drawn = draw((family,), 1, seeded())
    for shape in [(2, 1, 28, 28), (3, 3, 32, 32), (1, 3, 17, 24), (1, 1, 1, 1)]:
        assert apply(noise(*shape), drawn).shape == shape


# Each family against an independent implementation


def test_color_against_loops():
    images = noise(3, 3, 4, 5, dtype=torch.float64)
    strengths = [(0.3, 1.7, 0.6), (-0.4, 0.0, 1.5), (0.0, 1.0, 1.0)]
    brightness, saturation, contrast = zip(*strengths, strict=True)
    drawn = Draw(
        "color", values_of(brightness=brightness, saturation=saturation, contrast=contrast)
    )
    expected = images.numpy().copy()
    for n, (b, s, c) in enumerate(strengths):
        expected[n] += b
        for i in range(4):
            for j in range(5):
                grey = sum(expected[n, :, i, j]) / 3
                for channel in range(3):
                    expected[n, channel, i, j] = grey + s * (expected[n, channel, i, j] - grey)
        mean = expected[n].sum() / 60
        expected[n] = mean + c * (expected[n] - mean)
    np.testing.assert_allclose(apply(images, drawn).numpy(), expected, atol=1e-6)


def test_saturation_leaves_one_channel_as_it_is():
    images = noise(2, 1, 6, 6)
    drawn = Draw("color", values_of(brightness=0.0, saturation=0.1, contrast=1.0))
    torch.testing.assert_close(apply(images, drawn), images)


def test_flip_against_torchvision():
    images = noise(4, 3, 6, 7)
    drawn = Draw("flip", values_of(coin=[0.1, 0.9, 0.4999, 0.5]))
    expected = images.clone()
    expected[[0, 2]] = tv.hflip(images[[0, 2]])
    assert torch.equal(apply(images, drawn), expected)
    assert torch.equal(apply(images, Draw("flip", values_of(coin=0.2))), tv.hflip(images))


def test_half_of_the_images_are_flipped():
    images = torch.tensor([0.0, 1.0]).expand(4000, 1, 1, 2)
    flipped = apply(images, draw(("flip",), 4000, seeded()))[:, 0, 0, 0].mean()
    assert abs(flipped - 0.5) < 4 * 0.5 / math.sqrt(4000)


@pytest.mark.parametrize(("height", "width", "down", "across"), [(32, 32, 4, 4), (28, 20, 4, 3)])
def test_crop_against_torchvision(height, width, down, across):
    images = noise(2, 3, height, width)
    padded = tv.pad(images, [across, down])
    for top in range(2 * down + 1):
        for left in range(2 * across + 1):
            # The middle of the interval that belongs to this corner.
            row, column = (top + 0.5) / (2 * down + 1), (left + 0.5) / (2 * across + 1)
            expected = tv.crop(padded, top, left, height, width)
            shared = apply(images, Draw("crop", values_of(top=row, left=column)))
            each = apply(images, Draw("crop", values_of(top=[row] * 2, left=[column] * 2)))
            assert torch.equal(shared, expected)
            assert torch.equal(each, expected)


def test_every_crop_is_equally_likely():
    image = torch.arange(1.0, 257.0).view(1, 1, 16, 16)
    moved = apply(image.expand(5000, -1, -1, -1), draw(("crop",), 5000, seeded()))
    # With a margin of 2 pixels, pixel (8, 8) shows which of the 25 windows was cut.
    _, counts = moved[:, 0, 8, 8].unique(return_counts=True)
    assert len(counts) == 25
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("length", [4, 7, 8, 10, 28])
def test_cutout_covers_each_hole_of_half_the_side_clipped_at_the_border(length):
    size = (length + 1) // 2
    centres = [c for c in range(length + 1) if c < length or size % 2 == 0]
    for place, centre in enumerate(centres):
        position = (place + 0.5) / len(centres)
        drawn = Draw("cutout", values_of(row=position, column=0.5))
        kept = apply(torch.ones(1, 1, length, length), drawn)[0, 0]
        rows = [r for r in range(length) if centre - size // 2 <= r < centre - size // 2 + size]
        middle = centres[len(centres) // 2]
        columns = [c for c in range(length) if middle - size // 2 <= c < middle - size // 2 + size]
        expected = torch.ones(length, length)
        for r in rows:
            expected[r, columns] = 0
        assert torch.equal(kept, expected)


def test_cutout_takes_a_quarter_in_the_middle_and_a_sixteenth_in_the_corner():
    images = noise(3, 3, 32, 32)
    middle = apply(images, Draw("cutout", values_of(row=0.5, column=0.5)))
    corner = apply(images, Draw("cutout", values_of(row=0.0, column=0.999)))
    assert (middle == 0).sum() == 3 * 3 * 32 * 32 // 4
    assert (corner == 0).sum() == 3 * 3 * 32 * 32 // 16
    assert torch.equal(corner[:, :, 8:], images[:, :, 8:])
    assert torch.equal(corner[:, :, :8, :24], images[:, :, :8, :24])


def test_cutout_area_on_average():
    # 17 centres 0..16 on 16 pixels: rows covered are min(c + 4, 16) - max(c - 4, 0).
    side = sum(min(c + 4, 16) - max(c - 4, 0) for c in range(17)) / 17
    kept = apply(torch.ones(4000, 1, 16, 16), draw(("cutout",), 4000, seeded()))
    areas = (1 - kept).sum(dim=(1, 2, 3))
    assert abs(areas.mean() - side**2) < 4 * areas.std() / math.sqrt(4000)


def test_scale_against_a_bilinear_loop():
    images = noise(2, 2, 6, 9, dtype=torch.float64)
    x, y = [1.2, 0.85], [0.9, 1.1]
    scaled = apply(images, Draw("scale", values_of(x=x, y=y)))
    for n in range(2):
        expected = bilinear_loop(images[n], lambda v, u, n=n: (v * y[n], u * x[n]))
        torch.testing.assert_close(scaled[n], expected, atol=1e-6, rtol=0)


def test_rotate_against_a_bilinear_loop():
    images = noise(2, 2, 6, 9, dtype=torch.float64)
    rotated = apply(images, Draw("rotate", values_of(degrees=[13.0, -7.0])))
    for n, degrees in enumerate((13.0, -7.0)):
        turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))

        def source(v, u, turn=turn):
            point = complex(u, v) * turn
            return point.imag, point.real

        expected = bilinear_loop(images[n], source)
        torch.testing.assert_close(rotated[n], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("degrees", [-15.0, -3.5, 8.0, 15.0])
@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 3, 12, 20)])
def test_rotate_against_torchvision(degrees, shape):
    images = noise(*shape)
    expected = tv.rotate(images, degrees, InterpolationMode.BILINEAR)
    rotated = apply(images, Draw("rotate", values_of(degrees=degrees)))
    torch.testing.assert_close(rotated, expected, atol=1e-4, rtol=0)


def test_exact_angles_and_scales():
    images = noise(2, 3, 8, 8)
    quarter = apply(images, Draw("rotate", values_of(degrees=90.0)))
    half = apply(images, Draw("rotate", values_of(degrees=180.0)))
    mirrored = apply(images, Draw("scale", values_of(x=-1.0, y=1.0)))
    torch.testing.assert_close(quarter, images.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(half, images.flip(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(mirrored, images.flip(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["crop", "cutout"])
def test_the_largest_fraction_stays_inside(family):
    largest = 1 - 2**-24
    for length in range(1, 130):
        images = torch.ones(1, 1, length, 1)
        names = FAMILIES[family].ranges
        last = apply(images, Draw(family, values_of(**dict.fromkeys(names, largest))))
        near = apply(images, Draw(family, values_of(**dict.fromkeys(names, 1 - 1e-4))))
        assert last.shape == images.shape
        assert torch.equal(last, near)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("count", [1, 3])
def test_bf16_changes_no_augmentation(family, count):
    images, drawn = noise(3, 3, 16, 16), draw((family,), count, seeded())
    with precision("bf16", "cpu"):
        rounded = apply(images, drawn)
    assert torch.equal(rounded, apply(images, drawn))


# Gradients


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("count", [1, 3])
def test_gradients_are_those_of_finite_differences(family, count):
    images = noise(3, 3, 6, 6, dtype=torch.float64).requires_grad_()
    drawn = draw((family,), count, seeded(3))
    assert torch.autograd.gradcheck(lambda x: apply(x, drawn), images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: apply(x, drawn), images, fast_mode=True)
    (gradient,) = torch.autograd.grad(apply(images, drawn).square().sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def classify(weights, images):
    filters, head = weights
    return F.softplus(F.conv2d(images, filters)).flatten(1) @ head


def matching_problem(family):
    """Squared distance between the weights' gradients on a real and a synthetic batch."""
    weights = [noise(2, 1, 3, 3, seed=3, dtype=torch.float64)]
    weights.append(noise(2 * 4 * 4, 2, seed=4, dtype=torch.float64))
    real, drawn = noise(5, 1, 6, 6, dtype=torch.float64), draw((family,), 1, seeded(3))
    synthetic = noise(2, 1, 6, 6, seed=2, dtype=torch.float64)
    labels = {5: torch.tensor([0, 1, 0, 1, 1]), 2: torch.tensor([0, 1])}

    def loss(weights, images):
        logits = classify(weights, apply(images, drawn))
        return F.cross_entropy(logits, labels[len(images)])

    return weights, real, synthetic, loss


@pytest.mark.parametrize("family", ALL)
def test_gradient_matching_reaches_the_synthetic_images(family):
    weights, real, synthetic, loss = matching_problem(family)

    def distance(images):
        leaves = [weight.clone().requires_grad_() for weight in weights]
        target = torch.autograd.grad(loss(leaves, real), leaves)
        matched = torch.autograd.grad(loss(leaves, images), leaves, create_graph=True)
        return sum((a - b).square().sum() for a, b in zip(matched, target, strict=True))

    def functional_distance(images):
        gradient = torch.func.grad(loss)
        pairs = zip(gradient(weights, images), gradient(weights, real), strict=True)
        return sum((a - b).square().sum() for a, b in pairs)

    synthetic.requires_grad_()
    assert torch.autograd.gradcheck(distance, synthetic, fast_mode=True)
    (expected,) = torch.autograd.grad(distance(synthetic), synthetic)
    assert expected.abs().max() > 0
    actual = torch.func.grad(functional_distance)(synthetic.detach())
    torch.testing.assert_close(actual, expected)
