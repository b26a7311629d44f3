"""Random streams that are found by name, so the order of the calls does not matter."""

import hashlib

import torch


def generator(*keys: object) -> torch.Generator:
    """Return a fresh CPU generator for the stream with the name `keys`.

    Equal keys give equal streams in every process; different keys give independent streams. So a
    method that draws real batches from `generator("real", seed)` draws the same batches whether
    sizes k are distilled together or one by one.
    """
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
