"""What the tests of diffusion share: a schedule, and the training of a small UNet."""

import numpy as np
from draws import stream

LINEAR = {"beta_schedule": "linear", "clip_sample": False}
JOB = {"channels": [8, 8], "steps": 40, "batch_size": 16, "learning_rate": 0.01}
ALPHAS_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # of the linear schedule


def streams(count):
    return [stream(number) for number in range(count)]
