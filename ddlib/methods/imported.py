"""Sets that other programs distilled, read from their files and scored like any other method's."""

import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat

from ddlib.data.base import DataSet
from ddlib.data.folders import read_classes
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.data.sources import DATASETS
from ddlib.distilled import DistilledSet
from ddlib.files import from_root
from ddlib.methods.common import TINY, finished
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters, Table, Text

FAR = 0.5  # of `_distance`: from here on, another reading may be likelier
REAL = 1000  # training samples whose statistics are compared, at most
BROKEN = (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, LookupError, RuntimeError)
BROKEN += (TypeError, ValueError)
SCALARS = [np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np._core.multiarray.scalar]
SCALARS += [(np._core.multiarray.scalar, "numpy.core.multiarray.scalar")]  # before numpy 2
"""Numbers of numpy: DC's files hold accuracies beside the sets."""


class Channels(Parameters):
    """Mean and standard deviation of each channel, or one of each for all channels."""

    mean: list[float] = Field(min_length=1)
    std: list[PositiveFloat] = Field(min_length=1)


def _labels_beside(read: dict[str, Any]) -> Any:
    """Return the place of MTT's labels: the path with `labels` in the place of `images`."""
    path = read.get("path")
    if read.get("format") != "mtt" or path is None:
        return None

    def beside(text: str) -> str:
        return str(Path(text).with_name(Path(text).name.replace("images", "labels")))

    return {k: beside(v) for k, v in path.items()} if isinstance(path, Mapping) else beside(path)


class ImportedSet(Parameters):
    """A set from a file, the same for all seeds. It has one size; {ipc: file} gives several.

    path: from the project's root. format: "dc": `res_*.pt` of DC, DSA and DM; "mtt": `images_*.pt`
    of MTT; "npz": arrays `images` and `labels`; "folder": a folder of images for each class, with
    the class's name or number. labels: the file of MTT's labels; by default, that beside `path`
    with `labels` for `images` in its name. experiment: the number of the set in a `res_*.pt`.

    normalised_by: by what the values were normalised, such as {mean: [0], std: [1]} for pixels of 0
    to 1; by default, as the data set is: whitened, if that is. Bytes are pixels, and take none.
    step_size: a learning rate that was learned with the set, or its file; used under
    `learned_step_size: true`. Soft labels are probabilities, and used under `labels: {regime:
    learned}`.
    """

    path: Text | Table[Text]
    format: Literal["dc", "mtt", "npz", "folder"]
    labels: Text | Table[Text] | None = Field(default_factory=_labels_beside)
    experiment: NonNegativeInt = 0
    normalised_by: Channels | None = None
    step_size: PositiveFloat | Text | Table[PositiveFloat | Text] | None = None


Content = tuple[torch.Tensor, torch.Tensor, Sequence[str]]
"""Values (k, ...), labels (k,) or (k, C), and the names of the classes, if the file has them."""


def distil(
    dataset: DataSet, network: Network, ipc: int, seed: int, parameters: ImportedSet
) -> DistilledSet:
    """Return the set in the file for this size, normalised as the data set is.

    Samples with hard labels are put in the order of the classes; those with soft labels must be.
    """
    (samples, labels), rate = _read_set(parameters, dataset, ipc), _read_rate(parameters, ipc)
    learned = {"step_size": rate} if rate else {}
    synthetic = finished(dataset, samples, "imported", parameters, seed, learned)
    return replace(synthetic, labels=labels.float()) if labels.ndim == 2 else synthetic


def check(parameters: ImportedSet, dataset: DataSet, network: Network, ipcs: Sequence[int]) -> None:
    """Raise ValueError or FileNotFoundError unless there is a fitting set of every size."""
    for ipc in ipcs:
        _read_set(parameters, dataset, ipc)
        _read_rate(parameters, ipc)


def read_content(parameters: ImportedSet, ipc: int | None = None) -> Content:
    """Return what the file for a size holds, as it is.

    Raises FileNotFoundError for a missing file, ValueError for a damaged or different one.
    """
    place = _at(parameters.path, ipc)
    if place is None:
        raise ValueError(f"path names no file for ipc={ipc}; leave that size out of k, or add it")
    path = from_root(place)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; check the path")
    try:
        values, labels, names = READERS[parameters.format](path, parameters, ipc)
        if values.ndim != 4 or labels.ndim > 2 or len(labels) != len(values):
            shapes = tuple(values.shape), tuple(labels.shape)
            raise ValueError(f"images of shape {shapes[0]} do not go with labels of {shapes[1]}")
    except (OSError, *BROKEN) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"{path} cannot be read ({reason}); check that it is whole, and of the format "
            f"{parameters.format!r}"
        ) from error
    return values, labels, names


def _at(value: Any, ipc: int | None) -> Any:
    return value.get(ipc) if isinstance(value, Mapping) else value


def _load(path: Path) -> Any:
    with torch.serialization.safe_globals(SCALARS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_rate(parameters: ImportedSet, ipc: int) -> float | None:
    rate = _at(parameters.step_size, ipc)
    return float(_load(from_root(rate))) if isinstance(rate, str) else rate


def _read_dc(path: Path, parameters: ImportedSet, _: int | None) -> Content:
    sets, number = _load(path)["data"], parameters.experiment
    if number >= len(sets):
        raise ValueError(f"of {len(sets)} sets, none is experiment {number}; they count from 0")
    return *map(torch.Tensor.detach, sets[number]), ()


def _read_mtt(path: Path, parameters: ImportedSet, ipc: int | None) -> Content:
    labels = from_root(_at(parameters.labels, ipc))
    return *map(torch.Tensor.detach, [_load(path), _load(labels)]), ()


def _read_npz(path: Path, _: ImportedSet, __: int | None) -> Content:
    with np.load(path, allow_pickle=False) as arrays:
        images, labels = (torch.from_numpy(arrays[name]) for name in ("images", "labels"))
    return images[..., None] if images.ndim == 3 else images, labels, ()


def _read_folder(path: Path, _: ImportedSet, __: int | None) -> Content:
    split = read_classes(path, None)
    return torch.from_numpy(split.values), torch.from_numpy(split.labels), split.classes


READERS: dict[str, Callable[..., Content]] = {
    "dc": _read_dc,
    "mtt": _read_mtt,
    "npz": _read_npz,
    "folder": _read_folder,
}


def _read_set(
    parameters: ImportedSet, dataset: DataSet, ipc: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the samples (ipc x C, ...) of a size, normalised and in order, and their labels."""
    values, labels, names = read_content(parameters, ipc)
    path, shape = _at(parameters.path, ipc), dataset.sample_shape
    if values.shape[1:] != shape and values.permute(0, 3, 1, 2).shape[1:] == shape:
        values = values.permute(0, 3, 1, 2)
    if values.shape[1:] != shape:
        sides = [" x ".join(map(str, sides)) for sides in (values.shape[1:], shape)]
        raise ValueError(
            f"{path} holds samples of {sides[0]}, but those of {dataset.name} are {sides[1]}; "
            "choose the data that it was distilled from, and its image_size"
        )
    order = _order(path, labels, names, dataset, ipc)
    values, labels = values[order], labels[order]
    if values.dtype == torch.uint8:
        if parameters.normalised_by:
            raise ValueError(f"{path} holds bytes, which are pixels; leave normalised_by out")
        return dataset.normalisation.normalise(values, 255.0), labels
    return _checked(path, values.float(), parameters.normalised_by, dataset), labels


def _order(
    path: str, labels: torch.Tensor, names: Sequence[str], dataset: DataSet, ipc: int
) -> torch.Tensor:
    """Return the order (k,) of the samples by class; ValueError unless there are ipc of each."""
    count = dataset.class_count
    if labels.ndim == 2:
        classes = torch.arange(len(labels)) * count // len(labels)
    else:
        classes = torch.tensor(_numbers(path, names, dataset))[labels] if names else labels.long()
    if labels.shape[1:] not in ((), (count,)) or classes.min() < 0 or classes.max() >= count:
        raise ValueError(f"{path} has labels of other classes than the {count} of {dataset.name}")
    counts = classes.bincount(minlength=count)
    if counts.unique().tolist() != [ipc]:
        low, high = (int(bound) for bound in counts.aminmax())
        sizes = f"{low}" if low == high else f"{low} to {high}"
        raise ValueError(
            f"{path} holds {sizes} samples of each class, not ipc={ipc}; choose k: "
            f"[{low * count}], or a table {{ipc: file}} as path for other sizes"
        )
    return classes.argsort(stable=True)


def _numbers(path: str, names: Sequence[str], dataset: DataSet) -> list[int]:
    """Return the label of each folder, whose name is a class or its number."""
    if sorted(names) == sorted(dataset.classes):
        return [dataset.classes.index(name) for name in names]
    numbers = [int(name) for name in names if name.isdecimal()]
    if sorted(numbers) != list(range(dataset.class_count)) or len(numbers) < len(names):
        raise ValueError(
            f"{path} has the folders {', '.join(names[:5])} ..., but the classes are "
            f"{', '.join(dataset.classes[:5])} ...; name folders by classes, or 0 to "
            f"{dataset.class_count - 1}"
        )
    return numbers


def _checked(
    path: str, values: torch.Tensor, asked: Channels | None, dataset: DataSet
) -> torch.Tensor:
    """Return values (k, ...) that were normalised by `asked`, normalised as the data set is.

    Raises ValueError if their statistics are far from the data's, and another reading is twice as
    near: pixels of 0 to 1 or to 255, or images that were not whitened.
    """
    count = len(dataset.train.labels)
    rows = torch.linspace(0, count - 1, min(count, REAL), dtype=torch.float64).long()
    real = _moments(dataset.train.at(rows).cpu())
    published = getattr(DATASETS.get(dataset.name), "normalisation", None)
    others = [None, Channels(mean=[0.0], std=[1.0]), Channels(mean=[0.0], std=[1 / 255])]
    if published and isinstance(dataset.normalisation, Whitening):
        others.append(Channels(mean=list(published.mean), std=list(published.std)))
    samples = _normalised(values, asked, dataset)
    distance = _distance(_moments(samples), real)
    near = {
        _distance(_moments(_normalised(values, other, dataset)), real): other for other in others
    }
    if distance > FAR and distance > 2 * min(near):
        likelier = near[min(near)]
        advice = f"normalised_by: {likelier.model_dump()}" if likelier else "no normalised_by"
        mean, std = (", ".join(f"{v:.2g}" for v in part) for part in _moments(samples))
        wanted = [", ".join(f"{v:.2g}" for v in part) for part in real]
        raise ValueError(
            f"{path}, read as asked, has channels of mean {mean} and deviation {std}, where "
            f"{dataset.name} has {wanted[0]} and {wanted[1]}; {advice} is likelier"
        )
    return samples


def _normalised(values: torch.Tensor, by: Channels | None, dataset: DataSet) -> torch.Tensor:
    if by is None:
        return values
    channels = values.shape[1]
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (by.mean, by.std))
    if not {len(mean), len(std)} <= {1, channels}:
        raise ValueError(f"normalised_by needs 1 or {channels} means and deviations; give as many")
    own = dataset.normalisation
    if isinstance(own, Normalisation) and (own.mean, own.std) == (tuple(by.mean), tuple(by.std)):
        return values
    return own.normalise(values * std + mean)


def _moments(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the deviation of each channel of samples (n, channels, H, W)."""
    return samples.mean((0, 2, 3)), samples.std((0, 2, 3), correction=0)


def _distance(ours: Sequence[torch.Tensor], real: Sequence[torch.Tensor]) -> float:
    """Return how far means and log deviations are from the data's, in the data's deviations."""
    (mean, std), (real_mean, real_std) = ours, real
    ratio = ((std + TINY) / (real_std + TINY)).log()
    return (((mean - real_mean) / (real_std + TINY)).square() + ratio.square()).mean().sqrt().item()
