"""Points of D and S in a plane, and the nearest rows, texts and tokens."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from draws import labelled, noise

from ddlib import pictures
from ddlib.data.load import load
from ddlib.data.normalise import Normalisation
from ddlib.data.sources import DATASETS, Source
from ddlib.distilled import DistilledSet


def vectors(values, kind="vector"):
    return labelled(values, "ab", Normalisation((0.0,) * 3, (1.0,) * 3), kind)


def distilled(dataset, values, ipc=1):
    labels = torch.arange(2).repeat_interleave(ipc)
    fields = {"data": dataset.name, "method": "dm", "parameters": {}, "seed": 0}
    return DistilledSet(values, labels, dataset.normalisation, dataset.classes, **fields)


@pytest.mark.parametrize(("kind", "shape"), [("vector", (3,)), ("sequence", (2, 3))])
def test_points_are_numpys_principal_components(kind, shape):
    dataset = vectors(noise(8, *shape), kind)
    synthetic = distilled(dataset, noise(4, *shape, seed=2), ipc=2)
    table = pictures.to_draw([synthetic], dataset)
    real, small = (values.double().flatten(1).numpy() for values in
                   (dataset.train.samples, synthetic.samples))  # fmt: skip
    centre = real.mean(0)
    _, scales, axes = np.linalg.svd(real - centre)
    placed = np.concatenate([real - centre, small - centre]) @ axes[:2].T
    assert np.allclose(np.abs(table[["x", "y"]]), np.abs(placed))
    assert np.allclose(table[["x_share", "y_share"]], scales[:2] ** 2 / (scales**2).sum())
    assert table["class_name"].tolist() == ["a", "b"] * 4 + ["a", "a", "b", "b"]
    assert table["set"].tolist() == ["D"] * 8 + ["S"] * 4
    assert table["k"].tolist()[8:] == [4] * 4


def test_a_sample_of_one_value_has_a_place_too_and_d_is_thinned_evenly():
    dataset = vectors(torch.arange(8.0)[:, None])
    table = pictures.points([distilled(dataset, torch.tensor([[3.5], [5.5]]))], dataset, count=3)
    assert table["class_name"].tolist() == ["a", "b", "b", "a", "b"]  # the samples 0, 3 and 7
    distances = np.hypot(table["x"] - table["x"][0], table["y"] - table["y"][0])
    assert np.allclose(distances, [0, 3, 7, 3.5, 5.5])


def test_the_first_sample_of_each_class_of_the_smallest_sets_is_read():
    wine = load("wine")
    first = [int((wine.train.labels == label).nonzero()[0]) for label in range(3)]
    values = wine.train.samples[first]
    sets = [distilled(wine, values), distilled(wine, values.repeat(2, 1))]
    sets = [replace(small, labels=torch.arange(3).repeat_interleave(n)) for n, small in
            zip((1, 2), sets, strict=True)]  # fmt: skip
    table = pictures.nearest(sets, wine, {"name": "wine", "form": "document"})
    assert table["class"].tolist() == ["class_0", "class_1", "class_2"]
    assert table["k"].tolist() == [3] * 3
    pixels = wine.normalisation.denormalise(values)
    assert np.allclose(table["alcohol"], pixels[:, 0].double().round(decimals=2))
    sets[1] = replace(sets[1], method="dc")  # its smallest set is larger
    table = pictures.nearest(sets, wine, {"name": "wine", "form": "document"})
    assert table["k"].tolist() == [3] * 3 + [6] * 3
    assert pictures.nearest([], wine, {"name": "wine", "form": "document"}) is None


def test_vectors_of_neither_tables_nor_texts_are_not_read(monkeypatch):
    dataset = vectors(noise(8, 3))
    small = distilled(dataset, noise(2, 3))
    assert pictures.nearest([small], dataset, {"name": "wine", "form": "document"}) is None
    monkeypatch.setitem(DATASETS, "mine", Source(lambda root, options: None))
    texts = replace(dataset, name="mine_document")  # as an extension has them, in its own space
    assert pictures.nearest([small], texts, {"name": "mine", "form": "document"}) is None


@pytest.mark.parametrize(
    ("form", "column"), [("document", "nearest text"), ("tokens", "nearest tokens")]
)
def test_texts_are_found_again(tmp_path, monkeypatch, form, column):
    pytest.importorskip("wordllama")
    monkeypatch.setenv("HOME", str(tmp_path))
    texts = ["a cat sleeps", "the dog barks"]
    for part in ("train", "test"):
        frame = pd.DataFrame({"text": texts, "label": ["cat", "dog"]})
        frame.to_csv(tmp_path / f"{part}.csv", index=False)
    data = {"name": str(tmp_path), "form": form}
    pets = load(**data)
    table = pictures.nearest([distilled(pets, pets.train.samples)], pets, data)
    words = [text.replace("▁", "").replace(" ", "") for text in table[column]]
    assert words == [text.replace(" ", "") for text in texts]
