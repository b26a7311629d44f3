"""Texts as samples: vectors of a frozen encoder, or sequences of the embeddings of its tokens.

A distilled set lives in that space and holds no text; `nearest_texts` and `nearest_tokens` return
texts to look at.
"""

import hashlib
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ddlib.data.base import Pair, RawSplit
from ddlib.data.normalise import Normalisation
from ddlib.data.options import Options
from ddlib.data.tables import TEXT, read_labels
from ddlib.files import from_root, reading, write_atomically
from ddlib.fingerprints import files_digest

CACHE = Path("~/.cache/ddlib/encoded")


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder of texts.

    version: its name and version; documents: texts -> vectors (N, D); tokens: texts -> the tokens'
    numbers, a list for each text; embeddings: of all tokens (V, E); word: the text of a token.
    """

    version: str
    documents: Callable[[list[str]], np.ndarray]
    tokens: Callable[[list[str]], list[list[int]]]
    embeddings: np.ndarray
    word: Callable[[int], str]


@lru_cache(maxsize=1)
def open_encoder(name: str) -> Encoder:
    """Return the encoder "wordllama", or one of sentence-transformers.

    The latter is a folder, from the project's root, or a model of the hub with its revision,
    "name@revision".
    """
    return _wordllama() if name == "wordllama" else _sentence_transformer(name)


def _wordllama() -> Encoder:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        import wordllama
    except ModuleNotFoundError as error:
        raise ValueError("to read texts, install wordllama: pip install 'ddlib[text]'") from error
    root.setLevel(level)  # wordllama changes both
    root.handlers[:] = handlers
    # Its weights and its tokenizer lie in the package, which looks for the latter in its cache.
    package = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=package, disable_download=True)

    def tokens(texts: list[str]) -> list[list[int]]:
        encoded = model.tokenize(texts)
        return [
            [token for token, real in zip(e.ids, e.attention_mask, strict=True) if real]
            for e in encoded
        ]

    version = f"wordllama-{wordllama.__version__}"
    return Encoder(version, model.embed, tokens, model.embedding, model.tokenizer.id_to_token)


def _sentence_transformer(name: str) -> Encoder:
    place, _, revision = name.partition("@")
    folder = from_root(place)
    if not folder.is_dir() and not revision:
        raise ValueError(
            f"encoder={name!r} is neither wordllama nor a folder; give wordllama, the folder of a "
            "model of sentence-transformers, or a model of the hub as name@revision"
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise ValueError(
            f"for encoder={name!r}, install sentence-transformers, or choose wordllama"
        ) from error
    model = SentenceTransformer(place if revision else str(folder), revision=revision or None)
    version = revision or files_digest(folder, (".json", ".safetensors", ".bin"))
    weights = model[0].auto_model.get_input_embeddings().weight

    def tokens(texts: list[str]) -> list[list[int]]:
        return model.tokenizer(texts, add_special_tokens=False)["input_ids"]

    return Encoder(
        f"{place.replace('/', '-') if revision else folder.name}-{version}",
        model.encode,
        tokens,
        weights.detach().cpu().numpy(),
        model.tokenizer.convert_ids_to_tokens,
    )


def read_text(
    name: str,
    frames: list[pd.DataFrame],
    options: Options,
) -> Pair:
    """Return training and test texts as vectors (N, D), or as sequences (N, length, E) of tokens.

    They stand in the column `text`. Warnings say which other columns are not read, and count the
    texts that are cut because they are longer; shorter ones are padded with rows of zeros. Raises
    ValueError for a text without tokens.
    """
    labels, classes = read_labels(name, frames, options.label)
    if others := sorted(map(str, set(frames[0]) - {TEXT, options.label})):
        warnings.warn(
            f"{name} holds texts, so its columns {', '.join(others)} are not read; for a table, "
            f"give the column {TEXT} another name",
            stacklevel=2,
        )
    model, length, splits = open_encoder(options.encoder), options.length, []
    for part, frame, at in zip(("train", "test"), frames, labels, strict=True):
        texts = texts_of(frame)
        tokens = model.tokens([text.strip() for text in texts])
        if empty := [row for row, ids in enumerate(tokens) if not ids]:
            raise ValueError(
                f"{name} {part}: text {empty[0] + 1} has no tokens: {texts[empty[0]]!r}; drop it"
            )
        if options.form == "document":
            values = _documents(model, texts)[:, : options.dimension]
        else:
            values = _sequences(model.embeddings[:, : options.dimension], tokens, length)
            if cut := sum(len(ids) > length for ids in tokens):
                warnings.warn(
                    f"{name} {part}: {cut} of {len(texts)} texts have more than {length} tokens "
                    "and are cut",
                    stacklevel=2,
                )
        splits.append(RawSplit(values, at, classes, format="texts"))
    return splits


def texts_of(frame: pd.DataFrame) -> list[str]:
    return frame[TEXT].fillna("").map(str).tolist()


def _documents(model: Encoder, texts: list[str]) -> np.ndarray:
    """Return the vectors (N, D) of texts; a file in CACHE keeps them under the encoder's version.

    Two processes may write it at the same time: each renames a whole file to this name.
    """
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = CACHE.expanduser() / f"{model.version}-{digest}.npy"
    if not path.exists():
        np.save(buffer := BytesIO(), np.asarray(model.documents(texts), np.float32))
        write_atomically(path, buffer.getvalue())
    with reading(path):
        return np.load(path)


def _sequences(embeddings: np.ndarray, tokens: list[list[int]], length: int) -> np.ndarray:
    values = np.zeros((len(tokens), length, embeddings.shape[1]), np.float32)
    for row, ids in zip(values, tokens, strict=True):
        row[: len(ids)] = embeddings[ids[:length]]
    return values


def nearest_texts(
    samples: torch.Tensor,
    normalisation: Normalisation,
    texts: Sequence[str],
    encoder: str = "wordllama",
) -> list[str]:
    """Return, for each sample (k, D) of the form "document", the text of the nearest vector."""
    vectors = _documents(open_encoder(encoder), list(texts))[:, : samples.shape[1]]
    nearest = torch.cdist(samples, normalisation.normalise(torch.from_numpy(vectors))).argmin(1)
    return [texts[row] for row in nearest.tolist()]


def nearest_tokens(
    samples: torch.Tensor, normalisation: Normalisation, encoder: str = "wordllama"
) -> list[list[str]]:
    """Return, for each sample (k, T, E) of the form "tokens", the nearest tokens, without padding.

    Each token is nearest to a row of the sample by itself.
    """
    model = open_encoder(encoder)
    embeddings = torch.from_numpy(model.embeddings[:, : samples.shape[2]])
    embeddings = normalisation.normalise(embeddings)
    rows = [sample[sample.any(1)] for sample in samples]
    return [
        [model.word(token) for token in torch.cdist(row, embeddings).argmin(1).tolist()]
        for row in rows
    ]
