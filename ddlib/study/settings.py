"""The parameters of a study, checked before anything runs.

Papermill only logs a warning for a name that a notebook does not know, and YAML has no types: here
every name and every value is looked at, and refused in one sentence.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ddlib.configurations.configuration import Configuration
from ddlib.configurations.families import Family, expand, read_configurations, read_families
from ddlib.data.base import DataSet, check_ipcs
from ddlib.data.load import load
from ddlib.data.sources import DATASETS
from ddlib.files import from_root
from ddlib.methods import METHODS
from ddlib.networks import functional as networks
from ddlib.parameters import Parameters, Text, check_names, options_of
from ddlib.stats.distances import NOISE_SEEDS, PROBES
from ddlib.study.extensions import read_extensions
from ddlib.training.recipe import Converged, Recipe

CONVERGED, SAME_STEPS = "converged", "same_steps"


class Spread(Parameters):
    """Families of equal size, from tight to wide: how large, and how many."""

    size: Annotated[int, Field(ge=2)]
    count: Annotated[int, Field(ge=2)]


class Settings(Parameters):
    """The parameters of a study, as a YAML file or a notebook's parameters cell gives them.

    data: options of `ddlib.data.load.load`, with its `name`; network: options of the network
    registered under its `name`, on which methods distil; training: fields of
    `Recipe`; configurations: {name: what it changes of network and training, and
    more}, under each of which every set is evaluated (default: the
    one of network and training); families: {name: configurations}; spread: size and count of
    families of equal size, from tight to wide; epsilons: gaps to hold; pilot: the k and the
    configurations that a plan is made from; probe: test images on which trained networks are
    compared; methods: {name: parameters}, where a name of your own says with `method: dm` whose
    variant it is; k: sizes in images in all; seeds: how many, counted from 0; evaluations:
    networks trained on each distilled set; workers: processes on this machine (default: one a
    core, or one for an accelerator), unless scheduler_address names a running Dask scheduler;
    device: "auto" for CUDA where there is one, else the CPU, or the name of a device; precision: of
    `ddlib.devices.PRECISIONS`, in which networks compute; reference: the networks on all data that
    gaps are measured from, "converged" or of the "same_steps" as on S, which are trained in any
    case; converged: fields of `Converged`; results: the folder to write, from the
    project's root; cache: the folder of what all studies share, networks trained on all data and
    what methods prepare; draws: bootstrap draws of a fit; floor_share: the share of a floor at
    which what is above it counts as spent; theory: fields of `Theory`, which notebook 04 reads;
    extensions: Python files, from the project's root, that bring methods, networks or data sets of
    your own (see `ddlib.study.extensions`).
    """

    data: Any
    network: Any
    training: Any
    methods: Any
    k: list[PositiveInt] = Field(min_length=1, examples=["[10, 50, 100]"])
    results: Text = Field(examples=["results/mine"])
    configurations: Any = None
    families: Any = None
    spread: Spread | None = None
    epsilons: list[PositiveFloat] | None = Field(None, examples=["[0.05]"])
    pilot: Any = None
    probe: PositiveInt = 500
    cache: Text = "results/cache"
    seeds: PositiveInt = 5
    evaluations: PositiveInt = 1
    workers: PositiveInt | None = None
    device: Any = "auto"
    precision: Any = "float32"
    reference: Literal[CONVERGED, SAME_STEPS] = CONVERGED
    converged: Converged = Converged()
    scheduler_address: Text | None = Field(None, examples=["tcp://host:8786"])
    draws: PositiveInt = 1000
    floor_share: PositiveFloat = 0.1
    theory: Any = None
    extensions: list[Text] | None = Field(None, examples=["[my_method.py]"])

    @property
    def references(self) -> list[str]:
        """Which networks are trained on all data, a seed and configuration."""
        return list(dict.fromkeys([self.reference, SAME_STEPS]))


class Theory(Parameters):
    """The knobs of the theory course.

    problems: random problems on which bounds are checked; dimension: weights of the linear model;
    noise: standard deviation of its labels' noise; configurations: sizes N of families when S is
    sampled; worlds: possible data sets when S goes through a channel; optimised: sizes M of
    families when S is optimised; coverage: the results folder of notebook 03.
    """

    problems: PositiveInt = 1000
    dimension: Annotated[int, Field(ge=2)] = 5
    noise: NonNegativeFloat = 0.5
    configurations: list[Annotated[int, Field(ge=2)]] = [2, 8, 32, 128, 512, 4096]
    worlds: Annotated[int, Field(ge=3)] = 16
    optimised: list[PositiveInt] = [1, 2, 4, 8, 12, 16]
    coverage: Text = "results/coverage_law/quick"


class Exploration(Parameters):
    """The parameters of notebook 05: which studies to explore.

    studies: results folders, from the project's root; empty for the example that comes with the
    library; results: the folder for the executed notebook; draws: bootstrap draws of a fit;
    floor_share: as in `Settings`.
    """

    studies: list[Text] = Field(examples=["[results/methods/quick], or empty for the example"])
    results: Text = Field(examples=["results/mine"])
    draws: PositiveInt = 200
    floor_share: PositiveFloat = 0.1


def notebook_parameters(
    namespace: Mapping[str, Any], kind: type[Parameters] = Settings
) -> dict[str, Any]:
    """Return what the parameters cells of a running notebook set, its `globals()` given.

    kind: Settings, or what else the notebook takes.
    Papermill only logs a warning for a name the notebook does not know; here every name that the
    last parameters cell assigns is returned, so that `read_settings` can refuse it. A file that
    describes a study of its own, so gives one of the settings without a default, gives them all:
    nothing that it leaves out is taken from the notebook's example.
    """
    names = set(kind.model_fields) & set(namespace)
    cells = [cell for cell in namespace["In"] if cell.startswith("# Parameters")]
    given = {
        node.id
        for statement in (ast.parse(cells[-1]).body if cells else [])
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    if given & set(kind.required()):
        names = set()
    return {name: namespace[name] for name in sorted(names | given)}


def read_parameters(given: Mapping[str, Any]) -> Settings | Exploration:
    """Return the checked parameters of a study, or of what to explore if they name `studies`."""
    return read_exploration(given) if "studies" in given else read_settings(given)


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Return `given` as settings, and use their extensions, whose names they may hold.

    Raises ValueError for a name that is unknown or missing and for a bad value, and what
    `read_extensions` raises.
    """
    settings = Settings.read(given, "this study")
    read_extensions(settings.extensions)
    return settings


def read_exploration(given: Mapping[str, Any]) -> Exploration:
    """Return `given` as what to explore; ValueError for a wrong name, a missing one or a value."""
    return Exploration.read(given, "the explorers")


def read_methods(settings: Settings) -> dict[str, tuple[str, Parameters]]:
    """Return, by the name it has in this study, every method and its checked parameters.

    The method is that of the name, or of `method:` among the parameters, so that one method can
    stand in a study several times. Raises ValueError for an unknown one or a bad parameter.
    """
    read_extensions(settings.extensions)
    if not isinstance(settings.methods, Mapping) or not settings.methods:
        raise ValueError(
            f"methods must be a table {{name: parameters}}, got {settings.methods!r}; choose from "
            f"{', '.join(METHODS)}"
        )
    read = {}
    for name, given in settings.methods.items():
        own = dict(given) if isinstance(given, Mapping) else given
        method = own.pop("method", name) if isinstance(given, Mapping) else name
        check_names([method], METHODS, "method")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(name)) or (name in METHODS and name != method):
            raise ValueError(
                f"{name!r} cannot name a variant of the method {method!r}; choose a name of "
                "letters, digits, _, - and . that is no other method's"
            )
        read[name] = method, METHODS[method].parameters.read(own, f"the method {name!r}")
    return read


def read_evaluations(settings: Settings) -> dict[str, Configuration]:
    """Return, by name, the configurations under which every distilled set is evaluated.

    Raises ValueError for a bad one, and for a training that is none.
    """
    read_extensions(settings.extensions)
    recipe = Recipe.read(settings.training, "training")
    base = {"network": network_options(settings), **vars(recipe)}
    entries = _entries(settings)
    flat = {name: changes for each in entries.values() for name, changes in each.items()}
    return read_configurations(flat, base)


def read_sets(settings: Settings) -> dict[str, Family]:
    """Return the families of configurations by name; ValueError for a bad one."""
    if settings.families is None:
        return {}
    entries = {name: list(each) for name, each in _entries(settings).items()}
    return read_families(settings.families, entries)


def _entries(settings: Settings) -> dict[str, dict[str, Any]]:
    given = settings.configurations
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"configurations must be a table {{name: changes}}, got {given!r}")
    return expand({"own": {}} if given is None else given)


def read_theory(settings: Settings) -> Theory:
    """Return the knobs of the theory course; ValueError for an unknown or a bad one."""
    knobs = Theory.read(settings.theory, "theory")
    if len(set(knobs.configurations)) < 3:
        raise ValueError(f"configurations={knobs.configurations}: a line needs 3 sizes at least")
    return knobs


def check_coverage(settings: Settings) -> None:
    """Raise ValueError, before anything runs, for a study too small to read coverage from."""
    names = list(read_evaluations(settings))
    count = len(names)
    if count < 3:
        raise ValueError(f"{count} configurations make no families; give at least 3")
    if settings.families is None:
        raise ValueError("families is missing; name at least one, a list of configurations")
    for name, least in {"seeds": NOISE_SEEDS, "probe": PROBES}.items():
        if (given := getattr(settings, name)) < least:
            raise ValueError(f"{name}={given} are too few to measure distances; choose >= {least}")
    if settings.spread and not (2 <= settings.spread.size < count):
        raise ValueError(
            f"spread: size={settings.spread.size} gives no choice among {count} "
            f"configurations; choose 2 to {count - 1}"
        )
    check_pilot(settings.pilot, settings.k, names)
    pilot = settings.pilot or default_pilot(settings.k, names)
    if len(set(pilot["k"])) < 3:
        raise ValueError(f"the pilot's k={pilot['k']} are too few to fit a law; give at least 3")


def default_pilot(ks: list[int], names: list[str]) -> dict[str, list]:
    """Return a pilot that leaves out the largest k and every second configuration, for a test."""
    return {"k": sorted(set(ks))[:-1], "configurations": names[::2]}


def check_pilot(pilot: Mapping[str, list] | None, ks: list[int], names: Iterable[str]) -> None:
    """Raise ValueError unless a pilot is a list of the study's k and one of its configurations."""
    if pilot is None:
        return
    if not isinstance(pilot, Mapping):
        raise ValueError(f"pilot={pilot!r} must be a table, such as {{k: [10, 50], ...}}")
    check_names(pilot, ["k", "configurations"], "parameter of pilot")
    for key, known in (("k", ks), ("configurations", names)):
        chosen = pilot.get(key)
        if not isinstance(chosen, list) or not chosen:
            raise ValueError(f"pilot needs {key}, a list of some of this study's, got {chosen!r}")
        check_names(map(str, chosen), map(str, known), f"{key} of this study")


def data_options(settings: Settings) -> dict[str, Any]:
    """Return the checked arguments of `load`; your own folder counts from the root."""
    read_extensions(settings.extensions)
    given = settings.data
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError(
            f"data must be a table with a name, such as {{name: mnist}}, got {given!r}"
        )
    others = {key: value for key, value in given.items() if key != "name"}
    options = {"name": given["name"], **vars(options_of(load).read(others, "data"))}
    folder = from_root(options["name"])
    own = options["name"] not in DATASETS and folder.exists()
    return {**options, "name": str(folder)} if own else options


def network_options(settings: Settings) -> dict[str, Any]:
    """Return the checked options of the network, defaults filled in, with its `name`."""
    read_extensions(settings.extensions)
    return networks.read_network(settings.network)


def read_ipcs(ks: list[int], dataset: DataSet) -> list[int]:
    """Return the images per class of the sizes `ks`, ascending; ValueError if they do not fit."""
    count = dataset.class_count
    for k in ks:
        if k % count:
            neighbours = [str(ipc * count) for ipc in (k // count, k // count + 1) if ipc]
            raise ValueError(
                f"k={k} is not a multiple of the {count} classes of {dataset.name}; choose "
                f"{' or '.join(neighbours)}"
            )
    ipcs = sorted({k // count for k in ks})
    check_ipcs(ipcs, dataset)
    return ipcs
