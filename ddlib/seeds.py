"""Random streams that depend on names, not on the order in which they are asked for."""

import hashlib

import torch


def generator(*keys: object) -> torch.Generator:
    """Return a fresh CPU generator for the stream that `keys` name.

    Equal keys give equal streams in every process; different keys give independent ones. A
    method that draws its real batches from `generator("real", seed)` sees the same batches
    whichever other streams are open, so sizes k can be distilled together or one by one.
    """
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
