"""The plan of a study: every trial, and the path of every file.

The name of a file is a digest of everything that decides its content (settings, data, code). So a
rerun makes only what is missing, and studies share reference networks and prepared files.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ddlib.configurations.configuration import Configuration
from ddlib.data.base import DataSet, data_digest, read_ipcs
from ddlib.data.cache import one_copy
from ddlib.data.load import load
from ddlib.devices import check_precision
from ddlib.files import check_writable, from_root, read_json
from ddlib.fingerprints import DECIDING, code_digest, digests, fingerprint, named_files, plain_text
from ddlib.methods import METHODS
from ddlib.networks import functional as networks
from ddlib.networks.zoo import NETWORKS
from ddlib.parameters import Parameters
from ddlib.study.cluster import device
from ddlib.study.kinds import for_kind
from ddlib.study.settings import CONVERGED, SAME_STEPS, Settings
from ddlib.study.worker import Context, code
from ddlib.training.recipe import hold_out
from ddlib.training.targets import Labels

SUBJECT = ("data", "network", "training", "labels")
"""The parameters of which a results folder holds one value each: another is another study."""
CHANGES = ("methods", "k", "seeds", "configurations", "evaluations", "measure", "reference")
"""Parameters that may change from run to run of a study; its tables show the last run."""
IMBALANCE = 1.5  # a larger ratio of the sizes of two classes calls for balanced accuracy


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
        """The accuracy whose gaps are measured: one of MEASURES.

        By default it is balanced where one class has more than IMBALANCE times as many samples as
        another, in the training or the test data.
        """
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
        base, parameters = self.methods[method]
        made_by = method, base, parameters.model_dump(), code_digest(*METHODS[base].modules)
        distilled = [self.settings.network, *made_by, ipc, seed]
        evaluated = [self.configurations[configuration].model_dump(), self.settings.evaluations]
        name = f"{method}-ipc{ipc}-seed{seed}"
        set_path = self.folder / "distilled" / f"{name}-{self._digest(distilled)}.safetensors"
        path = self.folder / "trials" / f"{name}-{self._digest(distilled, evaluated)}.json"
        return Trial(configuration, method, ipc, seed, set_path, path)

    @cached_property
    def references(self) -> list[Reference]:
        """Every network that is trained on all data."""
        grid = self.configurations, self.seeds, self.settings.references
        return [self.reference(*place) for place in itertools.product(*grid)]

    def reference(self, configuration: str, seed: int, kind: str) -> Reference:
        """Return one of the networks trained on all data; studies share them through the cache."""
        length = self.settings.converged.model_dump() if kind == CONVERGED else None
        name = f"{self.dataset.name}-seed{seed}"
        digest = self._digest(self._on_all_data(configuration), seed, length)
        path = self.cache / "references" / f"{name}-{kind}-{digest}.json"
        seen = f"{name}-{fingerprint([path.stem, self.settings.probe])}.safetensors"
        observed = self.cache / "observed" / seen if kind == SAME_STEPS else None
        return Reference(configuration, seed, kind, path, observed)

    def length_path(self, configuration: str) -> Path:
        """Return the file with the steps of the converged networks; see `jobs.find_length`."""
        converged = self.settings.converged.model_dump()
        digest = self._digest(self._on_all_data(configuration), converged)
        return self.cache / "lengths" / f"{self.dataset.name}-{digest}.json"

    def pretrained_path(self, configuration: str) -> Path | None:
        """Return the file of the pretrained body of a configuration; None if it has none."""
        chosen = self.configurations[configuration]
        if not chosen.pretrained:
            return None
        decides = chosen.network, chosen.initialisation, chosen.pretraining.model_dump()
        name = f"{chosen.initialisation}-{self.dataset.name}-{self._digest(*decides)}.safetensors"
        return self.cache / "pretrained" / name

    def teacher_path(self, configuration: str) -> Path | None:
        """Return the file of a configuration's teacher; None if its labels need none."""
        teacher = self.configurations[configuration].teacher
        if not teacher:
            return None
        name = f"{self.dataset.name}-{self._digest(teacher.model_dump())}.safetensors"
        return self.cache / "teachers" / name

    def preparations(self, method: str) -> list[tuple[dict[str, Any], Path]]:
        """Return the jobs that `method` needs once for all sizes and seeds, and their files."""
        base, parameters = self.methods[method]
        preparation = METHODS[base].preparation
        if not preparation:
            return []
        network = self.settings.network if preparation.of_network else None
        read = self._files(named_files(parameters.model_dump()))
        decides = code_digest(*preparation.modules), *read
        module = preparation.make.__module__
        if not module.startswith("ddlib."):  # the name of an extension's counts comments, too
            module = module.rpartition("_")[0] or module
        name = f"{module.rpartition('.')[2]}-{self.dataset.name}"
        folder, jobs = self.cache / "prepared", preparation.jobs(parameters, self.ipcs)
        return [(job, folder / f"{name}-{self._digest(network, job, *decides)}") for job in jobs]

    def _on_all_data(self, configuration: str) -> dict[str, Any]:
        """Return what decides a training on all data, which has no learned labels or steps."""
        chosen = self.configurations[configuration]
        labels = chosen.labels if chosen.teacher else Labels()
        return chosen.replace(labels=labels, learned_step_size=False).model_dump()

    def _digest(self, *decides: Any) -> str:
        """Return the digest that names a file, from all that decides its content."""
        text, context = plain_text(decides), self.context
        modules = [make.__module__ for name, make in NETWORKS.items() if plain_text(name) in text]
        own = sorted(code_digest(name) for name in modules if not name.startswith("ddlib."))
        study = context.digest, context.device, context.precision, code_digest(*DECIDING)
        return fingerprint([study, own, text, *self._files(named_files(decides))])

    @cached_property
    def _files(self) -> Callable[[tuple[Path, ...]], list[str]]:
        return cache(digests)  # a plan reads each file once


def check_folder(settings: Settings) -> list[str]:
    """Return which of CHANGES differ from the last run in the results folder; [] for a new folder.

    Raises ValueError if the folder holds another study: another SUBJECT. The last run's methods may
    be of an extension that has changed since, or is gone.
    """
    path = from_root(settings.results) / "settings.json"
    if not path.exists():
        return []
    table, advice = read_json(path), "name another folder in `results`, or delete this one"
    of_extensions = ("extensions", "methods", "search_seconds")
    now = {name: settings.table[name] for name in of_extensions if name in settings.table}
    try:
        last = Settings.read({name: table[name] for name in table.keys() - of_extensions} | now)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{settings.results} holds a study that cannot be read ({error}); {advice}"
        ) from error
    for name in SUBJECT:
        both = [getattr(part, name) for part in (last, settings)]
        if name == "data":  # a download changes no sample
            both = [options | {"download": False} for options in both]
        if both[0] != both[1]:
            was, now = (part.get(name, "the default") for part in (table, settings.table))
            raise ValueError(
                f"{settings.results} holds another study, whose {name} is {was}, not {now}; "
                f"{advice}"
            )
    try:
        last = Settings.read(table)
    except (OSError, ValueError):
        return ["methods"]
    return [name for name in CHANGES if getattr(last, name) != getattr(settings, name)]


def make_plan(settings: Settings) -> Plan:
    """Check the settings against the data, and return the plan.

    Raises ValueError or OSError, in one sentence, before anything is computed.
    """
    check_precision(settings.precision, device(settings))
    check_folder(settings)
    dataset = load(**settings.data)
    if dataset.class_count < 2:
        raise ValueError(f"{dataset.name}: one class leaves nothing to tell apart; give two")
    settings = for_kind(settings, dataset)
    network = networks.build(**settings.network, **dataset.sizes)
    for name, configuration in settings.configurations.items():
        try:
            for chosen in filter(None, [configuration, configuration.teacher]):
                chosen.build(**dataset.sizes)
        except ValueError as error:
            raise ValueError(
                f"the configuration {name!r} does not fit {dataset.name}: {error}"
            ) from None
    ipcs = read_ipcs(settings.k, dataset)
    for name, (base, parameters) in settings.methods.items():
        try:
            if check := METHODS[base].check:
                check(parameters, dataset, network, ipcs)
        except ValueError as error:
            raise ValueError(f"the method {name!r}: {error}") from None
    if settings.reference == CONVERGED:
        hold_out(dataset.train.labels, settings.converged.held_out)
    folder, cache = from_root(settings.results), from_root(settings.cache)
    for place in (cache, folder):
        check_writable(place)
    digest = data_digest(dataset)
    copy = cache / "data" / f"{dataset.name}-{digest[:12]}.safetensors"
    dataset = one_copy(dataset, digest, copy)
    where = copy.resolve(), folder.resolve(), device(settings), settings.precision
    context = Context(settings.network, digest, *where, code(), settings.extensions)
    return Plan(settings, dataset, context, ipcs, folder, cache)
