"""Sets that other programs distilled, read from their files and scored like any other method's."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ddlib.data.base import DataSet
from ddlib.data.folders import read_classes
from ddlib.data.normalise import Whitening
from ddlib.data.sources import DATASETS
from ddlib.distilled import DistilledSet, check_set
from ddlib.fingerprints import existing
from ddlib.methods.common import TINY, check_factor, finished
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters, Table, Text

FAR = 0.5  # distance from the data's statistics at which another reading may be likelier
REAL = 1000  # training samples whose statistics are compared, at most
SCALARS = [np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np._core.multiarray.scalar]
SCALARS += [(np._core.multiarray.scalar, "numpy.core.multiarray.scalar")]  # before numpy 2
"""Numbers of numpy: DC's files hold accuracies beside the sets."""


class Channels(Parameters):
    """Mean and standard deviation of each channel, or one of each for all channels."""

    mean: list[float] = Field(min_length=1)
    std: list[PositiveFloat] = Field(min_length=1)


UNIT, BYTES = Channels(mean=[0.0], std=[1.0]), Channels(mean=[0.0], std=[1 / 255])


def _labels_beside(read: dict[str, Any]) -> Any:
    """Return the files of MTT's labels: `path`, with `labels` for `images` in the file's name."""
    if read["format"] != "mtt":
        return None
    if isinstance(read["path"], Mapping):
        return {ipc: _beside(path) for ipc, path in read["path"].items()}
    return _beside(read["path"])


def _beside(path: str) -> str:
    return re.sub("images(?=[^/]*$)", "labels", path)


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
    factor: PositiveInt = 1
    initialisation: ClassVar[str] = "none"


def distil(
    dataset: DataSet, network: Network | None, ipc: int, seed: int, parameters: ImportedSet
) -> DistilledSet:
    """Return the set in the file for this size, normalised as the data set is.

    Samples are put in the order of their classes. The class of a soft label is that of its largest
    share, if every class then has `ipc` samples; otherwise, the sample's place decides.
    """
    path, rate = _at(parameters.path, ipc), _rate(_at(parameters.step_size, ipc))
    values, labels, names = read_content(parameters, ipc)
    order = _order(path, labels, names, dataset, ipc)
    values = _fitting(path, values[order], dataset)
    samples = _normalised(path, values, parameters.normalised_by, dataset)
    learned = {} if rate is None else {"step_size": rate}
    synthetic = finished(dataset, samples, "imported", parameters, seed, learned, parameters.factor)
    return replace(synthetic, labels=labels[order].float()) if labels.ndim == 2 else synthetic


def _rate(value: float | str | None) -> float | None:
    """Return a learned step size, from its file if `value` names one."""
    if not isinstance(value, str):
        return value
    try:
        rate = float(_load(existing(value)))
    except Exception as error:  # as in `read_content`
        raise ValueError(
            f"no step size can be read from {value} ({error})".split("\n")[0]
        ) from error
    if not 0 < rate < math.inf:
        raise ValueError(f"{value} holds the step size {rate}; give one above 0, or leave it out")
    return rate


def check(parameters: ImportedSet, dataset: DataSet, network: Network, ipcs: Sequence[int]) -> None:
    """Raise ValueError or FileNotFoundError unless there is a fitting set of every size."""
    check_factor(parameters, dataset, network, ipcs)
    for ipc in ipcs:
        check_set(distil(dataset, None, ipc, 0, parameters), dataset, "imported", ipc, 0)


def read_content(
    parameters: ImportedSet, ipc: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, Sequence[str]]:
    """Return values (k, ...), labels (k,) or (k, C), and names of classes, in the file for a size.

    A folder alone has names. Raises FileNotFoundError for a missing file, ValueError for a damaged
    or different one.
    """
    place = _at(parameters.path, ipc)
    if place is None:
        raise ValueError(f"path names no file for ipc={ipc}; leave that size out of k, or add it")
    path, labels = existing(place), _at(parameters.labels, ipc)
    beside = existing(labels) if labels else path
    try:
        values, labels, names = _read(path, beside, parameters)
        values, labels = (torch.as_tensor(part).detach() for part in (values, labels))
        if not len(values) == len(labels) > 0:
            raise ValueError(f"it has {len(values)} images, but {len(labels)} labels")
    except Exception as error:  # damaged files raise errors of a dozen types
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"{path} cannot be read ({reason}); check that it is whole, and of the format "
            f"{parameters.format!r}"
        ) from error
    return values, labels, names


def _read(path: Path, beside: Path, parameters: ImportedSet) -> tuple[Any, Any, Sequence[str]]:
    match parameters.format:
        case "dc":
            sets, number = _load(path)["data"], parameters.experiment
            if number >= len(sets):
                raise ValueError(f"of {len(sets)} sets, none is experiment {number}; count from 0")
            return *sets[number], ()
        case "mtt":
            if beside == path:
                raise ValueError("its name says no 'images'; name the file of its `labels`, too")
            return _load(path), _load(beside), ()
        case "npz":
            with np.load(path, allow_pickle=False) as arrays:
                return arrays["images"], arrays["labels"], ()
        case "folder":
            split = read_classes(path, None)
            return split.values, split.labels, split.classes


def _load(path: Path) -> Any:
    with torch.serialization.safe_globals(SCALARS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _at(value: Any, ipc: int | None) -> Any:
    return value.get(ipc) if isinstance(value, Mapping) else value


def _fitting(path: str, values: torch.Tensor, dataset: DataSet) -> torch.Tensor:
    """Return values (k, H, W), or with channels last, as (k, channels, H, W); check their sizes."""
    channels, height, width = shape = dataset.sample_shape
    values = values[:, None] if values.ndim == 3 else values
    if values.shape[1:] == (height, width, channels) != shape:
        values = values.movedim(-1, 1)
    if values.shape[1:] != shape:
        sides = [" x ".join(map(str, sides)) for sides in (values.shape[1:], shape)]
        raise ValueError(
            f"{path} holds samples of {sides[0]}, but those of {dataset.name} are {sides[1]}; "
            "choose the data that it was distilled from, and its image_size"
        )
    return values


def _order(
    path: str, labels: torch.Tensor, names: Sequence[str], dataset: DataSet, ipc: int
) -> torch.Tensor:
    """Return the order (k,) of the samples by class; ValueError unless there are ipc of each."""
    count, classes = dataset.class_count, labels.long()
    foreign = ValueError(f"{path} has labels of other classes than the {count} of {dataset.name}")
    if labels.shape[1:] not in ((), (count,)) or (labels.ndim == 1 and (labels != classes).any()):
        raise foreign
    if labels.ndim == 2:
        classes, places = labels.argmax(1), torch.arange(len(labels)) * count // len(labels)
        if not torch.equal(classes.sort().values, places):
            classes = places
    if names:  # of folders: each is a class, or its number
        places = {name: place for place, name in enumerate(dataset.classes)}
        numbers = [places.get(n, int(n) if n.isdecimal() else -1) for n in names]
        if sorted(numbers) != list(range(count)):
            raise ValueError(
                f"{path} has the folders {', '.join(names[:5])} ..., but the classes are "
                f"{', '.join(dataset.classes[:5])} ...; name folders by classes, or 0 to "
                f"{count - 1}"
            )
        classes = torch.tensor(numbers)[classes]
    if classes.min() < 0 or classes.max() >= count:
        raise foreign
    low, high = map(int, classes.bincount(minlength=count).aminmax())
    if not low == high == ipc:
        if low < high:
            raise ValueError(
                f"{path} holds {low} to {high} samples of each class; give as many of every class"
            )
        raise ValueError(
            f"{path} holds {low} samples of each class, not ipc={ipc}; choose k: "
            f"[{low * count}], or a table {{ipc: file}} as path for other sizes"
        )
    return classes.argsort(stable=True)


def _normalised(
    path: str, values: torch.Tensor, by: Channels | None, dataset: DataSet
) -> torch.Tensor:
    """Return images (k, channels, H, W), bytes or normalised by `by`, normalised as the data are.

    Raises ValueError if their statistics are far from the data's, and another reading is twice as
    near: pixels of 0 to 1 or to 255, or images that were not whitened.
    """
    if by and not {len(by.mean), len(by.std)} <= {1, values.shape[1]}:
        raise ValueError(f"normalised_by needs 1 or {values.shape[1]} means and deviations")
    if by and values.dtype == torch.uint8:
        raise ValueError(f"{path} holds bytes, which are pixels; leave normalised_by out")
    if values.dtype == torch.uint8:
        return dataset.normalisation.normalise(values, 255.0)
    readings = [by, None, UNIT, BYTES]
    published = getattr(DATASETS.get(dataset.name), "normalisation", None)
    if published and isinstance(dataset.normalisation, Whitening):
        readings.append(Channels(mean=list(published.mean), std=list(published.std)))
    rows = torch.linspace(0, len(dataset.train.labels) - 1, REAL, dtype=torch.float64).long()
    real = _moments(dataset.train.at(rows.unique()).cpu())
    versions = [_renormalised(values.float(), reading, dataset) for reading in readings]
    moments = torch.stack([_moments(version) for version in versions])
    # the distance of means and of log deviations, in the data's deviations
    shifts, ratios = (moments[:, 0] - real[0]) / real[1], (moments[:, 1] / real[1]).log()
    distances = torch.hypot(shifts, ratios).square().mean(1).sqrt()
    if distances[0] > max(FAR, 2 * distances.min()):
        likelier = readings[int(distances.argmin())]
        advice = f"normalised_by: {likelier.model_dump()}" if likelier else "no normalised_by"
        (mean, std), (real_mean, real_std) = (m.numpy().round(2) for m in (moments[0], real))
        raise ValueError(
            f"{path}, read as asked, has channels of mean {mean} and deviation {std}, where "
            f"{dataset.name} has {real_mean} and {real_std}; {advice} is likelier"
        )
    return versions[0]


def _renormalised(values: torch.Tensor, by: Channels | None, dataset: DataSet) -> torch.Tensor:
    if by is None:
        return values
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (by.mean, by.std))
    return dataset.normalisation.normalise(values * std + mean)


def _moments(samples: torch.Tensor) -> torch.Tensor:
    """Return the mean and the deviation (2, channels) of samples (n, channels, H, W)."""
    std, mean = torch.std_mean(samples, (0, 2, 3), correction=0)
    return torch.stack([mean, std + TINY])
