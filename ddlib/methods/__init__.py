"""The distillation methods, in one registry. To add one, write a file and an entry here.

A method is a function `distil(dataset, network, ipc, seed, parameters)`. It returns a DistilledSet,
or raises DivergedError if a loss is not finite. A method that shares work over sizes takes a list
`ipcs`, and returns `{ipc: DistilledSet or DivergedError}`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ddlib.data.base import DataSet, check_ipcs
from ddlib.distilled import DistilledSet
from ddlib.fingerprints import METHOD_MODULES
from ddlib.methods import (
    characteristic,
    clusters,
    difficulty,
    diffusion,
    distribution,
    gradient,
    imported,
    patches,
    recovery,
    selection,
    trained,
    trajectory,
)
from ddlib.methods.common import check_factor, check_matching
from ddlib.methods.generators import unet
from ddlib.parameters import Parameters
from ddlib.training.divergence import DivergedError, or_diverged


@dataclass(frozen=True)
class Preparation:
    """What a method makes once for all its sizes and seeds, such as networks trained on all data.

    jobs(parameters, ipcs): a job for each file, plain data that decides the file's content together
    with data set and network. make(dataset, network, job): that content, bytes. of_network: whether
    the network matters; if not, studies of all networks share the file. Methods with the same
    `make` share the files of equal jobs, such as a teacher.
    """

    jobs: Callable[[Any, Sequence[int]], list[dict[str, Any]]]
    make: Callable[..., bytes]
    of_network: bool = True

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the modules whose code decides its files, besides DECIDING."""
        return _modules_of(self.make)


@dataclass(frozen=True)
class Method:
    """A method: its function, its parameters, and whether it shares work over sizes.

    With a preparation, the function takes one more argument: the paths of the files, one for each
    job. check(parameters, dataset, network, ipcs): raises ValueError if they do not fit.
    """

    function: Callable[..., Any]
    parameters: type[Parameters]
    shares: bool = False
    preparation: Preparation | None = None
    check: Callable[[Any, DataSet, Any, Sequence[int]], None] | None = None

    def distil(
        self,
        dataset: DataSet,
        network: Any,
        ipcs: Sequence[int],
        seed: int,
        parameters: Any,
        *more: Any,
    ) -> dict[int, DistilledSet | DivergedError]:
        """Distil every size; ValueError for a size that the smallest class cannot fill.

        more: the files of the preparation, where the method has one.
        """
        check_ipcs(ipcs, dataset)
        if self.preparation and not more:
            if self.preparation.jobs(parameters, ipcs):
                raise ValueError(
                    "this method needs networks that a study trains for it; run it in a study, "
                    "such as notebook 02"
                )
            more = ([],)
        if self.check:
            self.check(parameters, dataset, network, ipcs)
        more = seed, parameters, *more
        if self.shares:
            return self.function(dataset, network, ipcs, *more)
        return {ipc: or_diverged(self.function, dataset, network, ipc, *more) for ipc in ipcs}

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the modules whose code decides its sets, besides DECIDING."""
        made = [self.preparation.jobs, self.preparation.make] if self.preparation else []
        return _modules_of(self.function, *made)


def _modules_of(*functions: Callable) -> tuple[str, ...]:
    """Return the names of the modules of functions, with all modules of a folder of methods.

    A module outside the library may use any method of the library, so all of them count.
    """
    files = {function.__module__ for function in functions}
    if not files <= set(METHOD_MODULES):
        return tuple(sorted(files.union(METHOD_MODULES)))
    folders = {file.rpartition(".")[0] for file in files} - {__name__}
    with_folders = (m for m in METHOD_MODULES if m in files or m.rpartition(".")[0] in folders)
    return tuple(sorted(with_folders))


FEATURES = {"shares": True, "preparation": Preparation(selection.jobs, trained.train_network)}
TEACHER = Preparation(trained.teacher_job, trained.train_network, of_network=False)
METHODS: dict[str, Method] = {
    "random": Method(selection.random, selection.RandomSelection, shares=True),
    "herding": Method(selection.herding, selection.FeatureSelection, **FEATURES),
    "k_center": Method(selection.k_center, selection.FeatureSelection, **FEATURES),
    "kernel_herding": Method(selection.kernel_herding, selection.KernelSelection, **FEATURES),
    "k_means": Method(clusters.k_means, clusters.Centroids),
    "nearest_to_centroid": Method(
        clusters.nearest_to_centroid, clusters.NearestSelection, **FEATURES
    ),
    "dm": Method(
        distribution.distil, distribution.DistributionMatching, shares=True, check=check_matching
    ),
    "dc": Method(gradient.distil, gradient.GradientMatching, check=check_matching),
    "dsa": Method(gradient.distil, gradient.SiameseGradientMatching, check=check_matching),
    "mtt": Method(
        trajectory.distil,
        trajectory.TrajectoryMatching,
        preparation=Preparation(trajectory.jobs, trajectory.train_expert),
    ),
    "datm": Method(
        difficulty.distil,
        difficulty.DifficultyAlignedMatching,
        preparation=Preparation(trajectory.jobs, trajectory.train_expert),
        check=difficulty.check,
    ),
    "ncfm": Method(
        characteristic.distil,
        characteristic.CharacteristicMatching,
        shares=True,
        preparation=Preparation(characteristic.jobs, trained.train_network),
        check=check_factor,
    ),
    "rded": Method(
        patches.distil, patches.RealisticPatches, preparation=TEACHER, check=patches.check
    ),
    "sre2l": Method(
        recovery.distil,
        recovery.StatisticsRecovery,
        shares=True,
        preparation=TEACHER,
        check=recovery.check_teacher,
    ),
    "mgd3": Method(
        diffusion.distil,
        diffusion.ModeGuidedDiffusion,
        shares=True,
        preparation=Preparation(diffusion.jobs, unet.train, of_network=False),
    ),
    "imported": Method(imported.distil, imported.ImportedSet, check=imported.check),
}
