"""One copy of a data set for all processes of a study: a file that each process maps into memory.

The operating system keeps one copy in memory for all processes, and reads a page when a process
first needs it. Workers neither decode images nor load the libraries that do.
"""

import json
from pathlib import Path

import safetensors
import safetensors.torch

from ddlib.data.base import DataSet, Pixels, Split, data_digest, stored
from ddlib.data.normalise import pack, unpack
from ddlib.files import reading, write_atomically


def one_copy(dataset: DataSet, digest: str, path: Path) -> DataSet:
    """Return the data set mapped from `path`; write the file first if it is missing.

    digest: the `data_digest` of the data set. Raises ValueError as `read` does.
    """
    if not path.exists():
        tensors, normalisation = pack(dataset.normalisation)
        whites = {}
        for name in ("train", "test"):
            split = getattr(dataset, name)
            tensors[f"{name}.samples"], whites[name] = stored(split)
            tensors[f"{name}.labels"] = split.labels
        about = {"name": dataset.name, "classes": dataset.classes, "kind": dataset.kind}
        text = json.dumps({**about, "whites": whites, "normalisation": normalisation})
        write_atomically(path, safetensors.torch.save(tensors, {"data": text}))
    return read(path, digest)


def read(path: Path, digest: str) -> DataSet:
    """Return the data set in the file, mapped into memory.

    Raises ValueError, with the path, if the file is damaged or has another `data_digest`.
    """
    with reading(path):
        with safetensors.safe_open(str(path), "pt") as file:
            about = json.loads(file.metadata()["data"])
            normalisation, splits = unpack(about.pop("normalisation"), file.get_tensor), {}
            for name, white in about.pop("whites").items():
                samples = file.get_tensor(f"{name}.samples")
                if white is not None:
                    samples = Pixels(samples, normalisation, white)
                splits[name] = Split(samples, file.get_tensor(f"{name}.labels"))
        about["classes"] = tuple(about["classes"])
        dataset = DataSet(**about, **splits, normalisation=normalisation)
        if data_digest(dataset) != digest:
            raise ValueError("it holds other data than this study's")
    return dataset
