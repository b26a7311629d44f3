"""Planner: the images per class that a family of configurations needs, from a small pilot.

Between measured sizes a configuration's gap follows a/√k + c through its two neighbours. Past its
largest size it goes on with the slope a of all its sizes; how far that misses is measured inside
the pilot, where the smallest sizes predict the next one. A configuration outside the pilot is one
more draw from those inside. `docs/statistics.md` shows how often simulated intervals held.

Letters: C configurations, S seeds and K sizes of the pilot; M members of a family; D draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ddlib.stats import laws
from ddlib.stats.intervals import LEVEL, Interval, interval, seed_multipliers
from ddlib.stats.means import gap_cube

CLAIMED = 1 - LEVEL  # the level of all intervals
REACH = 2  # the planner answers up to so many times the largest size of the pilot
SIZES = 3  # that a configuration of the pilot needs: two for a slope, one for a miss
PEERS = 4  # configurations that are needed to speak of another: two coefficients, two to spare


@dataclass(frozen=True)
class Pilot:
    """The gaps of one method at a few sizes, and what they say of others; see `read_pilot`."""

    names: list[str]
    ks: np.ndarray  # (K,), ascending
    seeds: np.ndarray  # ids
    gaps: np.ndarray = field(repr=False)  # (C, S, K), NaN where a trial is missing
    left: dict[str, str]  # configurations that cannot be used, and why
    networks: Mapping[str, str]  # of every configuration that can be asked about
    draws: int
    seed: int

    @cached_property
    def means(self) -> np.ndarray:
        """The mean gaps over seeds (C, K), NaN where fewer than two ended."""
        counts = (~np.isnan(self.gaps)).sum(axis=1)
        return np.where(counts > 1, np.nansum(self.gaps, axis=1), np.nan) / np.maximum(counts, 1)

    @cached_property
    def noise(self) -> np.ndarray:
        """Draws of the errors that seeds leave in the means (C, D, K)."""
        counts = (~np.isnan(self.gaps)).sum(axis=1)
        roots = np.sqrt(np.maximum(counts * (counts - 1), 1))
        errors = np.nan_to_num((self.gaps - self.means[:, None]) / roots[:, None])
        return seed_multipliers(self.seeds, self.draws, self.seed) @ errors

    @cached_property
    def exponent(self) -> Interval | None:
        """The b of a/k^b + c, for the mean gap of all configurations; None if it has none.

        A seed counts at a size where every configuration has a gap.
        """
        middle = pd.DataFrame(self.gaps.mean(axis=0), index=self.seeds, columns=self.ks)
        fit = laws.fit(middle, "free_exponent", draws=self.draws, seed=self.seed)
        b = fit.parameters.get("b")
        return b if b and b.low is not None else None

    def refusal(self, name: str, k: float | None = None) -> str:
        """Say why the pilot cannot speak of a configuration (at k); empty where it can."""
        if k is not None and not self.ks[0] <= k <= REACH * self.ks[-1]:
            return f"k = {k:g} is not between {self.ks[0]:g} and {REACH} times {self.ks[-1]:g}"
        if name in self.left:
            return f"{name} {self.left[name]}"
        if name in self.names:
            return ""
        network, known = self.networks.get(name), {self.networks.get(n) for n in self.names}
        if network is None or network not in known:
            inside = ", ".join(sorted(filter(None, known))) or "unknown"
            return f"the network of {name} ({network or 'unknown'}) is not in the pilot ({inside})"
        few = f"{name} is not in the pilot; {PEERS} others are needed to speak of it"
        return few if len(self.names) < PEERS else ""

    def predict(self, names: Sequence[str], ks: Sequence[float]) -> np.ndarray:
        """Draw the mean gaps (M, D, n) that configurations have at ks (n,), measured or not.

        Seeds, the law's misses and the pilot's mean are drawn once for all members, so the largest
        of a draw is one of the family's worst gap. New configurations are multivariate Student t
        with C - 2 degrees of freedom, as their a and c are two.
        """
        generator, count = np.random.default_rng([self.seed, 1]), len(self.names)
        ks, (size, cases) = np.asarray(ks, dtype=float), self._misses
        missed = size * generator.standard_t(cases, (self.draws, 1))
        law, drawn = [], []
        for means, noise in zip(self.means, self.noise, strict=True):
            known = ~np.isnan(means)
            weights, slope = _weights(self.ks[known], ks)
            past = np.sqrt(np.log(np.maximum(ks / self.ks[known][-1], 1.0)))
            law.append(weights @ means[known] + abs(slope @ means[known]) * past * missed)
            drawn.append(law[-1] + noise[:, known] @ weights.T)
        drawn, apart = np.array(drawn), law - np.mean(law, axis=0)
        common = generator.standard_normal((self.draws, count)) / np.sqrt(count)
        spread = np.sqrt(generator.chisquare(max(count - 2, 1), (self.draws, 1)))
        curves = []
        for name in names:
            if name in self.names:
                curves.append(drawn[self.names.index(name)])
                continue
            mix = (common + generator.standard_normal(common.shape)) / spread
            curves.append(drawn.mean(axis=0) + np.einsum("dc,cdn->dn", mix, apart))
        return np.array(curves)

    def claim(self, names: Sequence[str], whole: "Pilot") -> tuple[np.ndarray, np.ndarray]:
        """Draw what `whole` should measure (M, D, n) at its sizes; return what it did (M, n)."""
        rows = [whole.names.index(name) for name in names]
        # The spread between gaps measured at a size of the pilot has their noise in it already.
        new = np.array([name in self.names for name in names])[:, None] | ~np.isin(
            whole.ks, self.ks
        )
        return self.predict(names, whole.ks) - new[:, None] * whole.noise[rows], whole.means[rows]

    @cached_property
    def left_out(self) -> tuple[int, int]:
        """Leave each configuration out in turn, then the largest size: intervals that held; all.

        Only what the planner would have answered counts.
        """
        rows, inside = np.arange(len(self.names)), []
        tests = [(self._part(rows != i, slice(None)), [name]) for i, name in enumerate(self.names)]
        if len(self.ks) > SIZES:
            shorter = self._part(~np.isnan(self.means).any(axis=1), slice(-1))
            tests.append((shorter, shorter.names))
        for part, names in tests:
            if names and not any(map(part.refusal, names)):
                draws, measured = part.claim(names, self)
                low, high = _ends(draws)
                new = [k not in part.ks or names[0] not in part.names for k in self.ks]
                new &= (self.ks <= REACH * part.ks[-1]) & ~np.isnan(measured)
                inside += list(((low <= measured) & (measured <= high))[new])
        return int(np.sum(inside)), len(inside)

    def _part(self, rows: np.ndarray, columns: slice) -> "Pilot":
        names, gaps = list(np.array(self.names)[rows]), self.gaps[rows][:, :, columns]
        return replace(self, names=names, ks=self.ks[columns], gaps=gaps)

    @cached_property
    def _misses(self) -> tuple[float, int]:
        """Return the size of the law's misses, over slope and root log distance; their number.

        A miss is what the smaller sizes of a configuration miss at the next one; its variance grows
        with log distance. Seeds' noise is in it: simulated intervals were too narrow without.
        """
        squares, scale, cases = 0.0, 0.0, 0
        for means in self.means:
            known, gaps = self.ks[~np.isnan(means)], means[~np.isnan(means)]
            slope = _weights(known, known)[1] @ gaps
            for m in range(2, len(known)):
                predicted = _weights(known[:m], known[m : m + 1])[0][0] @ gaps[:m]
                squares, cases = squares + (gaps[m] - predicted) ** 2, cases + 1
                scale += slope**2 * np.log(known[m] / known[m - 1])
        return (float(np.sqrt(squares / scale)) if scale else 0.0), cases


def read_pilot(
    gaps: pd.DataFrame,
    *,
    networks: Mapping[str, str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Pilot:
    """Read a pilot from gaps of one method: configuration, seed, k, gap_error, perhaps status.

    networks: the network of every configuration, in the pilot or to be asked about; by default
    what a column `network` says. Raises as `gap_cube`, and ValueError where no configuration has
    gaps of two seeds at three sizes.
    """
    if networks is None:
        networks = dict(zip(gaps["configuration"], gaps.get("network", []), strict=False))
    cube = gap_cube(gaps)
    sizes = ((~np.isnan(cube.values)).sum(axis=1) > 1).sum(axis=1)
    left = {
        name: f"has gaps of two seeds at {count} sizes; it needs {SIZES}"
        for name, count in zip(cube.names, sizes, strict=True)
        if count < SIZES
    }
    if len(left) == len(cube.names):
        raise ValueError(f"no pilot: {cube.names[0]} {left[cube.names[0]]}")
    names, values = [name for name in cube.names if name not in left], cube.values[sizes >= SIZES]
    return Pilot(names, cube.ks, cube.seeds, values, left, networks, draws, seed)


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
    `reason`, where the pilot cannot speak of a member and where more is needed. Raises ValueError
    for no members, an epsilon that is no number, and a class count below 1.
    """
    if not class_count >= 1 or not np.isfinite(epsilon) or not len(members):
        asked = f"epsilon={epsilon}, class_count={class_count}, {len(members)} members"
        raise ValueError(f"{asked}; choose a gap, a count >= 1, and name a configuration")
    refused = Plan(epsilon, pilot, class_count)
    if why := next(filter(None, map(pilot.refusal, members)), ""):
        return replace(refused, reason=why)
    ends = np.ceil(pilot.ks[0] / class_count), max(REACH * pilot.ks[-1] // class_count, 1)
    # Steps of 1 %, rounded, leave out no number up to 100 and at most 2 % beyond.
    steps = np.geomspace(*ends, 2 + int(np.log(ends[1] / ends[0]) / np.log(1.01)))
    ipcs = np.unique(np.round([*steps, *(pilot.ks // class_count)]).clip(*ends))
    curves = pilot.predict(members, ipcs * class_count)
    worst = curves.max(axis=0)
    enough = worst <= epsilon
    draws = np.where(enough.any(axis=1), ipcs[enough.argmax(axis=1)], np.inf)
    ipc = interval(np.array([np.quantile(draws, 0.5, method="higher"), *draws]))
    if np.isinf(ipc.estimate):
        gap = Interval(np.median(worst[:, -1]), *_ends(worst)[:, -1])
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
    have answered; the other columns say what it would have claimed). Configurations without gaps of
    two seeds at three sizes, and families that hold one, are left out: `attrs["left"]` lists them,
    with the reason. Raises as `read_pilot`, and for an unknown pilot k, configuration or member.
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
    draws, measured = pilot.claim(names, whole)
    subjects, rows = [("configuration", name, [name]) for name in names], []
    subjects += [("family", name, families[name]) for name in families if name not in lost]
    for kind, subject, members in subjects:
        places = [names.index(member) for member in members]
        drawn, values = draws[places].max(axis=0), measured[places].max(axis=0)
        centres, ends = np.median(drawn, axis=0), _ends(drawn).T
        for k, centre, (low, high), value in zip(whole.ks, centres, ends, values, strict=True):
            new = ["configuration"] * (not {*members} <= {*pilot.names}) + ["k"] * (
                k not in pilot.ks
            )
            if not new:
                continue
            why = next(filter(None, (pilot.refusal(member, k) for member in members)), "")
            row = (subject, kind, "both" if len(new) > 1 else new[0], k, centre, low, high, value)
            rows.append((*row, centre - value, bool(low <= value <= high), why))
    columns = ["name", "kind", "held_out", "k", "predicted", "low", "high", "measured", "error"]
    table = pd.DataFrame(rows, columns=[*columns, "inside", "refused"])
    table.attrs["left"] = left
    return table


def _weights(known: np.ndarray, ks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what turns gaps at known sizes into gaps at ks (n, K), and into the slope a (K,)."""
    x, wanted, units = known**-0.5, ks**-0.5, np.eye(len(known))
    slope = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    right = np.clip(np.searchsorted(known, ks), 1, len(known) - 1)
    part = ((wanted - x[right - 1]) / (x[right] - x[right - 1]))[:, None]
    inside = (1 - part) * units[right - 1] + part * units[right]
    beyond = units[-1] + np.outer(wanted - x[-1], slope)
    return np.where((ks > known[-1])[:, None], beyond, inside), slope


def _ends(draws: np.ndarray) -> np.ndarray:
    """Return the ends (2, ...) of the interval of draws (..., D, n)."""
    return np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2], axis=-2)
