"""The schedule of the tests of diffusion."""

import numpy as np
from draws import stream

LINEAR = {"beta_schedule": "linear", "clip_sample": False}
ALPHAS_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # of the linear schedule


def streams(count):
    return [stream(number) for number in range(count)]
