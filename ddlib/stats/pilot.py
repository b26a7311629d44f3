"""Pilot: gaps of one method at a few sizes, and what they say of other sizes and configurations.

Between two measured sizes the gap follows the curve a/√k + c through both. Past the largest size it
continues with the slope a of all sizes. The error of that is measured inside the pilot, where the
smallest sizes predict the next one. A configuration outside the pilot is one more draw from those
inside. `docs/statistics.md` shows how often simulated intervals held.

Letters: C configurations, S seeds and K sizes of the pilot; M members of a family; D draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ddlib.stats import laws
from ddlib.stats.intervals import LEVEL, Interval, seed_multipliers
from ddlib.stats.means import gap_cube

REACH = 2  # a pilot speaks of sizes up to so many times its largest
SIZES = 3  # that a configuration needs: two for a slope, one for a miss
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
        """Draws of the errors that seeds leave in the means (C, D, K): Student t of their seeds."""
        counts = (~np.isnan(self.gaps)).sum(axis=1)
        roots = np.sqrt(np.maximum(counts * (counts - 1), 1))
        errors = np.nan_to_num((self.gaps - self.means[:, None]) / roots[:, None])
        noise = np.zeros((len(errors), self.draws, len(self.ks)))
        for count in np.unique(counts[counts > 1]):
            drawn = seed_multipliers(self.seeds, self.draws, self.seed, count - 1) @ errors
            noise = np.where((counts == count)[:, None], drawn, noise)
        return noise

    @cached_property
    def exponent(self) -> Interval | None:
        """The b of a/k^b + c, for the mean gap of all configurations; None if it has none.

        A seed counts at a size where every configuration has a gap.
        """
        middle = pd.DataFrame(self.gaps.mean(axis=0), index=self.seeds, columns=self.ks)
        fit = laws.fit(middle, "free_exponent", draws=self.draws, seed=self.seed)
        b = fit.parameters.get("b")
        return b if b and b.low is not None else None

    def refusal(self, name: str) -> str:
        """Say why the pilot cannot speak of a configuration; empty where it can."""
        if name in self.names or name in self.left:
            return f"{name} {self.left[name]}" if name in self.left else ""
        network, known = self.networks.get(name), {self.networks.get(n) for n in self.names}
        if network is None or network not in known:
            inside = ", ".join(sorted(filter(None, known))) or "unknown"
            return f"the network of {name} ({network or 'unknown'}) is not in the pilot ({inside})"
        few = f"{name} is not in the pilot; {PEERS} others are needed to speak of it"
        return few if len(self.names) < PEERS else ""

    def predict(self, names: Sequence[str], ks: Sequence[float]) -> np.ndarray:
        """Draw the mean gaps (M, D, n) that configurations have at ks (n,), measured or not.

        Seeds, errors of the law and the mean of the pilot are drawn once for all members. New
        configurations are multivariate Student t with C - 2 degrees of freedom, as a and c are two
        parameters. For the largest gap of a family see `worst`.
        """
        generator, count = self._generator(), len(self.names)
        law, noise = self._inside(ks, generator)
        drawn, deviations = law + noise, law - law.mean(axis=0)
        common = generator.standard_normal((self.draws, count)) / np.sqrt(count)
        spread = np.sqrt(generator.chisquare(max(count - 2, 1), (self.draws, 1)))

        def curve(name: str) -> np.ndarray:
            if name in self.names:
                return drawn[self.names.index(name)]
            mix = (common + generator.standard_normal(common.shape)) / spread
            return drawn.mean(axis=0) + np.einsum("dc,cdn->dn", mix, deviations)

        return np.array([curve(name) for name in names])

    def worst(self, names: Sequence[str], ks: Sequence[float]) -> np.ndarray:
        """Draw the worst gap (D, n) of configurations at ks (n,).

        The largest of noisy means is too large on average. Draws add the noise once more, so they
        exceed it by as much again: for the members of the pilot they are reflected about it. The
        spread of new configurations is no such noise, and stays.
        """
        outside, parts = [name for name in names if name not in self.names], []
        if inside := [self.names.index(name) for name in names if name in self.names]:
            law, noise = (part[inside] for part in self._inside(ks, self._generator()))
            largest = law.max(axis=0)
            parts.append(2 * largest - (law + noise).max(axis=0))
        return np.max([*parts, *self.predict(outside, ks)], axis=0)

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1])

    def _inside(
        self, ks: Sequence[float], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the law's gaps (C, D, n) of the pilot's configurations, and their seeds' noise."""
        ks, (size, cases) = np.asarray(ks, dtype=float), self._misses
        missed, law, drawn = size * generator.standard_t(cases, (self.draws, 1)), [], []
        for means, noise in zip(self.means, self.noise, strict=True):
            known = ~np.isnan(means)
            weights, slope = _weights(self.ks[known], ks)
            past = np.sqrt(np.log(np.maximum(ks / self.ks[known][-1], 1.0)))
            law.append(weights @ means[known] + abs(slope @ means[known]) * past * missed)
            drawn.append(noise[:, known] @ weights.T)
        return np.array(law), np.array(drawn)

    def last(self, names: Sequence[str]) -> float:
        """Return the largest size that all of these configurations have, if they are inside."""
        rows = [self.means[self.names.index(name)] for name in names if name in self.names]
        return min((self.ks[~np.isnan(row)][-1] for row in rows), default=self.ks[-1])

    def claim(self, names: Sequence[str], whole: "Pilot") -> tuple[np.ndarray, np.ndarray]:
        """Draw what `whole` should measure (M, D, n) at its sizes; return what it did (M, n)."""
        rows = [whole.names.index(name) for name in names]
        # New configurations at a size of the pilot: the spread of its gaps holds their noise.
        new = np.array([name in self.names for name in names])[:, None] | ~np.isin(
            whole.ks, self.ks
        )
        return self.predict(names, whole.ks) - new[:, None] * whole.noise[rows], whole.means[rows]

    def answers(self, names: Sequence[str], whole: "Pilot") -> tuple[np.ndarray, np.ndarray]:
        """Say of the gaps that `whole` adds, within REACH: does the interval hold it? how wide?"""
        draws, measured = self.claim(names, whole)
        low, high = ends(draws)
        new = ~np.isin(names, self.names)[:, None] | ~np.isin(whole.ks, self.ks)
        new &= (whole.ks <= REACH * self.ks[-1]) & ~np.isnan(measured)
        return ((low <= measured) & (measured <= high))[new], (high - low)[new]

    @cached_property
    def left_out(self) -> tuple[int, int, float]:
        """Count the intervals that held a left-out gap, and all; and return their median width.

        Each configuration is left out in turn, then the largest size. Only what the planner would
        have answered counts.
        """
        rows, held, widths = np.arange(len(self.names)), [], []
        tests = [(self._part(rows != i, slice(None)), [name]) for i, name in enumerate(self.names)]
        if len(self.ks) > SIZES:
            shorter = self._part(~np.isnan(self.means).any(axis=1), slice(-1))
            tests.append((shorter, shorter.names))
        for part, names in tests:
            if names and not any(map(part.refusal, names)):
                holds, width = part.answers(names, self)
                held, widths = [*held, *holds], [*widths, *width]
        return int(np.sum(held)), len(held), float(np.median(widths)) if widths else np.nan

    def _part(self, rows: np.ndarray, columns: slice) -> "Pilot":
        names, gaps = list(np.array(self.names)[rows]), self.gaps[rows][:, :, columns]
        return replace(self, names=names, ks=self.ks[columns], gaps=gaps)

    @cached_property
    def _misses(self) -> tuple[float, int]:
        """Return the size of the law's errors, over slope and root log distance; their number.

        The smaller sizes of a configuration predict the next one; the variance of the error grows
        with log distance. The noise of the seeds stays in it, as intervals were too narrow without.
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


def ends(draws: np.ndarray) -> np.ndarray:
    """Return the ends (2, ...) of the 95 % interval of draws (..., D, n)."""
    return np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2], axis=-2)


def _weights(known: np.ndarray, ks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what turns gaps at known sizes into gaps at ks (n, K), and into the slope a (K,)."""
    x, wanted, units = known**-0.5, ks**-0.5, np.eye(len(known))
    slope = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    right = np.clip(np.searchsorted(known, ks), 1, len(known) - 1)
    part = ((wanted - x[right - 1]) / (x[right] - x[right - 1]))[:, None]
    inside = (1 - part) * units[right - 1] + part * units[right]
    beyond = units[-1] + np.outer(wanted - x[-1], slope)
    return np.where((ks > known[-1])[:, None], beyond, inside), slope
