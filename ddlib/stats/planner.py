"""Planner: the images per class that a family of configurations needs, from a pilot.

Letters: M members of a family; D draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from ddlib.stats.intervals import Interval, interval
from ddlib.stats.pilot import REACH, Pilot, ends, read_pilot

BACK_TEST = ["name", "kind", "held_out", "k", "predicted", "low", "high", "measured", "error"]
BACK_TEST += ["inside", "refused"]


@dataclass(frozen=True)
class Plan:
    """The images per class that hold a family's worst gap at epsilon; None where refused."""

    epsilon: float
    pilot: Pilot = field(repr=False)
    class_count: int
    member: str | None = None  # the one that is worst there
    ipc: Interval | None = None  # from the smallest size measured; infinite past the pilot's reach
    draws: np.ndarray | None = field(default=None, repr=False)  # of ipc (D,)
    reason: str = ""  # why there is no plan

    @property
    def k(self) -> Interval:
        """The k of `ipc`."""
        return Interval(*(self.class_count * value for value in self.ipc))

    @property
    def doubt(self) -> str:
        """Say what speaks against a/√k + c, where the plan rests on it; empty for nothing."""
        b, last = self.pilot.exponent, self.pilot.ks[-1]
        if self.k.high <= last or (b and b.low <= 0.5 <= b.high):
            return ""
        why = f"the exponent is {b:.2f}, not 1/2" if b else "this pilot cannot test that law"
        return f"past k = {last:g} this rests on a/√k + c, and {why}"


def plan(pilot: Pilot, members: Sequence[str], epsilon: float, class_count: int) -> Plan:
    """Plan the images per class for a worst gap of epsilon over members, in the pilot or not.

    That is the smallest whole number, from the smallest size measured to twice the largest, whose
    worst gap is at most epsilon: exactly up to 100, and at most 2 % too high beyond. Refused, with
    `reason`, where the pilot cannot speak of a member and where more is needed.
    """
    refused = Plan(epsilon, pilot, class_count)
    if why := next(filter(None, map(pilot.refusal, members)), ""):
        return replace(refused, reason=why)
    reach = np.ceil(pilot.ks[0] / class_count), max(REACH * pilot.ks[-1] // class_count, 1)
    # Steps of 1 %, rounded, leave out no number up to 100 and at most 2 % beyond.
    steps = np.geomspace(*reach, 2 + int(np.log(reach[1] / reach[0]) / np.log(1.01)))
    ipcs = np.unique(np.round([*steps, *(pilot.ks // class_count)]).clip(*reach))
    curves = pilot.predict(members, ipcs * class_count)
    worst = curves.max(axis=0)
    enough = worst <= epsilon
    draws = np.where(enough.any(axis=1), ipcs[enough.argmax(axis=1)], np.inf)
    ipc = interval(np.array([np.quantile(draws, 0.5, method="higher"), *draws]))
    if np.isinf(ipc.estimate):
        gap = Interval(np.median(worst[:, -1]), *ends(worst)[:, -1])
        why = f"the worst gap is still about {gap:.3f} at {ipcs[-1]:g} images per class, {REACH} "
        return replace(
            refused, reason=f"{why}times the largest size measured; measure larger sizes"
        )
    at = curves[:, :, np.searchsorted(ipcs, ipc.estimate)]
    decides = members[np.bincount(at.argmax(axis=0)).argmax()]
    return replace(refused, member=decides, ipc=ipc, draws=draws)


def back_test(
    gaps: pd.DataFrame,
    families: Mapping[str, Sequence[str]],
    pilot_ks: Sequence[float],
    pilot_configurations: Sequence[str],
    **options,
) -> pd.DataFrame:
    """Predict, from the pilot alone, what the rest of the study measured; show the error.

    gaps, options: of `read_pilot`. One row for each configuration and family at each k of which the
    pilot lacked something. Columns: name, kind ("configuration" or "family"), held_out ("k",
    "configuration" or "both"), k, predicted (median of draws), low, high (for the measured value:
    its seeds' noise is in it), measured (the family's: its largest mean over seeds; NaN where
    trials are missing), error (predicted - measured), inside, refused (why the planner would not
    have answered; the other columns say what it would have claimed). `attrs["left"]` lists the
    configurations that no pilot can use, and the families that hold one, with the reason. Raises as
    `read_pilot`, and for an unknown pilot k, configuration or member.
    """
    whole = read_pilot(gaps, **options)
    names = list(dict.fromkeys(name for members in families.values() for name in members))
    known = {*whole.names, *whole.left}
    if unknown := [name for name in [*names, *pilot_configurations] if name not in known]:
        raise ValueError(f"no gaps of {unknown[0]!r}: no rows")
    if missing := sorted(set(pilot_ks) - set(whole.ks)):
        sizes = ", ".join(f"{k:g}" for k in whole.ks)
        raise ValueError(f"pilot k={missing[0]:g} was not measured; choose among {sizes}")
    left = [f"{name} {whole.left[name]}" for name in names if name in whole.left]
    lost = [family for family, members in families.items() if {*members} & whole.left.keys()]
    left += [f"the family {family} holds one that is left out" for family in lost]
    names = [name for name in names if name not in whole.left]
    chosen = gaps["k"].isin(pilot_ks) & gaps["configuration"].isin(pilot_configurations)
    pilot = read_pilot(gaps[chosen], **options | {"networks": whole.networks})
    claims, tables = pilot.claim(names, whole), []
    subjects = [("configuration", name, [name]) for name in names]
    subjects += [("family", name, families[name]) for name in families if name not in lost]
    for kind, name, members in subjects:
        places = [names.index(member) for member in members]
        draws, measured = (values[places].max(axis=0) for values in claims)
        table = pd.DataFrame({"name": name, "kind": kind, "held_out": "", "k": whole.ks})
        table["predicted"], (table["low"], table["high"]) = np.median(draws, axis=0), ends(draws)
        table["measured"], table["error"] = measured, table["predicted"] - measured
        table["inside"] = table["measured"].between(table["low"], table["high"])
        table["refused"] = [
            next(filter(None, (pilot.refusal(member, k) for member in members)), "")
            for k in whole.ks
        ]
        new, beyond = not {*members} <= {*pilot.names}, ~np.isin(whole.ks, pilot.ks)
        table["held_out"] = np.where(beyond, "both" if new else "k", "configuration")
        tables.append(table[new | beyond])
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=BACK_TEST)
    table.attrs["left"] = left
    return table
