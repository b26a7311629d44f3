"""The distillation methods, in one registry: to add one, write a file and an entry here.

Every method is `distil(dataset, network, ipcs, seed, parameters)` and returns one outcome a size:
`{ipc: DistilledSet}`, or a DivergedError in the place of a set whose loss is no longer finite.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from ddlib.data.base import DataSet, check_ipcs
from ddlib.files import from_root
from ddlib.fingerprints import METHOD_MODULES, file_digest
from ddlib.methods import diffusion, distribution, generators, gradient, selection, trajectory
from ddlib.parameters import Parameters


@dataclass(frozen=True)
class Preparation:
    """What a method makes once for all its sizes and seeds, such as networks trained on all data.

    jobs(parameters, ipcs): a list of plain data, one a file; it holds all that decides the file
    besides the data set and the network. make(dataset, network, job): the content of that file,
    bytes. of_network: whether the network decides it; if not, studies of all networks share the
    file. length: the name, in a job, of a number of which a larger one serves as well: a study
    takes a longer file that is there.
    """

    jobs: Callable[[Any, Sequence[int]], list[dict[str, Any]]]
    make: Callable[..., bytes]
    of_network: bool = True
    length: str | None = None


@dataclass(frozen=True)
class Method:
    """A method: how it distils, its parameters, and whether one call shares work over sizes.

    With a preparation, `distil` takes the paths of its files, in the order of its jobs, as one
    more argument. outside(parameters): plain data that names what `distil` reads besides the data
    set, such as a digest of weights that the parameters give as a folder; a file that a parameter
    names, in a list or a table too, is known by its content without it.

    `distil` raises ValueError for a size that the smallest class cannot fill.
    """

    distil: Callable
    parameters: type[Parameters]
    shares: bool
    preparation: Preparation | None = None
    outside: Callable[[Any], list[Any]] = lambda parameters: []

    def __post_init__(self) -> None:
        distil = self.distil

        @wraps(distil)
        def checked(
            dataset: DataSet, network: Any, ipcs: Sequence[int], *more: Any, **named: Any
        ) -> Any:
            check_ipcs(ipcs, dataset)
            return distil(dataset, network, ipcs, *more, **named)

        object.__setattr__(self, "distil", checked)

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the modules whose code decides what it distils, besides DECIDING.

        A module of one's own may use any method of the library, so all of those count with it.
        """
        made = self.preparation
        functions = [self.distil, *([made.jobs, made.make] if made else [])]
        own = {function.__module__ for function in functions}
        return tuple(sorted(own if own <= set(METHOD_MODULES) else own.union(METHOD_MODULES)))

    def reads(self, parameters: Parameters) -> list[Any]:
        """Return plain data that names all that `distil` reads besides the data set."""
        files = filter(os.path.isfile, map(from_root, _texts(vars(parameters))))
        return [*self.outside(parameters), *map(file_digest, files)]


def _texts(plain: Any) -> Iterator[str]:
    """Yield every text in plain data, in lists and tables too; not the names in a table."""
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, Mapping | list | tuple):
        for value in plain.values() if isinstance(plain, Mapping) else plain:
            yield from _texts(value)


METHODS: dict[str, Method] = {
    "random": Method(selection.random, selection.RandomSelection, shares=True),
    "herding": Method(selection.herding, selection.FeatureSelection, shares=True),
    "k_center": Method(selection.k_center, selection.FeatureSelection, shares=True),
    "dm": Method(distribution.distil, distribution.DistributionMatching, shares=True),
    "dc": Method(gradient.distil, gradient.GradientMatching, shares=False),
    "dsa": Method(gradient.distil, gradient.SiameseGradientMatching, shares=False),
    "mtt": Method(
        trajectory.distil,
        trajectory.TrajectoryMatching,
        shares=False,
        preparation=Preparation(trajectory.jobs, trajectory.make, length="epochs"),
    ),
    "mgd3": Method(
        diffusion.distil,
        diffusion.ModeGuidedDiffusion,
        shares=True,
        preparation=Preparation(diffusion.jobs, generators.train_unet, of_network=False),
        outside=diffusion.outside,
    ),
}
