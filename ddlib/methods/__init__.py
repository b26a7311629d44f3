"""The distillation methods, in one registry: to add one, write a file and an entry here.

Every method is `distil(dataset, network, ipcs, seed, parameters)` and returns one outcome a size:
`{ipc: DistilledSet}`, or a DivergedError in the place of a set whose loss is no longer finite.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ddlib.methods import distribution, gradient, selection
from ddlib.parameters import Parameters


@dataclass(frozen=True)
class Method:
    """A method: how it distils, its parameters, and whether one call shares work over sizes."""

    distil: Callable
    parameters: type[Parameters]
    shares: bool


METHODS: dict[str, Method] = {
    "random": Method(selection.random, selection.RandomSelection, shares=True),
    "herding": Method(selection.herding, selection.FeatureSelection, shares=True),
    "k_center": Method(selection.k_center, selection.FeatureSelection, shares=True),
    "dm": Method(distribution.distil, distribution.DistributionMatching, shares=True),
    "dc": Method(gradient.distil, gradient.GradientMatching, shares=False),
}
