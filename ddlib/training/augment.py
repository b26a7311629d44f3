"""Augmentation: the transformations of DSA, and mixup and cutmix.

DSA is differentiable siamese augmentation (Zhao & Bilen, ICML 2021). `draw` draws one family and
its strengths; `apply` transforms images by them. A draw of count 1 is siamese: it transforms all
real and all synthetic images alike. A draw of count N gives each of N images its own strengths, as
in the training of a network.

Images are normalised, so a zero is the mean pixel of the data set.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ddlib.devices import send, unrounded
from ddlib.parameters import check_names

CROP_FRACTION = 0.125  # largest shift, of the image's side
CUTOUT_FRACTION = 0.5  # side of the hole, of the image's side
FLIP_PROBABILITY = 0.5
LARGEST_SCALE = 1.2
LARGEST_ROTATION = 15.0  # degrees


@dataclass(frozen=True, eq=False)
class Draw:
    """One drawn transformation: its family ("none": the identity), and its strengths by name.

    values: tensors (count,) on the CPU. Positions are fractions in [0, 1), so a draw fits images of
    any size.
    """

    family: str
    values: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A family of transformations: (images, **strengths) -> images, and each strength's range."""

    transform: Callable[..., Tensor]
    ranges: Mapping[str, tuple[float, float]]


def draw(families: Sequence[str], count: int, generator: torch.Generator) -> Draw:
    """Draw one of the families, all equally likely, and uniform strengths for `count` images.

    families: names of FAMILIES, such as STRATEGIES["dsa"]; none give the identity. count: 1 for a
    siamese draw. Raises ValueError for an unknown family or a count below 1. Source: DSA, section
    3.2; one family for a batch is the reference's mode 'S'.
    """
    check_names(families, FAMILIES, "augmentation family")
    if count < 1:
        raise ValueError(f"count={count} images cannot be augmented; choose count >= 1")
    if not families:
        return Draw("none")
    family = families[torch.randint(len(families), (), generator=generator).item()]
    return Draw(family, _strengths(FAMILIES[family], count, generator))


def _strengths(family: Family, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        name: low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float32)
        for name, (low, high) in family.ranges.items()
    }


def apply(images: Tensor, drawn: Draw) -> Tensor:
    """Transform normalised images (N, channels, H, W) by a draw; same shape, differentiable.

    Raises ValueError when the draw's count is neither 1 nor N.
    """
    if not drawn.values:
        return images
    count = len(next(iter(drawn.values.values())))
    if count not in (1, len(images)):
        raise ValueError(
            f"the draw holds strengths for {count} images but the batch has {len(images)}; "
            f"draw with count=1 (shared by all) or count={len(images)}"
        )
    return _transformed(images, FAMILIES[drawn.family], drawn.values)


def _transformed(images: Tensor, family: Family, strengths: Mapping[str, Tensor]) -> Tensor:
    strengths = {name: send(value, images.device) for name, value in strengths.items()}
    return family.transform(images, **strengths)


def _color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Add brightness, then scale saturation about each pixel's grey, then contrast about the mean.

    Saturation does not change images of one channel.
    """
    brightness, saturation, contrast = (
        value.to(images.dtype).view(-1, 1, 1, 1) for value in (brightness, saturation, contrast)
    )
    images = images + brightness
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * saturation + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * contrast + mean


def _crop(images: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Pad with zeros, then cut out a window of the old size at a whole-pixel corner."""
    height, width = images.shape[-2:]
    margin_y, margin_x = _rounded(CROP_FRACTION * height), _rounded(CROP_FRACTION * width)
    padded = F.pad(images, (margin_x, margin_x, margin_y, margin_y))
    top, left = _position(top, 2 * margin_y + 1), _position(left, 2 * margin_x + 1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    # Gathering from flat images takes a third of the time of indexing by row and column.
    pixels = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).flatten(1)
    pixels = pixels[:, None].expand(len(images), images.shape[1], -1)
    return padded.flatten(2).gather(2, pixels).view(images.shape)


def _cutout(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Zero a rectangle of half the height and half the width, at most a quarter of the image.

    Its centre is uniform over the image, so the border may clip it (as in the reference).
    """
    rows, columns = _hole(row, images.shape[-2]), _hole(column, images.shape[-1])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _hole(fraction: Tensor, length: int) -> Tensor:
    """Return which of `length` rows or columns the hole covers: bool (count, length)."""
    size = _rounded(CUTOUT_FRACTION * length)
    # The centre of an even hole lies between pixels or at a border: one more place than pixels.
    start = _position(fraction, length + 1 - size % 2)[:, None] - size // 2
    index = torch.arange(length, device=fraction.device)
    return (index >= start) & (index < start + size)


def _flip(images: Tensor, coin: Tensor) -> Tensor:
    return torch.where((coin < FLIP_PROBABILITY).view(-1, 1, 1, 1), images.flip(-1), images)


def _scale(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Stretch the sampling grid about the centre: above 1 shrinks the content, below 1 enlarges."""
    return _warp(images, torch.diag_embed(torch.stack((x, y), dim=1)))


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate the content about the centre, anticlockwise for positive degrees."""
    radians = torch.deg2rad(degrees)
    cosine, sine = radians.cos(), radians.sin()
    # Both sides of the grid run from -1 to 1: without the aspect, rectangles would be sheared.
    aspect = images.shape[-1] / images.shape[-2]
    matrices = torch.stack((cosine, -sine / aspect, sine * aspect, cosine), dim=1)
    return _warp(images, matrices.view(-1, 2, 2))


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Sample images bilinearly, zero outside, at matrices (count, 2, 2) times the output's grid."""
    return _sample(images, F.pad(matrices, (0, 1)), images.shape[2:], "zeros")


def _sample(images: Tensor, affine: Tensor, sides: Sequence[int], outside: str) -> Tensor:
    """Sample images bilinearly at the grid of a result of `sides`, moved by affine (count, 2, 3).

    outside: grid_sample's name for the values beyond the border.
    """
    shape = (len(affine), images.shape[1], *sides)
    with unrounded(images.device):
        grid = F.affine_grid(affine.to(images.dtype), shape, align_corners=False)
        grid = grid.expand(len(images), -1, -1, -1)
        return F.grid_sample(images, grid, "bilinear", outside, align_corners=False)


def resized_crops(
    images: Tensor, smallest: float, sides: Sequence[int], generator: torch.Generator
) -> Tensor:
    """Cut a random part out of each image, and resize it bilinearly; differentiable.

    images: (N, channels, H, W); smallest: the least share of the area of an image that a part has;
    shares are uniform up to 1, and parts have the proportions of the images. sides: height and
    width of the result. Source: random resized crops of Szegedy et al. (CVPR 2015), of one aspect.
    """
    draws = torch.rand(3, len(images), generator=generator, dtype=torch.float32)
    scale = (smallest + (1 - smallest) * draws[0]).sqrt()
    centres = (2 * draws[1:] - 1) * (1 - scale)  # (2, N), of images from -1 to 1
    matrices = torch.cat([torch.diag_embed(torch.stack([scale] * 2, 1)), centres.T[..., None]], 2)
    return _sample(images, send(matrices, images.device), sides, "border")


def _rounded(pixels: float) -> int:
    """Nearest whole number of pixels, halves up."""
    return int(pixels + 0.5)


def _position(fraction: Tensor, places: int) -> Tensor:
    """Map fractions in [0, 1) to whole numbers 0 .. places - 1, all equally likely."""
    return (fraction * places).long()


FAMILIES: dict[str, Family] = {
    "color": Family(
        _color, {"brightness": (-0.5, 0.5), "saturation": (0.0, 2.0), "contrast": (0.5, 1.5)}
    ),
    "crop": Family(_crop, {"top": (0.0, 1.0), "left": (0.0, 1.0)}),
    "cutout": Family(_cutout, {"row": (0.0, 1.0), "column": (0.0, 1.0)}),
    "flip": Family(_flip, {"coin": (0.0, 1.0)}),
    "scale": Family(_scale, dict.fromkeys("xy", (1 / LARGEST_SCALE, LARGEST_SCALE))),
    "rotate": Family(_rotate, {"degrees": (-LARGEST_ROTATION, LARGEST_ROTATION)}),
}

# Digits are not mirrored: a mirrored 2 is not a 2.
STRATEGIES: dict[str, tuple[str, ...]] = {
    "none": (),
    "dsa": tuple(FAMILIES),
    "dsa_no_flip": tuple(name for name in FAMILIES if name != "flip"),
}

STAGES = {name: [families] for name, families in STRATEGIES.items()}
STAGES["flip_crop"] = [("flip",), ("crop",)]  # one after the other
ONE_OF_EACH = (  # with their strengths in DC's evaluation on MNIST
    FAMILIES["crop"],
    Family(lambda images, x, y: _scale(images, 1 / x, 1 / y), dict.fromkeys("xy", (0.8, 1.2))),
    Family(_rotate, {"degrees": (-45.0, 45.0)}),
)
AUGMENTATIONS = (*STAGES, "crop_scale_rotate", "mixup", "cutmix")

Targets = list[tuple[float, Tensor]]
"""Pairs (weight, labels (N,) or (N, C)): the loss is the weighted sum; the weights add up to 1."""
Batch = tuple[Tensor, Targets]


def augmented(
    images: Tensor, labels: Tensor, augmentation: str, generator: torch.Generator
) -> Batch:
    """Augment a batch (N, channels, H, W) by one of AUGMENTATIONS; return it with its targets.

    crop_scale_rotate gives each image one of ONE_OF_EACH, as DC's evaluation on MNIST does (Zhao et
    al., ICLR 2021). mixup (Zhang et al., ICLR 2018) blends each image with another one of the
    batch; cutmix (Yun et al., ICCV 2019) pastes a rectangle of another one. The weight of an
    image's own label is drawn uniformly once per batch, which is their alpha of 1.
    """
    if augmentation in STAGES:
        for families in STAGES[augmentation]:
            images = apply(images, draw(families, len(images), generator))
        return images, [(1.0, labels)]
    if augmentation == "crop_scale_rotate":
        return _one_of_each(images, generator), [(1.0, labels)]
    others = send(torch.randperm(len(images), generator=generator), images.device)
    share, *centre = torch.rand(3, generator=generator, dtype=torch.float32).tolist()
    if augmentation == "mixup":
        mixed = share * images + (1 - share) * images[others]
    else:
        rows, columns = (
            _span(size, fraction, math.sqrt(1 - share))
            for size, fraction in zip(images.shape[-2:], centre, strict=True)
        )
        mixed = images.clone()
        mixed[..., rows, columns] = images[others][..., rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1 - pasted / math.prod(images.shape[-2:])
    return mixed, [(share, labels), (1 - share, labels[others])]


def _one_of_each(images: Tensor, generator: torch.Generator) -> Tensor:
    """Transform each image by one of ONE_OF_EACH, all equally likely, with strengths of its own."""
    count, device = len(images), images.device
    chosen = torch.randint(len(ONE_OF_EACH), (count,), generator=generator)
    versions = [
        _transformed(images, family, _strengths(family, count, generator)) for family in ONE_OF_EACH
    ]
    return torch.stack(versions)[send(chosen, device), torch.arange(count, device=device)]


def _span(size: int, centre: float, share: float) -> slice:
    """Return the slice of `share` of `size` pixels around a centre in [0, 1), within the image."""
    middle, half = int(centre * size), int(share * size) // 2
    return slice(max(middle - half, 0), min(middle + half, size))
