"""Random streams that are found by name, so the order of the calls does not matter."""

import hashlib

import numpy as np
import torch


def generator(*keys: object) -> torch.Generator:
    """Return a fresh CPU generator for the stream with the name `keys`.

    keys: text, Python's numbers, and tuples of them; 1, 1.0, True and "1" are different keys.
    Equal keys give equal streams in every process; different keys give independent streams. So a
    method that draws real batches from `generator("real", seed)` draws the same batches whether
    sizes k are distilled together or one by one. Raises TypeError for a number of NumPy, whose
    stream would be another than that of the equal number of Python.
    """
    _check(keys)
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _check(keys: tuple[object, ...]) -> None:
    for key in keys:
        if isinstance(key, np.generic):
            raise TypeError(f"{key!r} is no key of a stream; give Python's own, {key.item()!r}")
        if isinstance(key, tuple):
            _check(key)
