"""A network of one's own: the block of ConvNeXt (Liu et al., CVPR 2022) on small images."""

from torch import nn

from ddlib.networks.layers import Network
from ddlib.networks.zoo import NETWORKS


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        spatial = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.GroupNorm(1, width)
        mixing = nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1)
        self.layers = nn.Sequential(*spatial, *mixing)

    def forward(self, images):
        return images + self.layers(images)


def convnext(sample_shape, class_count, width: int = 64, depth: int = 2):
    first = nn.Conv2d(sample_shape[0], width, 2, stride=2), nn.GroupNorm(1, width)
    blocks = *(Block(width) for _ in range(depth)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return Network(nn.Sequential(*first, *blocks), nn.Linear(width, class_count))


NETWORKS["convnext"] = convnext
