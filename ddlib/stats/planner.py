"""Planner: the samples per class that a family of configurations needs, from a pilot.

Letters: M members of a family; D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ddlib.stats.intervals import Interval, interval
from ddlib.stats.pilot import REACH, Pilot, ends


@dataclass(frozen=True)
class Plan:
    """The samples per class that hold a family's worst gap at epsilon; None where refused."""

    epsilon: float
    pilot: Pilot = field(repr=False)
    class_count: int
    last: float  # the largest size that all members have
    member: str | None = None  # the one that is worst there
    ipc: Interval | None = None  # from the smallest size measured; infinite past the pilot's reach
    draws: np.ndarray | None = field(default=None, repr=False)  # of ipc (D,)
    reason: str = ""  # why there is no plan

    @property
    def k(self) -> Interval:
        """The k of `ipc`."""
        return Interval(*(self.class_count * value for value in self.ipc))

    @property
    def reach(self) -> int:
        """The most samples per class of which the plan speaks."""
        return int(max(REACH * self.last // self.class_count, 1))

    @property
    def rests_on_law(self) -> bool:
        """Whether a/√k + c decides an end of `k`, past the largest size measured."""
        return bool(self.ipc) and self.k.high > self.last

    @property
    def doubt(self) -> str:
        """Say what speaks against a/√k + c, where the plan rests on it; empty for nothing."""
        b = self.pilot.exponent
        if not self.rests_on_law or (b and b.low <= 0.5 <= b.high):
            return ""
        why = f"the exponent is {b:.2f}, not 1/2" if b else "this pilot cannot test that law"
        return f"past k = {self.last:g} this rests on a/√k + c, and {why}"


def plan(pilot: Pilot, members: Sequence[str], epsilon: float, class_count: int) -> Plan:
    """Plan the samples per class for a worst gap of epsilon over members, in the pilot or not.

    That is the smallest whole number, from the smallest size measured to twice the largest that all
    members have, whose worst gap is at most epsilon: exactly up to 100, and at most 2 % too high
    beyond. Refused, with `reason`, where the pilot cannot speak of a member and where more is
    needed.
    """
    refused = Plan(epsilon, pilot, class_count, pilot.last(members))
    if why := next(filter(None, map(pilot.refusal, members)), ""):
        return replace(refused, reason=why)
    reach = np.ceil(pilot.ks[0] / class_count), refused.reach
    # Steps of 1 %, rounded, leave out no number up to 100 and at most 2 % beyond.
    steps = np.geomspace(*reach, 2 + int(np.log(reach[1] / reach[0]) / np.log(1.01)))
    ipcs = np.unique(np.round([*steps, *(pilot.ks // class_count)]).clip(*reach))
    worst = pilot.worst(members, ipcs * class_count)
    enough = worst <= epsilon
    draws = np.where(enough.any(axis=1), ipcs[enough.argmax(axis=1)], np.inf)
    ipc = interval(np.array([np.quantile(draws, 0.5, method="higher"), *draws]))
    if np.isinf(ipc.estimate):
        gap = Interval(np.median(worst[:, -1]), *ends(worst)[:, -1])
        why = f"the worst gap is still about {gap:.3f} at {ipcs[-1]:g} samples per class, {REACH} "
        return replace(
            refused, reason=f"{why}times the largest that all members have; measure larger sizes"
        )
    at = pilot.predict(members, [ipc.estimate * class_count])[..., 0]
    decides = members[np.bincount(at.argmax(axis=0)).argmax()]
    return replace(refused, member=decides, ipc=ipc, draws=draws)
