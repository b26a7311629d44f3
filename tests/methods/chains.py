"""What the tests of diffusion share: a schedule, and draws."""

import numpy as np
import torch

LINEAR = {"beta_schedule": "linear", "clip_sample": False}
ALPHAS_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # of the linear schedule


def streams(count):
    return [torch.Generator().manual_seed(number) for number in range(count)]


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
