"""A ConvNet's blocks, each in fewer passes over memory: convolution, instance norm, ReLU, pooling.

On a processor, what follows a convolution costs a good part of what the convolution does. Two ways
around it:

- The first convolution sees few pixels at a place and is linear, so that the variance of what it
  gives follows from those pixels' covariance, and the norm can go into its kernel, one an image.
- Winograd's convolutions come in tiles of 16 pixels, channels last. Norm, ReLU and pooling take
  place on those, a few images at a time, where no gradients of weights are asked for.

Where neither is the faster, a block is its four layers, one after another.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ddlib import winograd
from ddlib.winograd import Convolution


class Blocks(nn.Sequential):
    """Layers one after another, but a convolution, instance norm, ReLU and average pooling at once.

    Like `nn.Sequential` but for rounding, and for hooks of layers that are passed at once, which
    do not run.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        layers = list(self)
        while layers:
            made = _pass(images, *layers[:2]) if _is_block(layers[:4]) else None
            if made is None:
                images = layers.pop(0)(images.contiguous())
            else:
                images, layers = made, layers[4:]
        return images


def _is_block(layers: Sequence[nn.Module]) -> bool:
    """Return whether layers are the four of a block, with an instance norm."""
    if [type(layer) for layer in layers] != [Convolution, nn.GroupNorm, nn.ReLU, AveragePool]:
        return False
    norm = layers[1]
    return norm.affine and norm.num_groups == norm.num_channels


def _pass(
    images: torch.Tensor, convolution: Convolution, norm: nn.GroupNorm
) -> torch.Tensor | None:
    """Return what their block makes of images (N, C, H, W), or None where its layers are faster.

    Images lie in memory in any order; what is returned has its channels last.
    """
    weights = (convolution.weight, convolution.bias, norm.weight, norm.bias)
    fixed = not (torch.is_grad_enabled() and any(each.requires_grad for each in weights))
    constant = fixed and not (torch.is_grad_enabled() and images.requires_grad)
    # The way back to three channels takes longer than it does layer by layer.
    few = convolution.in_channels <= (3 if constant else 1) and convolution.is_ours_for(images)
    if few and not any(side % 2 for side in _sides(images, convolution)):
        return _pass_patches(images, convolution, norm)
    if fixed and convolution.is_faster_for(images):
        return _Block.apply(images, convolution.weight, norm.weight, norm.bias, norm.eps)
    return None


def _pass_patches(
    images: torch.Tensor, convolution: Convolution, norm: nn.GroupNorm
) -> torch.Tensor:
    """Return a block of images (N, C, H, W), from the 9 C pixels that each place of it sees."""
    height, width = _sides(images, convolution)
    count, kernel = len(images), convolution.weight.flatten(1).T.contiguous()
    seen, outputs = kernel.shape  # 9 C
    above, left = convolution.padding
    padded = F.pad(images, (left, left, above, above))
    places = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 3, 3, height, width)
    fours = places.reshape(count, seen, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    patches = fours.reshape(count, seen, height * width)
    patches = patches - patches.mean(2, keepdim=True)
    covariance = torch.bmm(patches, patches.mT) / patches.shape[2]
    variance = (covariance @ kernel * kernel).sum(1, keepdim=True)  # (N, 1, outputs)
    scale = (variance + norm.eps).rsqrt() * norm.weight
    shift = norm.bias + 0 * convolution.bias  # which the norm takes away, with its gradient
    made = torch.baddbmm(shift, patches.mT, scale * kernel).relu_()
    pooled = made.view(count, 4, height // 2, width // 2, outputs).mean(1)
    return pooled.permute(0, 3, 1, 2)


def _sides(images: torch.Tensor, convolution: Convolution) -> tuple[int, int]:
    """Return height and width of what the convolution makes of images (N, C, H, W)."""
    (height, width), (above, left) = images.shape[-2:], convolution.padding
    return height + 2 * above - 2, width + 2 * left - 2


class AveragePool(nn.Module):
    """Average pooling of 2x2 pixels, as nn.AvgPool2d(2): an odd last row or column is left out.

    On a processor PyTorch's takes as long as half of its 3x3 convolution of 128 channels; four
    slices, added, take a tenth of that, and so does their gradient.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.device.type != "cpu":
            return F.avg_pool2d(images, 2)
        height, width = (size - size % 2 for size in images.shape[-2:])
        return _Halved.apply(images[..., :height, :width])


class _Halved(torch.autograd.Function):
    """Means of 2x2 pixels; its derivative is `_Spread`."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor) -> torch.Tensor:
        rows = images[..., 0::2, :] + images[..., 1::2, :]
        return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Spread.apply(gradient)


class _Spread(torch.autograd.Function):
    """Each pixel over 4, four times: the transpose of `_Halved`, and so its derivative."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor) -> torch.Tensor:
        *batch, height, width = images.shape
        quarters = images * 0.25
        spread = images.new_empty(*batch, height, 2, 2 * width)
        spread[..., 0, 0::2] = quarters
        spread[..., 0, 1::2] = quarters
        spread[..., 1, :] = spread[..., 0, :]
        return spread.flatten(-3, -2)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Halved.apply(gradient)


class _Block(torch.autograd.Function):
    """A block of images (N, C, H, W) through Winograd's convolution; no gradients but theirs.

    The convolution has no bias: the norm takes it away.
    """

    @staticmethod
    def forward(
        context: Any,
        images: torch.Tensor,
        kernel: torch.Tensor,
        gain: torch.Tensor,
        shift: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        mapped, pooled, kept = winograd.map_kernel(kernel), [], []
        for part in images.permute(0, 2, 3, 1).split(winograd.parts_of(images)):
            tiles = winograd.convolve(part, mapped).view(16, len(part), -1, len(kernel))
            tiles -= _mean(tiles)
            inverse = (_mean(tiles.square()) + eps).rsqrt()
            if context.needs_input_grad[0]:
                kept += [tiles, inverse]
            pooled.append(_pool(_activate(tiles, inverse, gain, shift), part.shape[:3]))
        context.save_for_backward(images, kernel, gain, shift, *kept)
        context.eps = eps
        return torch.cat(pooled).permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, kernel, gain, shift, *kept = context.saved_tensors
        if torch.is_grad_enabled():  # for a derivative of what is returned: layer by layer
            images = images.view_as(images)  # whose own hooks this is no business of
            made = winograd.Convolve.apply(images, kernel)
            made = F.group_norm(made, len(kernel), gain, shift, context.eps).relu_()
            pooled = _Halved.apply(made)
            (found,) = torch.autograd.grad(pooled, images, gradient, create_graph=True)
            return found, None, None, None, None
        mapped, made = winograd.map_kernel(kernel, turned=True), []
        given = gradient.permute(0, 2, 3, 1).split([tiles.shape[1] for tiles in kept[::2]])
        for part, tiles, inverse in zip(given, kept[::2], kept[1::2], strict=True):
            count, height, width, _ = part.shape
            back = _back(part, _activate(tiles, inverse, gain, shift))
            along = _mean(back * tiles) * inverse.square()
            back = (back - _mean(back)).addcmul_(tiles, along, value=-1).mul_(gain * inverse)
            rows = winograd.to_rows(back, (count, 2 * height, 2 * width))
            made.append(winograd.to_rows(winograd.convolve(rows, mapped), rows.shape[:3]))
        return torch.cat(made).permute(0, 3, 1, 2), None, None, None, None


def _mean(tiles: torch.Tensor) -> torch.Tensor:
    """Return the mean (N, 1, C) over the pixels of tiles (16, N, tiles, C)."""
    return tiles.sum(0).sum(1, keepdim=True).div_(16 * tiles.shape[2])


def _activate(
    centred: torch.Tensor, inverse: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Return the ReLU of tiles of mean zero, scaled by an inverse deviation (N, 1, C) and gain."""
    return torch.addcmul(shift, centred, inverse * gain).relu_()


def _pool(tiles: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the means (N, H / 2, W / 2, C) of four pixels of tiles; shape: their (N, H, W)."""
    count, height, width = shape
    fours = tiles.view(2, 2, 2, 2, -1)
    rows = fours[:, 0] + fours[:, 1]
    means = (rows[:, :, 0] + rows[:, :, 1]).mul_(0.25)
    return winograd.to_rows(means, (count, height // 2, width // 2), side=2)


def _back(rows: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    """Return the gradient of tiles, from that of `_pool`, rows (N, H, W, C), of their ReLU."""
    quarters = (winograd.to_blocks(rows, side=2) * 0.25).view(2, 1, 2, 1, -1)
    fours = active.view(2, 2, 2, 2, -1)
    return torch.ops.aten.threshold_backward(quarters.expand_as(fours), fours, 0).view_as(active)
