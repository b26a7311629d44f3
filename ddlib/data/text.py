"""Texts as samples: vectors of the frozen encoder wordllama, or sequences of token embeddings.

A distilled set lives in that space and holds no text; `nearest_texts` and `nearest_tokens` return
texts to look at.
"""

import hashlib
import logging
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ddlib.data.base import Pair, RawSplit
from ddlib.data.normalise import Normalisation
from ddlib.data.options import Options
from ddlib.data.tables import TEXT, read_labels
from ddlib.files import reading, write_atomically

CACHE = Path("~/.cache/ddlib/encoded")


@lru_cache(maxsize=1)
def open_encoder() -> Any:
    """Return wordllama's model; ValueError if it is not installed."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        import wordllama
    except ModuleNotFoundError as error:
        raise ValueError("to read texts, install wordllama: pip install -e '.[text]'") from error
    root.setLevel(level)  # wordllama changes both
    root.handlers[:] = handlers
    # Its weights and its tokenizer lie in the package, which looks for the latter in its cache.
    package = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=package, disable_download=True)


def _tokens(texts: list[str]) -> list[list[int]]:
    return [
        [token for token, real in zip(encoded.ids, encoded.attention_mask, strict=True) if real]
        for encoded in open_encoder().tokenize(texts)
    ]


def read_text(name: str, frames: list[pd.DataFrame], options: Options) -> Pair:
    """Return training and test texts as vectors (N, D), or as sequences (N, length, E) of tokens.

    They stand in the column `text`. Warnings say which other columns are not read, and count the
    texts that are cut because they are longer; shorter ones are padded with rows of zeros. Raises
    ValueError for a text without tokens, and for a dimension above that of the vectors.
    """
    labels, classes = read_labels(name, frames, options.label)
    if others := sorted(map(str, set(frames[0]) - {TEXT, options.label})):
        warnings.warn(
            f"{name} holds texts, so its columns {', '.join(others)} are not read; for a table, "
            f"give the column {TEXT} another name",
            stacklevel=2,
        )
    length, splits = options.length, []
    for part, frame, at in zip(("train", "test"), frames, labels, strict=True):
        texts = texts_of(frame)
        tokens = _tokens([text.strip() for text in texts])
        if empty := [row for row, ids in enumerate(tokens) if not ids]:
            raise ValueError(
                f"{name} {part}: text {empty[0] + 1} has no tokens: {texts[empty[0]]!r}; drop it"
            )
        if options.form == "document":
            values = _documents(texts)[:, : options.dimension]
        else:
            embeddings = open_encoder().embedding[:, : options.dimension]
            values = _sequences(embeddings, tokens, length)
            if cut := sum(len(ids) > length for ids in tokens):
                warnings.warn(
                    f"{name} {part}: {cut} of {len(texts)} texts have more than {length} tokens "
                    "and are cut",
                    stacklevel=2,
                )
        if (options.dimension or 0) > values.shape[-1]:
            raise ValueError(
                f"dimension={options.dimension}, but a vector has {values.shape[-1]} values; "
                "choose a smaller dimension"
            )
        splits.append(RawSplit(values, at, classes, format="texts"))
    return splits


def texts_of(frame: pd.DataFrame) -> list[str]:
    return frame[TEXT].fillna("").map(str).tolist()


def _documents(texts: list[str]) -> np.ndarray:
    """Return the vectors (N, D) of texts; a file in CACHE keeps them under wordllama's version.

    Two processes may write it at the same time: each renames a whole file to this name.
    """
    texts = [text.strip() for text in texts]
    model, digest = open_encoder(), hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = CACHE.expanduser() / f"wordllama-{version('wordllama')}-{digest}.npy"
    if not path.exists():
        np.save(buffer := BytesIO(), np.asarray(model.embed(texts), np.float32))
        write_atomically(path, buffer.getvalue())
    with reading(path):
        return np.load(path)


def _sequences(embeddings: np.ndarray, tokens: list[list[int]], length: int) -> np.ndarray:
    values = np.zeros((len(tokens), length, embeddings.shape[1]), np.float32)
    for row, ids in zip(values, tokens, strict=True):
        row[: len(ids)] = embeddings[ids[:length]]
    return values


def nearest_texts(
    samples: torch.Tensor, normalisation: Normalisation, texts: Sequence[str]
) -> list[str]:
    """Return, for each sample (k, D) of the form "document", the text of the nearest vector."""
    vectors = _documents(list(texts))[:, : samples.shape[1]]
    nearest = torch.cdist(samples, normalisation.normalise(torch.from_numpy(vectors))).argmin(1)
    return [texts[row] for row in nearest.tolist()]


def nearest_tokens(samples: torch.Tensor, normalisation: Normalisation) -> list[list[str]]:
    """Return, for each sample (k, T, E) of the form "tokens", the nearest tokens, without padding.

    Each token is nearest to a row of the sample by itself.
    """
    model = open_encoder()
    embeddings = torch.from_numpy(model.embedding[:, : samples.shape[2]])
    embeddings = normalisation.normalise(embeddings)
    rows = [sample[sample.any(1)] for sample in samples]
    return [
        [
            model.tokenizer.id_to_token(token)
            for token in torch.cdist(row, embeddings).argmin(1).tolist()
        ]
        for row in rows
    ]
