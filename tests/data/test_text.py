"""Texts as vectors and as sequences, against wordllama's own vectors."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from layouts import images, real_data

from ddlib.data.base import RawSplit
from ddlib.data.load import load, training_texts
from ddlib.data.sources import DATASETS, Source
from ddlib.data.text import nearest_texts, nearest_tokens

TEXTS = ["the cat sat on the mat", "dogs bark", "a cat and a dog", "who let the dogs out ?"]
LABELS = ["cat", "dog", "cat", "dog"]


@pytest.fixture
def pets(root, tmp_path):
    """A folder of texts, and an empty home for the cache."""
    folder = tmp_path / "pets"
    folder.mkdir()
    write(folder, TEXTS, LABELS)
    return folder


def write(folder, texts, labels):
    for part in ("train", "test"):
        pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / f"{part}.csv", index=False)


def model():
    wordllama = pytest.importorskip("wordllama")
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


def test_documents_are_the_encoder_s_vectors_standardised(pets, tmp_path):
    vectors = model().embed(TEXTS)
    loaded = load(pets)
    assert (loaded.name, loaded.kind, loaded.sample_shape) == ("pets_document", "vector", (256,))
    expected = (vectors - vectors.mean(0)) / vectors.std(0)
    np.testing.assert_allclose(images(loaded.train), expected, atol=1e-4)
    (kept,) = (tmp_path / "home" / ".cache" / "ddlib" / "encoded").iterdir()
    assert kept.name.startswith("wordllama-")
    np.save(kept, np.load(kept)[::-1])  # the file is read
    turned = images(load(pets).train)
    torch.testing.assert_close(turned, images(loaded.train).flip(0))
    torch.testing.assert_close(images(load(pets, dimension=64).train), turned[:, :64])
    for form in ("document", "tokens"):
        with pytest.raises(ValueError, match="dimension=257, but a vector has 256 values; choose"):
            load(pets, dimension=257, form=form)


def test_tokens_are_padded_by_rows_that_stay_zero(pets):
    loaded, wordllama = load(pets, form="tokens", length=9, dimension=64), model()
    assert (loaded.name, loaded.kind) == ("pets_tokens", "sequence")
    assert loaded.sample_shape == (9, 64)
    tokens = [
        wordllama.embedding[e.ids][: sum(e.attention_mask), :64] for e in wordllama.tokenize(TEXTS)
    ]
    every = np.concatenate(tokens)
    expected = np.zeros((4, 9, 64))
    for row, token in zip(expected, tokens, strict=True):
        row[: len(token)] = (token - every.mean(0)) / every.std(0)
    np.testing.assert_allclose(images(loaded.train), expected, atol=1e-4)
    is_token = images(loaded.train).any(-1)
    assert is_token.sum(1).tolist() == [len(token) for token in tokens]
    back = loaded.normalisation.denormalise(images(loaded.train))
    assert torch.equal(back.any(-1), is_token)
    with pytest.warns(UserWarning, match="3 of 4 texts have more than 3 tokens"):
        cut = load(pets, form="tokens", length=3, dimension=64)
    assert cut.sample_shape == (3, 64)


def test_nearest_texts_and_tokens(pets):
    documents, sequences = load(pets), load(pets, form="tokens", length=9)
    texts = training_texts(pets)
    assert texts == TEXTS
    samples = images(documents.train)[[2, 0]] + 0.01
    assert nearest_texts(samples, documents.normalisation, texts) == [TEXTS[2], TEXTS[0]]
    tokens = nearest_tokens(images(sequences.train)[:2] * 1.01, sequences.normalisation)
    assert ["".join(parts).replace("▁", " ").strip() for parts in tokens] == TEXTS[:2]


@pytest.mark.parametrize("empty", ["", "  "])
@pytest.mark.parametrize("form", ["document", "tokens"])
def test_texts_without_tokens_are_refused(pets, empty, form):
    write(pets, [*TEXTS, empty], [*LABELS, "dog"])
    with pytest.raises(ValueError, match=f"pets train: text 5 has no tokens: '{empty}'; drop it"):
        load(pets, form=form)


def test_what_is_not_read_is_said(pets):
    for part in ("train", "test"):
        table = pd.read_csv(pets / f"{part}.csv").assign(year=2001)
        table.to_csv(pets / f"{part}.csv", index=False)
    with pytest.warns(UserWarning, match="pets holds texts, so its columns year are not read; for"):
        load(pets)
    with pytest.raises(ValueError, match=r"length=9 is an option of texts, form: tokens"):
        load(pets, length=9)


@pytest.mark.parametrize("numbers", [np.ones((4, 9), int), np.ones((4, 9), np.uint8)])
def test_numbers_of_tokens_are_no_embeddings(monkeypatch, numbers):
    split = RawSplit(numbers, np.array([0, 1, 0, 1]), ("cat", "dog"), format="texts")
    monkeypatch.setitem(DATASETS, "ids", Source(lambda *_: [split, split]))
    with pytest.raises(ValueError, match=r"ids.* train: texts are u?int.* \(4, 9\); give floats"):
        load("ids")


def test_a_cache_that_two_processes_write_or_one_damages(pets, tmp_path):
    """A process that writes at the same moment leaves the same whole file; a cut one is said."""
    with ThreadPoolExecutor(4) as pool:
        first, *others = (images(loaded.train) for loaded in pool.map(load, [pets] * 4))
    assert all(torch.equal(first, other) for other in others)
    (kept,) = (tmp_path / "home" / ".cache" / "ddlib" / "encoded").iterdir()
    kept.write_bytes(kept.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"wordllama-.*npy is not whole .*; delete it"):
        load(pets)


@real_data
@pytest.mark.parametrize(
    ("name", "counts", "classes", "first"),
    [
        ("sst2", (6_920, 1_821), ("negative", "positive"), 3_310),
        ("trec6", (5_452, 500), ("abbreviation", "description"), 86),
    ],
)
def test_real_texts(name, counts, classes, first):
    loaded = load(name, dimension=64)
    assert (loaded.name, loaded.sample_shape) == (f"{name}_document", (64,))
    assert (len(loaded.train.labels), len(loaded.test.labels)) == counts
    assert loaded.classes[:2] == classes
    assert (loaded.train.labels == 0).sum() == first
