"""The parameters of a study. A YAML file is read and checked once, before anything runs."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ddlib.configurations.configuration import Configuration
from ddlib.configurations.families import expand, read_configurations, read_families
from ddlib.configurations.table_models import read_distilling_network
from ddlib.data.options import Options
from ddlib.data.sources import DATASETS, roots
from ddlib.devices import PRECISIONS
from ddlib.files import from_root
from ddlib.methods import METHODS
from ddlib.parameters import ByIpc, Parameters, Text, check_names
from ddlib.stats.distances import NOISE_SEEDS, PROBES
from ddlib.study.exploration import Exploration
from ddlib.study.extensions import read_extensions
from ddlib.training.recipe import Converged, Recipe
from ddlib.training.targets import Labels

CONVERGED, SAME_STEPS = "converged", "same_steps"
MEASURES = ("accuracy", "balanced")
TwoOrMore = Annotated[int, Field(ge=2)]
Name = Annotated[str, BeforeValidator(str)]  # YAML reads some as numbers


class Spread(Parameters):
    """Families of equal size: the size, or several, and their number at each, tight to wide."""

    size: TwoOrMore | Annotated[list[TwoOrMore], Field(min_length=1)]
    count: TwoOrMore

    @field_validator("size")
    @classmethod
    def _each_once(cls, size: int | list[int]) -> int | list[int]:
        if len(np.unique(size)) < np.size(size):
            raise ValueError(f"{size} names a size twice; name each once")
        return size


class Pilot(Parameters):
    """The part of a study from which the planner predicts; the rest tests its predictions."""

    k: list[PositiveInt]
    configurations: Annotated[list[Name], Field(min_length=1)]


class Theory(Parameters):
    """The knobs of the theory course.

    problems: random problems on which bounds are checked; dimension: weights of the linear model;
    noise: standard deviation of its labels' noise; configurations: sizes N of families when S is
    sampled; worlds: possible data sets when S goes through a channel; optimised: sizes M of
    families when S is optimised.
    """

    problems: PositiveInt = 1000
    dimension: TwoOrMore = 5
    noise: PositiveFloat = 0.5
    configurations: Annotated[list[TwoOrMore], Field(min_length=3)] = [2, 8, 32, 128, 512, 4096]
    worlds: Annotated[int, Field(ge=4)] = 16
    optimised: list[PositiveInt] = [1, 2, 4, 8, 12, 16]

    @field_validator("configurations")
    @classmethod
    def _holds_duplicates(cls, sizes: list[int]) -> list[int]:
        from ddlib.theory.channel import COPIES  # loads scipy, which a study may never need

        if len({size // COPIES for size in sizes if size >= 2 * COPIES}) < 2:
            raise ValueError(
                f"{sizes} has fewer than two sizes of {2 * COPIES} or more, {COPIES} or more "
                f"apart, so no two families of {COPIES} duplicates each; add some"
            )
        return sizes


def read_data(table: Any) -> dict[str, Any]:
    """Return the checked arguments of `load`; a folder starts at the project's root."""
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise ValueError(
            f"this must be a table with a name, such as {{name: mnist}}, got {table!r}"
        )
    options = {str(key): value for key, value in table.items() if key != "name"}
    name, folder = table["name"], from_root(table["name"])
    known = [(root / name).resolve() for root in roots()]
    if name in DATASETS and folder.is_dir() and folder.resolve() not in known:
        raise ValueError(
            f"{name!r} is a data set and a folder of this project; write ./{name} for the folder, "
            "or give it another name"
        )
    is_folder = name not in DATASETS and folder.exists()
    return {"name": str(folder) if is_folder else name, **vars(Options(**options))}


def read_methods(table: Any) -> dict[str, tuple[str, Parameters]]:
    """Return {name: (registered name, parameters)} of the methods of this study.

    A variant with a name of its own gives its method as `method: dm`.
    """
    if not isinstance(table, Mapping) or not table:
        raise ValueError(
            f"this must be a table {{name: parameters}}, got {table!r}; choose from "
            f"{', '.join(METHODS)}"
        )
    methods = {}
    for name, values in table.items():
        values = dict(values) if isinstance(values, Mapping) else values
        method = values.pop("method", name) if isinstance(values, dict) else name
        check_names([method], METHODS, "method")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(name)) or (name in METHODS and name != method):
            raise ValueError(
                f"{name!r} cannot name a variant of the method {method!r}; choose a name of "
                "letters, digits, _, - and . that is no other method's"
            )
        methods[str(name)] = method, METHODS[method].parameters.read(values, str(name))
    return methods


class Settings(Parameters):
    """The parameters of a study, as a YAML file or a notebook's parameters cell gives them.

    Paths start at the project's root.

    extensions: Python files with your own methods, networks or data sets (see
        `ddlib.study.extensions`).
    data: `ddlib.data.options.Options`, with a `name`.
    network: options of the network on which methods distil, with its registered `name`.
    labels: the labels on which every configuration trains that names no others.
    measure: the accuracy whose gaps are measured; by default "balanced", over classes, where these
        differ in size (see `Plan.measure`).
    methods: {name: parameters}, see `read_methods`.
    search_seconds: {method: {ipc: seconds}} of one core that the search for the method's settings
        took, as `ddlib.study.tune` writes them; interpolated between sizes. Notebook 02 counts
        them.
    k: sizes, in samples of all classes together.
    configurations: {name: changes of network and training}; every set is evaluated under each of
        them. See `expand` for products.
    families: {name: configurations}; spread: families of equal size.
    pilot: by default all sizes but the largest, and every second configuration.
    probe: the number of test samples on which trained networks are compared.
    cache: the folder of files that studies share: networks on all data, and prepared files.
    seeds: their number; they count from 0.
    evaluations: networks trained on each distilled set.
    workers: processes on this machine; by default one per core, or one per GPU.
    scheduler_address: a running Dask scheduler to use instead.
    device: the name of a device, or "auto" for CUDA if there is a GPU, and else the CPU.
    reference: the networks on all data from which gaps are measured: "converged", or "same_steps"
        as on S. The latter are always trained.
    draws: bootstrap draws of a fit.
    """

    extensions: Annotated[list[Text] | None, AfterValidator(read_extensions)] = Field(
        None, validate_default=True, examples=[["my_method.py"]]
    )
    data: Annotated[dict[str, Any], PlainValidator(read_data)]
    network: Annotated[dict[str, Any], PlainValidator(read_distilling_network)]
    training: Recipe
    labels: Labels = Labels()
    measure: Literal[*MEASURES] | None = None
    methods: Annotated[dict[str, tuple[str, Parameters]], PlainValidator(read_methods)]
    search_seconds: dict[Name, ByIpc[NonNegativeFloat]] = {}
    k: list[PositiveInt] = Field(min_length=1, examples=[[10, 50, 100]])
    results: Text = Field(examples=["results/mine"])
    configurations: dict[str, Configuration] = {}
    families: dict[Name, tuple[str, ...]] = {}
    spread: Spread | None = None
    epsilons: list[PositiveFloat] | None = Field(None, examples=[[0.05]])
    pilot: Pilot = Field(None, validate_default=True)
    probe: PositiveInt = 500
    cache: Text = "results/cache"
    seeds: PositiveInt = 5
    evaluations: PositiveInt = 1
    workers: PositiveInt | None = None
    device: Text = "auto"
    precision: Literal[*PRECISIONS] = "float32"
    reference: Literal[CONVERGED, SAME_STEPS] = CONVERGED
    converged: Converged = Converged()
    scheduler_address: Text | None = Field(None, examples=["tcp://host:8786"])
    draws: PositiveInt = 1000
    theory: Theory = Theory()

    _table: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, table: dict[str, Any]) -> dict[str, Any]:
        """Replace products, and their names in families, by the configurations themselves."""
        changes, families = table.get("configurations"), table.get("families")
        if not isinstance(changes, Mapping | None):
            raise ValueError(f"configurations must be a table {{name: changes}}, got {changes!r}")
        entries = expand(changes or {"own": {}})
        names = {entry: list(configurations) for entry, configurations in entries.items()}
        written = {
            "configurations": {name: entry[name] for entry in entries.values() for name in entry},
            "families": read_families(families, names) if families not in (None, {}) else {},
        }
        return table | written

    @field_validator("search_seconds")
    @classmethod
    def _of_methods(cls, seconds: dict[str, Any], others: ValidationInfo) -> dict[str, Any]:
        check_names(seconds, others.data.get("methods", seconds), "method of this study")
        return seconds

    @field_validator("configurations", mode="plain")
    @classmethod
    def _complete(cls, changes: Any, others: ValidationInfo) -> dict[str, Configuration]:
        base = {name: others.data.get(name) for name in ("network", "labels")}
        return read_configurations(changes, base | vars(others.data.get("training", Recipe())))

    @field_validator("pilot", mode="wrap")
    @classmethod
    def _read_pilot(cls, pilot: Any, read: Callable, others: ValidationInfo) -> Pilot:
        ks, names = others.data.get("k", []), list(others.data.get("configurations", []))
        if pilot is None:
            return Pilot(k=sorted(set(ks))[:-1], configurations=names[::2])
        pilot = read(pilot)
        check_names(map(str, pilot.k), map(str, ks), "k of this study")
        check_names(pilot.configurations, names, "configuration of this study")
        return pilot

    @classmethod
    def read(cls, table: Any, what: str = "this study") -> Self:
        """Return the settings in a table; see `Parameters.read`.

        Raises the errors of `read_extensions`, too.
        """
        settings = super().read(table, what)
        settings._table = dict(table)
        return settings

    @property
    def table(self) -> dict[str, Any]:
        """The table from which these settings were read."""
        return self._table

    @property
    def references(self) -> list[str]:
        """The kinds of networks that are trained on all data."""
        return list(dict.fromkeys([self.reference, SAME_STEPS]))


def read_parameters(table: Mapping[str, Any]) -> Settings | Exploration:
    """Return the checked parameters of a study, or of the explorers if they hold `studies`."""
    return Exploration.read(table, "the explorers") if "studies" in table else Settings.read(table)


def check_coverage(settings: Settings) -> None:
    """Raise ValueError if a study is too small for the coverage law."""
    count = len(settings.configurations)
    if count < 3:
        raise ValueError(f"{count} configurations make no families; give at least 3")
    if not settings.families:
        raise ValueError("families is missing; name at least one, a list of configurations")
    for name, configuration in settings.configurations.items():
        if (regime := configuration.labels.regime) != "hard":
            raise ValueError(f"{name!r} has {regime} labels, but the coverage law takes hard ones")
    for name, least in {"seeds": NOISE_SEEDS, "probe": PROBES}.items():
        if (value := getattr(settings, name)) < least:
            raise ValueError(f"{name}={value} are too few to measure distances; choose >= {least}")
    if settings.spread and np.max(settings.spread.size) >= count:
        raise ValueError(
            f"spread: size={settings.spread.size} gives no choice among {count} configurations; "
            f"choose 2 to {count - 1}"
        )
    ks = settings.pilot.k
    if len(set(ks)) < 3:
        raise ValueError(f"the pilot's k={ks} are too few to fit a law; give at least 3")
