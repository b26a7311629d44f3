"""3x3 convolutions with a quarter of the products: Winograd's F(4x4, 3x3), in float32.

A tile of 6x6 pixels, taken every 4 pixels, and a kernel become 36 numbers each by a linear map;
the products, summed over channels, become the 4x4 pixels of the result by another. That is 36
products a tile in the place of 144, and all of it matrix products, which a processor does at full
speed. Rounding grows: 2.5e-6 of a result's length against 6e-7 at 128 channels, and alike for
derivatives, which exist of every order.

Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.1.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

# With fewer the maps of pixels, or that of the kernel, cost more than the products save.
LEAST_CHANNELS, LEAST_TILES, LEAST_IMAGES = 96, 64, 4
TILES = 128  # at a time: what more make falls out of the cache

_PIXELS = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = torch.tensor(
    [[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
    dtype=torch.float64,
).div(24)
_RESULT = torch.tensor(
    [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)
# Both directions at once, on pixels in a row.
MAP_PIXELS, MAP_RESULT = torch.kron(_PIXELS, _PIXELS), torch.kron(_RESULT, _RESULT)
MAP_KERNEL = torch.kron(_KERNEL, _KERNEL).float()  # (36, 9); (36, 36) and (16, 36) the others

_MAPPED = WeakTensorKeyDictionary()  # kernel -> its version, and what `map_kernel` made of it


class Convolution(nn.Conv2d):
    """A 3x3 convolution with a bias and a stride of 1: Winograd's where that is faster.

    Elsewhere, and on accelerators and in other precisions, it is PyTorch's, to the byte.
    """

    def __init__(self, channels: int, outputs: int, padding: Any = 1):
        super().__init__(channels, outputs, 3, padding=padding)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.is_faster_for(images):
            return super().forward(images)
        return Convolve.apply(images, self.weight).add_(self.bias[:, None, None])

    def is_ours_for(self, images: torch.Tensor) -> bool:
        """Return whether images are float32 (N, C, H, W) on a processor, and its outputs many."""
        return (
            images.dim() == 4
            and images.shape[1] == self.in_channels
            and images.device.type == "cpu"
            and images.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and self.out_channels >= LEAST_CHANNELS
        )

    def is_faster_for(self, images: torch.Tensor) -> bool:
        """Return whether images (N, C, H, W) are many enough, and as they have to be."""
        if not self.is_ours_for(images) or self.padding != (1, 1):
            return False
        count, channels, height, width = images.shape
        return (
            channels >= LEAST_CHANNELS
            and height % 4 == width % 4 == 0
            and count >= LEAST_IMAGES
            and count * height * width >= 16 * LEAST_TILES
        )


class Convolve(torch.autograd.Function):
    """Images (N, C, H, W) convolved with a kernel (O, C, 3, 3); linear in each of the two.

    turned: with the kernel (C, O, 3, 3) that takes gradients, of O channels, back to images.
    """

    @staticmethod
    def forward(
        context: Any, images: torch.Tensor, kernel: torch.Tensor, turned: bool = False
    ) -> torch.Tensor:
        context.save_for_backward(images, kernel)
        context.turned = turned
        mapped, step = map_kernel(kernel, turned), parts_of(images)
        made = images.new_empty(len(images), mapped.shape[-1], *images.shape[-2:])
        for part, result in zip(images.split(step), made.split(step), strict=True):
            rows = part.permute(0, 2, 3, 1)
            result.copy_(to_rows(convolve(rows, mapped), rows.shape[:3]).permute(0, 3, 1, 2))
        return made

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, kernel = context.saved_tensors
        wanted, pair = context.needs_input_grad, (images, gradient)
        return (
            Convolve.apply(gradient, kernel, not context.turned) if wanted[0] else None,
            _Correlate.apply(*(pair[::-1] if context.turned else pair)) if wanted[1] else None,
            None,
        )


class _Correlate(torch.autograd.Function):
    """The gradient (O, C, 3, 3) of a kernel, from images and the gradient of their convolution."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(images, gradient)
        channels, outputs = images.shape[1], gradient.shape[1]
        total = images.new_zeros(36, outputs, channels)
        step = parts_of(images)
        for part, back in zip(images.split(step), gradient.split(step), strict=True):
            mapped = (MAP_PIXELS @ _tiles(part.permute(0, 2, 3, 1))).view(36, -1, channels)
            blocks = to_blocks(back.permute(0, 2, 3, 1))
            products = (MAP_RESULT.T @ blocks).view(36, -1, outputs)
            total.baddbmm_(products.transpose(1, 2), mapped)
        return (MAP_KERNEL.T @ total.view(36, -1)).T.reshape(outputs, channels, 3, 3)

    @staticmethod
    def backward(context: Any, direction: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, gradient = context.saved_tensors
        wanted = context.needs_input_grad
        return (
            Convolve.apply(gradient, direction, True) if wanted[0] else None,
            Convolve.apply(images, direction) if wanted[1] else None,
        )


def parts_of(images: torch.Tensor) -> int:
    """Return how many images (N, C, H, W) are worked on at a time."""
    return max(1, TILES * 16 // (images.shape[-2] * images.shape[-1]))


def map_kernel(kernel: torch.Tensor, turned: bool = False) -> torch.Tensor:
    """Return the 36 numbers of each kernel (O, C, 3, 3): (36, C, O); or (36, O, C) if turned.

    Those of a kernel that is not being trained are kept for as long as it lives, or until PyTorch
    counts a change to it, which it does for operations on it and not for those on its `data`.
    """
    if kernel.requires_grad or kernel.is_inference():
        return _map(kernel, turned)
    version, kept = _MAPPED.get(kernel, (None, {}))
    if version != kernel._version:
        kept = {}
        _MAPPED[kernel] = kernel._version, kept
    if turned not in kept:
        kept[turned] = _map(kernel, turned)
    return kept[turned]


def _map(kernel: torch.Tensor, turned: bool) -> torch.Tensor:
    ordered = kernel.flip(2, 3).permute(2, 3, 0, 1) if turned else kernel.permute(2, 3, 1, 0)
    return (MAP_KERNEL @ ordered.reshape(9, -1)).view(36, *ordered.shape[2:])


def convolve(rows: torch.Tensor, mapped: torch.Tensor) -> torch.Tensor:
    """Return the 16 pixels of all blocks, (16, N * blocks * O), of images (N, H, W, C) convolved.

    mapped: the kernel, as `map_kernel` gives it.
    """
    products = torch.bmm((MAP_PIXELS @ _tiles(rows)).view(36, -1, rows.shape[-1]), mapped)
    return MAP_RESULT @ products.view(36, -1)


def to_rows(blocks: torch.Tensor, shape: Sequence[int], side: int = 4) -> torch.Tensor:
    """Return images (N, H, W, O), of the first three numbers in shape, from `to_blocks`."""
    count, height, width = shape
    placed = blocks.view(side, side, count, height // side, width // side, -1)
    return placed.permute(2, 3, 0, 4, 1, 5).reshape(count, height, width, -1)


def to_blocks(rows: torch.Tensor, side: int = 4) -> torch.Tensor:
    """Return the pixels of all blocks of images (N, H, W, C): (side^2, N * blocks * C)."""
    count, height, width, channels = rows.shape
    split = rows.reshape(count, height // side, side, width // side, side, channels)
    return split.permute(2, 4, 0, 1, 3, 5).reshape(side * side, -1)


def _tiles(rows: torch.Tensor) -> torch.Tensor:
    """Return the 36 pixels of all tiles of padded images (N, H, W, C): (36, N * tiles * C)."""
    count, height, width, channels = rows.shape
    padded = rows.new_empty(count, height + 2, width + 2, channels)
    padded[:, :: height + 1] = padded[:, :, :: width + 1] = 0
    padded[:, 1:-1, 1:-1] = rows
    return padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
