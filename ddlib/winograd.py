"""3x3 convolutions with a quarter of the products: Winograd's F(4x4, 3x3), in float32.

A tile of 6x6 pixels, taken every 4 pixels, and a kernel become 36 numbers each by a linear map;
the products, summed over channels, become the 4x4 pixels of the result by another. That is 36
products a tile in the place of 144, and all of it matrix products, which a processor does at full
speed. Rounding grows: 2.5e-6 of a result's length against 6e-7 at 128 channels, and alike for
derivatives, which exist of every order.

Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.1.
"""

from typing import Any

import torch
from torch import nn

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


class Convolution(nn.Conv2d):
    """A 3x3 convolution with a bias and a stride of 1: Winograd's where that is faster.

    Elsewhere, and on accelerators and in other precisions, it is PyTorch's, to the byte.
    """

    def __init__(self, channels: int, outputs: int, padding: Any = 1):
        super().__init__(channels, outputs, 3, padding=padding)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.is_faster_for(images):
            return super().forward(images)
        return _Convolve.apply(images, self.weight).add_(self.bias[:, None, None])

    def is_faster_for(self, images: torch.Tensor) -> bool:
        """Return whether images (N, C, H, W) are many enough, and as they have to be."""
        if images.dim() != 4 or images.shape[1] != self.in_channels or self.padding != (1, 1):
            return False
        count, channels, height, width = images.shape
        return (
            images.device.type == "cpu"
            and images.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and min(channels, self.out_channels) >= LEAST_CHANNELS
            and height % 4 == width % 4 == 0
            and count >= LEAST_IMAGES
            and count * height * width >= 16 * LEAST_TILES
        )


class _Convolve(torch.autograd.Function):
    """Images (N, C, H, W) convolved with a kernel (O, C, 3, 3); linear in each of the two."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(images, kernel)
        count, (outputs, channels) = len(images), kernel.shape[:2]
        height, width = images.shape[-2:]
        mapped = (MAP_KERNEL @ kernel.reshape(-1, 9).T).view(36, outputs, channels).transpose(1, 2)
        made = images.new_empty(count, outputs, height, width)
        step = _step(images)
        for part, result in zip(images.split(step), made.split(step), strict=True):
            products = torch.bmm((MAP_PIXELS @ _tiles(part)).view(36, -1, channels), mapped)
            result.copy_(_pixels(MAP_RESULT @ products.view(36, -1), result.shape))
        return made

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, kernel = context.saved_tensors
        wanted = context.needs_input_grad
        return (
            _Convolve.apply(gradient, _turned(kernel)) if wanted[0] else None,
            _Correlate.apply(images, gradient) if wanted[1] else None,
        )


class _Correlate(torch.autograd.Function):
    """The gradient (O, C, 3, 3) of a kernel, from images and the gradient of their convolution."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(images, gradient)
        channels, outputs = images.shape[1], gradient.shape[1]
        total = images.new_zeros(36, outputs, channels)
        step = _step(images)
        for part, back in zip(images.split(step), gradient.split(step), strict=True):
            mapped = (MAP_PIXELS @ _tiles(part)).view(36, -1, channels)
            products = (MAP_RESULT.T @ _blocks(back)).view(36, -1, outputs)
            total.baddbmm_(products.transpose(1, 2), mapped)
        return (MAP_KERNEL.T @ total.view(36, -1)).T.reshape(outputs, channels, 3, 3)

    @staticmethod
    def backward(context: Any, direction: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, gradient = context.saved_tensors
        wanted = context.needs_input_grad
        return (
            _Convolve.apply(gradient, _turned(direction)) if wanted[0] else None,
            _Convolve.apply(images, direction) if wanted[1] else None,
        )


def _turned(kernel: torch.Tensor) -> torch.Tensor:
    """Return the kernel (C, O, 3, 3) that takes gradients back to images."""
    return kernel.flip(2, 3).transpose(0, 1)


def _step(images: torch.Tensor) -> int:
    """Return how many images are worked on at a time."""
    return max(1, TILES * 16 // (images.shape[-2] * images.shape[-1]))


def _tiles(images: torch.Tensor) -> torch.Tensor:
    """Return the 36 pixels of all tiles of padded images (N, C, H, W): (36, N * tiles * C)."""
    count, channels, height, width = images.shape
    padded = images.new_zeros(count, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = images.permute(0, 2, 3, 1)
    return padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3).reshape(36, -1)


def _blocks(images: torch.Tensor) -> torch.Tensor:
    """Return the 16 pixels of all blocks of images (N, C, H, W): (16, N * blocks * C)."""
    count, channels, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).contiguous()
    blocks = rows.view(count, height // 4, 4, width // 4, 4, channels)
    return blocks.permute(2, 4, 0, 1, 3, 5).reshape(16, -1)


def _pixels(blocks: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return images of a shape (N, C, H, W), a view in another order, from `_blocks`."""
    count, channels, height, width = shape
    placed = blocks.view(4, 4, count, height // 4, width // 4, channels)
    rows = placed.permute(2, 3, 0, 4, 1, 5).reshape(count, height, width, channels)
    return rows.permute(0, 3, 1, 2)
