"""The plan of a study: every trial, and the path of every file.

The name of a file is a digest of everything that decides its content (settings, images, code). So a
rerun makes only what is missing, and studies share reference networks and prepared files.
"""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ddlib.configurations.configuration import Configuration
from ddlib.data.base import DataSet, data_digest, read_ipcs
from ddlib.data.cache import one_copy
from ddlib.data.load import load
from ddlib.devices import check_precision
from ddlib.files import check_writable, from_root
from ddlib.fingerprints import code_digest, fingerprint, plain_text
from ddlib.methods import METHODS, Method
from ddlib.networks import functional as networks
from ddlib.parameters import Parameters
from ddlib.study.cluster import device
from ddlib.study.extensions import network_code, use
from ddlib.study.settings import CONVERGED, IMBALANCE, SAME_STEPS, Settings
from ddlib.study.worker import Context, code
from ddlib.training.recipe import hold_out


@dataclass(frozen=True)
class Trial:
    """A distilled set, in the file set_path, and its evaluation, with its record in path."""

    configuration: str
    method: str
    ipc: int
    seed: int
    set_path: Path
    path: Path


@dataclass(frozen=True)
class Reference:
    """A network trained on all data, until CONVERGED or for the SAME_STEPS as on S.

    path: its record; observed: the file of `train_and_observe` (None for CONVERGED).
    """

    configuration: str
    seed: int
    kind: str
    path: Path
    observed: Path | None


@dataclass(frozen=True)
class Plan:
    """A study that has passed every check: its data set, its trials, and its folders."""

    settings: Settings
    dataset: DataSet
    context: Context
    ipcs: list[int]
    folder: Path
    cache: Path

    @property
    def configurations(self) -> dict[str, Configuration]:
        return self.settings.configurations

    @property
    def methods(self) -> dict[str, tuple[str, Parameters]]:
        return self.settings.methods

    @property
    def seeds(self) -> range:
        return range(self.settings.seeds)

    @cached_property
    def measure(self) -> str:
        """The accuracy whose gaps are measured: one of MEASURES."""
        splits = self.dataset.train, self.dataset.test
        counts = [split.labels.cpu().bincount().double() for split in splits]
        uneven = any(sizes.max() > IMBALANCE * sizes[sizes > 0].min() for sizes in counts)
        return self.settings.measure or ("balanced" if uneven else "accuracy")

    @property
    def first(self) -> Configuration:
        """The first configuration."""
        return next(iter(self.configurations.values()))

    @cached_property
    def trials(self) -> list[Trial]:
        """Every trial, in the order of the table."""
        grid = self.configurations, self.methods, self.ipcs, self.seeds
        return [self._trial(*place) for place in itertools.product(*grid)]

    def _trial(self, configuration: str, method: str, ipc: int, seed: int) -> Trial:
        identity = [self.context.identity, method, self._made_by[method], ipc, seed]
        evaluated = [identity, self._evaluations[configuration], self.settings.evaluations]
        name = f"{method}-ipc{ipc}-seed{seed}"
        set_path = self.folder / "distilled" / f"{name}-{fingerprint(identity)}.safetensors"
        path = self.folder / "trials" / f"{name}-{fingerprint(evaluated)}.json"
        return Trial(configuration, method, ipc, seed, set_path, path)

    @cached_property
    def references(self) -> list[Reference]:
        """Every network that is trained on all data."""
        grid = self.configurations, self.seeds, self.settings.references
        return [self.reference(*place) for place in itertools.product(*grid)]

    def reference(self, configuration: str, seed: int, kind: str) -> Reference:
        """Return one of the networks trained on all data; studies share them through the cache."""
        identity = [self.context.identity, self._evaluations[configuration], seed]
        identity += [self.settings.converged.model_dump()] if kind == CONVERGED else []
        name = f"{self.dataset.name}-seed{seed}"
        path = self.cache / "references" / f"{name}-{kind}-{fingerprint(identity)}.json"
        seen = f"{name}-{fingerprint([path.stem, self.settings.probe])}.safetensors"
        observed = self.cache / "observed" / seen if kind == SAME_STEPS else None
        return Reference(configuration, seed, kind, path, observed)

    @cached_property
    def _made_by(self) -> dict[str, list[Any]]:
        """What decides the sets of each method, besides data, size and seed."""
        made_by = {}
        for name, (base, parameters) in self.methods.items():
            entry, plain = self.entry(name), parameters.model_dump()
            code = [code_digest(*entry.modules), *self._network_code(plain)]
            made_by[name] = [base, plain, *code, *entry.reads(parameters)]
        return made_by

    @cached_property
    def _evaluations(self) -> dict[str, list[Any]]:
        """What decides how the networks of each configuration are trained and scored."""
        plain = {name: chosen.model_dump() for name, chosen in self.configurations.items()}
        return {name: [values, *self._network_code(values)] for name, values in plain.items()}

    def _network_code(self, plain: Any) -> list[str]:
        """Return code digests of the extensions whose networks occur in plain data."""
        return network_code(self.context.extensions, plain_text(plain))

    def entry(self, method: str) -> Method:
        """Return the registered method behind a name of this study."""
        use(self.context.extensions)  # another study may have replaced them
        return METHODS[self.methods[method][0]]

    def length_path(self, configuration: str) -> Path:
        """Return the file with the steps of the converged networks; see `jobs.find_length`."""
        evaluation = self._evaluations[configuration]
        identity = [self.context.identity, evaluation, self.settings.converged.model_dump()]
        return self.cache / "lengths" / f"{self.dataset.name}-{fingerprint(identity)}.json"

    def pretrained_path(self, configuration: str) -> Path | None:
        """Return the file of the pretrained body of a configuration; None if it has none."""
        chosen = self.configurations[configuration]
        if not chosen.pretrained:
            return None
        plain = [chosen.network, chosen.initialisation, chosen.pretraining.model_dump()]
        context = replace(self.context, network="any")
        identity = [context.identity, plain, *self._network_code(plain)]
        name = f"{chosen.initialisation}-{self.dataset.name}-{fingerprint(identity)}.safetensors"
        return self.cache / "pretrained" / name

    def teacher_path(self, configuration: str) -> Path | None:
        """Return the file of a configuration's teacher; None if its labels need none."""
        teacher = self.configurations[configuration].teacher
        if not teacher:
            return None
        plain, context = teacher.model_dump(), replace(self.context, network="any")
        identity = [context.identity, plain, *self._network_code(plain)]
        name = f"{self.dataset.name}-{fingerprint(identity)}.safetensors"
        return self.cache / "teachers" / name

    def preparations(self, method: str) -> list[tuple[dict[str, Any], Path]]:
        """Return the jobs that `method` needs once for all sizes and seeds, and their files."""
        base, parameters = self.methods[method]
        entry, files = self.entry(method), []
        if not entry.preparation:
            return []
        jobs, length = entry.preparation.jobs(parameters, self.ipcs), entry.preparation.length
        of_network = entry.preparation.of_network
        context = self.context if of_network else replace(self.context, network="any")
        code = [code_digest(*entry.modules), *self._network_code(jobs)]
        identity = [context.identity, *code, *entry.reads(parameters)]
        for job in jobs:
            named = {key: value for key, value in job.items() if key != length}
            name = f"{base}-{self.dataset.name}-{fingerprint([*identity, named])}"
            path = self.cache / "prepared" / name
            files.append((job, _long_enough(path, job[length]) if length else path))
        return files


def _long_enough(path: Path, length: int) -> Path:
    """Return the shortest existing file of at least that length, or the path of a new one."""
    endings = [file.name.removeprefix(f"{path.name}-") for file in path.parent.glob("*")]
    lengths = [int(ending) for ending in endings if ending.isdecimal()]
    enough = min((existing for existing in lengths if existing >= length), default=length)
    return path.with_name(f"{path.name}-{enough}")


def make_plan(settings: Settings) -> Plan:
    """Check the settings against the data, and return the plan.

    Raises ValueError or OSError, in one sentence, before anything is computed.
    """
    check_precision(settings.precision, device(settings))
    dataset = load(**settings.data)
    sizes = {"sample_shape": dataset.sample_shape, "class_count": dataset.class_count}
    networks.build(**settings.network, **sizes)
    for name, configuration in settings.configurations.items():
        try:
            for chosen in filter(None, [configuration, configuration.teacher]):
                chosen.build(**sizes)
        except ValueError as error:
            raise ValueError(
                f"the configuration {name!r} does not fit {dataset.name}: {error}"
            ) from None
    ipcs = read_ipcs(settings.k, dataset)
    if settings.reference == CONVERGED:
        hold_out(dataset.train.labels, settings.converged.held_out)
    folder, cache = from_root(settings.results), from_root(settings.cache)
    for place in (cache, folder):
        check_writable(place)
    digest = data_digest(dataset)
    copy = cache / "data" / f"{dataset.name}-{digest[:12]}.safetensors"
    dataset = one_copy(dataset, digest, copy)
    where = copy.resolve(), folder.resolve(), device(settings), settings.precision
    context = Context(plain_text(settings.network), digest, *where, code(), settings.extensions)
    return Plan(settings, dataset, context, ipcs, folder, cache)
