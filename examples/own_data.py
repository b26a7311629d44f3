"""Data of one's own, from any arrays. Here: is a handwritten digit even or odd?"""

import numpy as np
from sklearn.datasets import load_digits

from ddlib.data.base import RawSplit
from ddlib.data.sources import DATASETS, Source


def read_parity(root, options):
    digits = load_digits()
    images = digits.images.astype(np.uint8)  # (N, H, W) or (N, H, W, channels), 0 to white
    labels = digits.target % 2
    parts = slice(0, 1200), slice(1200, None)  # to train on, to test on
    return [RawSplit(images[p], labels[p], ("even", "odd"), white=16) for p in parts]


DATASETS["parity"] = Source(read_parity)
