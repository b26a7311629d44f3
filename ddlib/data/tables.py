"""Tables: the columns of CSV or Parquet files as vectors, and vectors as rows of the table again.

Numbers are standardised, words are one-hot. A distilled set lives in that space, where a sample
need not be a row that could exist; `rows` returns the nearest ones.
"""

import warnings
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ddlib.data.base import Pair, RawSplit
from ddlib.data.normalise import Normalisation

RARE = 0.001  # a word in a smaller share of the training rows is one of OTHER
OTHER = "other"
MOST_WORDS = 1000  # different ones in a column
TEXT = "text"  # the column that makes a table a text


def read_frame(path: Path, label: str, words: Iterable[str] | None = None) -> pd.DataFrame:
    """Return the table in a CSV or Parquet file.

    words: the columns of words, by default those that do not hold numbers alone. Of a CSV file,
    they, label and text are read as they are written, and only their empty cells are missing.
    """
    try:
        if path.suffix == ".parquet":
            frame = _with_numbers(pd.read_parquet(path).rename(columns=str))
            if named := [str(name) for name in frame.index.names if name is not None]:
                raise ValueError(f"its index holds {named[0]}; make it a column, reset_index()")
            return frame
        frame = pd.read_csv(path, low_memory=False)
        if not frame.index.equals(pd.RangeIndex(len(frame))):
            raise ValueError("its rows have more cells than its first line has names")
        words = frame.select_dtypes(exclude="number") if words is None else words
        texts = [column for column in frame if column in {label, TEXT, *words}]
        gaps = {"keep_default_na": False, "na_values": [""]}
        written = pd.read_csv(path, dtype=dict.fromkeys(texts, str), low_memory=False, **gaps)
        counts = (frame[texts].isna() & written[texts].notna()).sum()
        for column, count in counts[counts > 0].items():
            warnings.warn(
                f"{path}: {count} cells of column {column} such as NA are read as words; empty "
                "them if they are missing",
                stacklevel=2,
            )
        frame[texts] = written[texts]
        return frame
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); write it again with pandas") from error


def _with_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with columns of decimals as floats."""
    decimals = [
        column
        for column in frame
        if frame[column].dtype == object
        and len(cells := frame[column].dropna())
        and cells.map(type).eq(Decimal).all()
    ]
    return frame.astype(dict.fromkeys(decimals, float))


def read_labels(
    name: str, frames: list[pd.DataFrame], label: str
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return the labels (N,) of the training and the test rows, and the class names, sorted."""
    texts = []
    for part, frame in zip(("train", "test"), frames, strict=True):
        if f"{label}.1" in frame:  # as pandas names a second column of labels
            raise ValueError(f"{name}: {part} has two columns {label!r}; leave one")
        if label not in frame:
            raise ValueError(
                f"{name}: {part} has no column {label!r}, only {', '.join(map(str, frame))}; name "
                "the column of the classes, data: {name: ..., label: COLUMN}"
            )
        texts.append(frame[label].map(str, na_action="ignore").fillna("").str.strip())
        if empty := (texts[-1] == "").sum():
            raise ValueError(f"{name}: {part} has {empty} rows without a {label}; drop them")
    classes = sorted(set(texts[0]))
    if unknown := sorted(set(texts[1]) - set(classes)):
        raise ValueError(
            f"{name}: the {label} {', '.join(unknown[:5])} of test rows is that of no training "
            "row; drop those rows, or split the data anew"
        )
    return [text.map(classes.index).to_numpy(np.int64) for text in texts], tuple(classes)


def read_table(
    name: str, frames: list[pd.DataFrame], label: str = "label", missing: str | None = None
) -> Pair:
    """Return training and test rows as vectors (N, D): numbers, then one-hot words.

    The training rows decide everything. RARE words of a column are one, OTHER. missing: what
    replaces missing numbers, "mean" or "most_frequent"; words get the most frequent. Raises
    ValueError for columns that cannot be used, and warns of words that only test rows have.
    """
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    labels, classes = read_labels(name, frames, label)
    train, test = (frame.drop(columns=label) for frame in frames)
    numbers = list(train.select_dtypes("number"))
    words = [column for column in train if column not in numbers]
    _check_columns(name, train, test, numbers, missing)
    for frame in (train, test):
        frame[words] = frame[words].map(str, na_action="ignore").astype(object).fillna(np.nan)
    one_hot = OneHotEncoder(
        min_frequency=RARE, handle_unknown="infrequent_if_exist", sparse_output=False
    )
    encoder = make_column_transformer(
        (SimpleImputer(strategy=missing or "mean"), numbers),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot), words),
    )
    values = [encoder.fit_transform(train), encoder.transform(test)]
    values = [part.astype(np.float64) for part in values]  # imputed whole numbers stay whole
    columns = tuple((str(column), ()) for column in numbers)
    if words:
        one_hot = encoder.named_transformers_["pipeline"][-1]
        groups = zip(words, one_hot.categories_, one_hot.infrequent_categories_, strict=True)
        for column, known, rare in groups:
            _warn_of_unknown(name, test[column].dropna(), known, rare)
            frequent = [word for word in known if rare is None or word not in rare]
            columns += ((str(column), (*frequent, *([] if rare is None else [OTHER]))),)
    return [
        RawSplit(*pair, classes, format="tables", columns=columns)
        for pair in zip(values, labels, strict=True)
    ]


def _check_columns(
    name: str, train: pd.DataFrame, test: pd.DataFrame, numbers: list[str], missing: str | None
) -> None:
    if train.empty or test.empty:
        raise ValueError(f"{name}: train or test has no rows, or no column besides the labels")
    if set(train) != set(test):
        raise ValueError(
            f"{name}: the columns {', '.join(map(str, sorted(set(train) ^ set(test))))} are not "
            "in both train and test; give both the same columns"
        )
    if mixed := [column for column in numbers if column not in test.select_dtypes("number")]:
        raise ValueError(f"{name}: column {mixed[0]} holds numbers in train, but words in test")
    for column in train:
        if str(column).startswith("Unnamed: "):
            raise ValueError(
                f"{name}: column {column} has no name and would be used; write the file without "
                "row numbers, frame.to_csv(path, index=False)"
            )
        cells = [] if column in numbers else train[column].dropna()
        if train[column].dtype.kind == "m" or not all(map(pd.api.types.is_hashable, cells)):
            raise ValueError(
                f"{name}: column {column} holds lists, tables or durations; write one number a "
                "column, and images as files in a folder for each class"
            )
        if len(cells):
            _warn_of_marks(name, column, cells)
        count = train[column].nunique()
        if count < 2:
            raise ValueError(
                f"{name}: column {column} is constant in the training rows; drop the column"
            )
        if column not in numbers and (count > MOST_WORDS or count == len(train)):
            raise ValueError(
                f"{name}: column {column} has {count} different words in {len(train)} rows; drop "
                f"the column, group its words, or call it {TEXT!r} if it holds texts"
            )
        if any(part[column].isin([np.inf, -np.inf]).any() for part in (train, test)):
            raise ValueError(f"{name}: column {column} holds infinite numbers; replace them")
    gaps = train.isna().sum() + test.isna().sum()
    if gaps.any() and not missing:
        raise ValueError(
            f"{name}: {gaps.sum()} values are missing, in {', '.join(gaps.index[gaps > 0])}; fill "
            "them, or replace them, data: {name: ..., missing: mean} (or most_frequent)"
        )


def _warn_of_marks(name: str, column: str, cells: pd.Series) -> None:
    marks = cells[pd.to_numeric(cells.astype(str), errors="coerce").isna()].astype(str)
    if not len(marks) and not isinstance(cells.dtype, pd.CategoricalDtype):
        warnings.warn(
            f"{name}: column {column} holds numbers that are written as text, so they are read as "
            "words; if they are numbers, write them as numbers",
            stacklevel=2,
        )
    if 0 < len(marks) < len(cells) / 2:
        warnings.warn(
            f"{name}: column {column} holds numbers, but in {len(marks)} training rows marks such "
            f"as {min(marks)}, so all its cells are read as words; if such a mark means that the "
            "number is missing, empty these cells",
            stacklevel=2,
        )


def _warn_of_unknown(
    name: str, test: pd.Series, known: np.ndarray, rare: np.ndarray | None
) -> None:
    unknown = test[~test.isin(known)]
    if len(unknown):
        value = "no word" if rare is None else repr(OTHER)
        warnings.warn(
            f"{name}: no training row has the words {', '.join(sorted(set(unknown))[:5])} of "
            f"column {test.name}, so they count as {value} in {len(unknown)} test rows",
            stacklevel=2,
        )


def rows(samples: torch.Tensor, normalisation: Normalisation) -> pd.DataFrame:
    """Return the rows of the table that are nearest to samples (k, D): numbers in their units.

    Of the words of a column, the one of the largest value is taken.
    """
    columns, start, values = {}, 0, normalisation.denormalise(samples.cpu().double()).numpy()
    for column, words in normalisation.columns:
        part = values[:, start : start + max(1, len(words))]
        columns[column] = np.array(words)[part.argmax(1)] if words else part[:, 0]
        start += part.shape[1]
    return pd.DataFrame(columns)


def nearest_valid(samples: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    """Return the samples (k, D) of those `rows`: of the words of a column, one is 1, others 0.

    Vectors that are no table's stay as they are.
    """
    if not normalisation.columns:
        return samples
    parts = samples.split([max(1, len(words)) for _, words in normalisation.columns], dim=1)
    valid = [
        F.one_hot(part.argmax(1), len(words)).to(part) if words else part
        for part, (_, words) in zip(parts, normalisation.columns, strict=True)
    ]
    return torch.cat(valid, dim=1)
