"""Distilled sets to look at: images, points in a plane of D, and the nearest rows or texts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ddlib.data.base import DataSet
from ddlib.data.load import training_texts
from ddlib.data.sources import DATASETS, Source
from ddlib.data.tables import rows
from ddlib.data.text import nearest_texts, nearest_tokens
from ddlib.distilled import DistilledSet
from ddlib.figures.sets import png_address

REAL = 300  # samples of D that are points, at most
FITTED = 2000  # samples of D whose principal components are the plane, at most
SIDE = 56  # pixels of an image, at least
CLASSES = 10  # in a table of nearest rows or texts, at most


def to_draw(sets: list[DistilledSet], dataset: DataSet) -> pd.DataFrame:
    """Return what `ddlib.figures.sets.distilled_sets` draws: images, or points of other samples."""
    if dataset.kind == "image":
        return images(sets)
    return points(sets, dataset)


def images(sets: list[DistilledSet]) -> pd.DataFrame:
    """Return the first image of each class of each set: method, ipc, k, label, class_name, url.

    url: a PNG data address of the image, enlarged to at least SIDE pixels.
    """
    rows = []
    for synthetic in sets:
        firsts = synthetic.pixels()[:: synthetic.ipc]
        factor = max(1, -(-SIDE // max(firsts.shape[1:3])))
        enlarged = firsts.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        for label, pixels in enumerate(enlarged):
            url = png_address(Image.fromarray(pixels.squeeze(-1).numpy()))
            size = (synthetic.method, synthetic.ipc, synthetic.k)
            rows.append((*size, label, synthetic.classes[label], url))
    return pd.DataFrame(rows, columns=["method", "ipc", "k", "label", "class_name", "url"])


def points(sets: list[DistilledSet], dataset: DataSet, count: int = REAL) -> pd.DataFrame:
    """Return samples of D and of S in the plane of the first two principal components of D.

    Sequences (T, E) count as vectors (T E). The points of D are `count` training samples, evenly
    spaced. Columns: set ("D" or "S"), method and k (missing for D), class_name, x, y, and x_share
    and y_share of the variance of D.
    """
    from sklearn.decomposition import PCA

    sample = _spread(len(dataset.train.labels), count)
    real = _flat(dataset.train.at(sample))
    fitted = _flat(dataset.train.at(_spread(len(dataset.train.labels), FITTED)))
    plane = PCA(2, random_state=0).fit(fitted)
    shares = dict(zip(("x_share", "y_share"), plane.explained_variance_ratio_, strict=True))
    classes = np.array(dataset.classes)

    def placed(values: np.ndarray, labels: torch.Tensor, **described: Any) -> pd.DataFrame:
        x, y = plane.transform(values).T
        names = classes[labels.cpu().numpy()]
        return pd.DataFrame({**described, "class_name": names, "x": x, "y": y, **shares})

    parts = [placed(real, dataset.train.labels[sample], set="D", method=None, k=pd.NA)]
    for synthetic in sets:
        described = {"set": "S", "method": synthetic.method, "k": synthetic.k}
        parts.append(placed(_flat(synthetic.samples), synthetic.hard_labels, **described))
    return pd.concat([part.astype({"k": "Int64"}) for part in parts], ignore_index=True)


def _spread(total: int, count: int) -> torch.Tensor:
    """Return up to `count` of `total` rows, evenly spaced."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).long()


def _flat(samples: torch.Tensor) -> np.ndarray:
    """Return samples as vectors, with a zero at the end: a plane needs two values."""
    return np.pad(samples.flatten(1).double().cpu().numpy(), ((0, 0), (0, 1)))


def nearest(
    sets: list[DistilledSet], dataset: DataSet, data: Mapping[str, Any]
) -> pd.DataFrame | None:
    """Return the first sample of each class in the smallest set of each method, as people read it.

    This is the nearest row of a table, the nearest of all texts in the training file, also of those
    that `data` leaves out, or the nearest tokens. data: the name and the options of the data set,
    as in `Settings.data`. None for other data.
    """
    read_here = DATASETS.get(data["name"], Source()).read is None  # not by an extension
    is_text = read_here and dataset.name.endswith(f"_{data['form']}")
    if dataset.kind == "image" or not (dataset.normalisation.columns or is_text):
        return None
    by_size = sorted(sets, key=lambda synthetic: synthetic.k, reverse=True)
    smallest = {synthetic.method: synthetic for synthetic in by_size}
    tables = []
    for synthetic in sets:
        if synthetic is not smallest[synthetic.method]:
            continue
        samples = synthetic.samples[:: synthetic.ipc][:CLASSES]
        table = _read(samples, dataset, data)
        table.insert(0, "method", synthetic.method)
        table.insert(1, "k", synthetic.k)
        table.insert(2, "class", synthetic.classes[:CLASSES])
        tables.append(table)
    return pd.concat(tables, ignore_index=True).round(2) if tables else None


def _read(samples: torch.Tensor, dataset: DataSet, data: Mapping[str, Any]) -> pd.DataFrame:
    normalisation = dataset.normalisation
    if normalisation.columns:
        return rows(samples, normalisation)
    if dataset.kind == "sequence":
        tokens = nearest_tokens(samples, normalisation)
        return pd.DataFrame({"nearest tokens": [" ".join(words) for words in tokens]})
    texts = nearest_texts(samples, normalisation, training_texts(data["name"]))
    return pd.DataFrame({"nearest text": texts})
