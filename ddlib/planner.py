"""Planner: from a pilot of few k and few configurations to the images that a family needs.

Each member's gaps, in test error, are fitted by a power law with a floor; the family's worst gap is
the largest of the curves. Gaps, families, seeds and letters are those of `coverage_laws`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import pandas as pd

from ddlib import laws
from ddlib.coverage_laws import Families, lay_out, seed_weights, worst_over
from ddlib.laws import Interval

LAW = "inverse_sqrt"  # that of the paper
MEASURE = "gap_error"


@dataclass(frozen=True)
class Plan:
    """The k and images per class that hold a family's worst gap at epsilon; None if refused."""

    epsilon: float
    pilot: tuple[float, float]  # smallest and largest k measured
    member: str | None = None  # the one that needs most
    k: Interval | None = None  # infinite where the floor is above epsilon
    ipc: Interval | None = None
    spent: Interval | None = None  # where the rest is down to floor_share; None without a floor
    floor_share: float = 0.5
    doubt: str = ""  # what speaks against the law
    reason: str = ""  # why there is no plan

    @property
    def reading(self) -> str:
        """Say the plan in a few sentences."""
        goal = f"a worst gap of {self.epsilon:g}"
        if self.reason:
            return f"No plan for {goal}: {self.reason}."
        if np.isinf(self.k.estimate):
            text = f"No k reaches {goal}{said_ends(self.k)}: {self.member} levels off above it."
        else:
            text = (
                f"{goal.capitalize()} needs k = {self.k.estimate:.0f}{said_ends(self.k)}, that is "
                f"{self.ipc.estimate:.0f} images per class; {self.member} decides{self._beyond}."
            )
        if self.spent is None:
            return f"{text} No floor above 0 was found.{self.doubt}"
        found = f"{self.spent.estimate:.0f}{said_ends(self.spent)}"
        part = f"What is above its floor is down to {self.floor_share:.0%} of it at k = {found}."
        return f"{text} {part}{self.doubt}"

    @property
    def _beyond(self) -> str:
        """Say whether the k needed was measured."""
        smallest, largest = self.pilot
        past = self.k.estimate / largest
        if self.k.estimate < smallest:
            return f", and the smallest k measured, {smallest:g}, is enough"
        return f", extrapolated {past:.1f} times past the largest k measured" if past > 1 else ""


def plan(
    pilot_gaps: pd.DataFrame,
    members: Sequence[str],
    epsilon: float,
    class_count: int,
    *,
    floor_share: float = 0.5,
    draws: int = 1000,
    seed: int = 0,
) -> Plan:
    """Plan the k for a worst gap of epsilon over members from a pilot of a few k.

    Each member's gaps are fitted by LAW, and the family needs the k of the
    member that needs most. In each draw that member is chosen in another draw, so the interval
    does not lean upwards with M twice; the estimate still does, by about 15 % of k for 8 members
    that do not differ and 3 % for 4 that do (5 seeds, simulated). floor_share: see
    `laws.Fit.k_floor`. Refused, with `reason`, where the law of the deciding member is
    not identifiable. Raises as `worst_gaps`, and where the k are too few for the law.
    """
    fits = pick_fitted(fit_members(pilot_gaps, members, draws=draws, seed=seed), members)
    ks = np.sort(pilot_gaps["k"].unique())
    found = plan_from(fits, epsilon, class_count, ks, floor_share)
    decides = fits.get(found.member)
    if decides is None or decides.beats_null:
        return found
    rests = f"{decides.law.formula} explains no more of {found.member} than falling alone would"
    return replace(found, doubt=f" But {rests}, so beyond the measured sizes this is a guess.")


def fit_members(
    gaps: pd.DataFrame, members: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> dict[str, laws.Fit]:
    """Fit each member's gaps as `plan` does, for `plan_from` to use at many epsilons.

    A member with too few k has a fit without a curve, and its reason; `plan_from` needs curves.
    """
    cube = lay_out(gaps, {"pilot": members}, MEASURE)
    return {
        name: laws.fit(pd.DataFrame(values, cube.seeds, cube.ks), LAW, draws=draws, seed=seed)
        for name, values in zip(members, cube.of(members), strict=True)
    }


def pick_fitted(fits: dict[str, laws.Fit], members: Iterable[str]) -> dict[str, laws.Fit]:
    """Return the fits of members; raises ValueError where one has no curve."""
    for name in members:
        if name not in fits or not fits[name].fitted:
            why = fits[name].reason if name in fits else "no gaps"
            raise ValueError(f"no curve for {name!r}: {why}")
    return {name: fits[name] for name in members}


def plan_from(
    fits: dict[str, laws.Fit],
    epsilon: float,
    class_count: int,
    ks: Sequence[float],
    floor_share: float = 0.5,
) -> Plan:
    """Plan as `plan` does from members' fits; ks: the sizes that were measured, ascending."""
    if not class_count >= 1 or not np.isfinite(epsilon):
        raise ValueError(
            f"epsilon={epsilon}, class_count={class_count}; choose a gap, a count >= 1"
        )
    here = Plan(epsilon, (float(ks[0]), float(ks[-1])))
    needed = _needed(_coefficients(fits), epsilon)
    member = list(fits)[needed[:, 0].argmax()]
    if fits[member].reason:
        return replace(here, reason=f"{member}: {fits[member].reason}")
    k = laws.interval(_measured_elsewhere(needed))
    ipc = Interval(
        *(None if value is None else float(np.ceil(round(value / class_count, 9))) for value in k)
    )
    decides = fits[member]
    spent = decides.k_floor(floor_share) if decides.has_floor else None
    return replace(here, member=member, k=k, ipc=ipc, spent=spent, floor_share=floor_share)


def compare_plans(
    fits_by_method: dict[str, dict[str, laws.Fit]],
    epsilon: float,
    budget: float,
    class_count: int,
    ks: Sequence[float],
) -> pd.DataFrame:
    """Tabulate what every method needs for a worst gap of epsilon, the method to take first.

    fits_by_method: {method: `fit_members`}; budget: the most k that can be afforded; ks: the sizes
    that were measured. Columns: method, member (that decides), k, ipc, each with _low and _high,
    gap (worst gap predicted at the budget) with gap_low, gap_high, within (whether k is at most
    the budget), r2 of the deciding member's fit, reason (why there is no plan).
    Methods within the budget come first, by k; then those out of it, by the gap at the budget.
    """
    rows = []
    for method, fits in fits_by_method.items():
        found = plan_from(fits, epsilon, class_count, ks)
        gap = laws.interval(_measured_elsewhere(_curves(fits, [budget]))[:, 0])
        unknown = Interval(np.nan, None, None)
        row = {"method": method, "member": found.member, "reason": found.reason}
        parts = {"k": found.k or unknown, "ipc": found.ipc or unknown, "gap": gap}
        for name, value in parts.items():
            row |= zip((name, f"{name}_low", f"{name}_high"), value, strict=True)
        row["within"] = bool(found.k and found.k.estimate <= budget)
        row["r2"] = fits[found.member].r2 if found.member else None
        rows.append(row)
    table = pd.DataFrame(rows)
    table["order"] = table["k"].where(table["within"], table["gap"])
    table = table.sort_values(["within", "order"], ascending=[False, True], kind="stable")
    return table.drop(columns="order").reset_index(drop=True)


def better_spend(
    gaps: pd.DataFrame, members: Sequence[str], k: float, *, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare, at k, doubling the images of a method with switching to another, by fitted laws.

    gaps: with a column method. One row an ordered pair; columns: method, other, k, gap (worst over
    members), doubling (its fall from k to 2k), switch (its fall from method to other at k), each
    with _low and _high, better ("more images", "switch" or "" where the draws do not tell).
    Draws reweight the same seeds in both methods. Raises as `plan`, and for one method.
    """
    curves = {}
    for method, own in gaps.groupby("method", sort=False):
        fits = pick_fitted(fit_members(own, members, draws=draws, seed=seed), members)
        curves[method] = _measured_elsewhere(_curves(fits, [k, 2 * k], draws))
    if len(curves) < 2:
        raise ValueError(f"{len(curves)} method; give gaps of at least 2 to compare")
    rows = []
    for method, other in permutations(curves, 2):
        here = curves[method][:, 0]
        parts = {"gap": here, "doubling": here - curves[method][:, 1]}
        parts["switch"] = here - curves[other][:, 0]
        row = {"method": method, "other": other, "k": k}
        for name, values in parts.items():
            row |= zip((name, f"{name}_low", f"{name}_high"), laws.interval(values), strict=True)
        _, low, high = laws.interval(parts["doubling"] - parts["switch"])
        rows.append(row | {"better": "more images" if low > 0 else "switch" if high < 0 else ""})
    return pd.DataFrame(rows)


def back_test(
    gaps: pd.DataFrame,
    families: Families,
    pilot_ks: Sequence[float],
    pilot_configurations: Sequence[str],
    *,
    distances: pd.DataFrame | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict, from the pilot alone, what the rest of the study measured; show the error.

    A pilot configuration is predicted by its own fitted law; another by that of the nearest pilot
    configuration in `distances` (C, C), or without distances as one more draw from the pilot's
    spread (Student t); a family by its worst member. One row for each configuration and family at
    each k of which the pilot lacked something. Columns: name, kind ("configuration" or "family"),
    held_out ("k", "configuration" or "both"), k, predicted (median of draws), low, high (for the
    measured value: its seeds' noise is in it), measured (see `worst_gaps`), error (predicted -
    measured), inside. Raises ValueError for an unknown pilot k or configuration, and where one
    pilot configuration would have to show a spread.
    """
    everyone = list(dict.fromkeys(name for members in families.values() for name in members))
    cube = lay_out(gaps, {**families, "pilot": pilot_configurations}, MEASURE)
    if missing := sorted(set(pilot_ks) - set(cube.ks)):
        known = ", ".join(f"{k:g}" for k in cube.ks)
        raise ValueError(f"pilot k={missing[0]:g} was not measured; choose among {known}")
    pilot_gaps = gaps[gaps["k"].isin(pilot_ks)]
    fits = fit_members(pilot_gaps, pilot_configurations, draws=draws, seed=seed)
    fits = pick_fitted(fits, pilot_configurations)
    curves = _all_curves(fits, everyone, cube.ks, distances, draws, seed)
    weights, rows = seed_weights(cube.seeds, draws, seed), []
    subjects = [(name, "configuration", [name]) for name in everyone]
    for name, kind, members in subjects + [(f, "family", m) for f, m in families.items()]:
        pilot = np.array([curves[member] for member in members if member in fits])
        parts = [curves[member] for member in members if member not in fits]
        held = {True: "both", False: "configuration"} if parts else {True: "k", False: ""}
        predicted = np.max([*parts, *([_measured_elsewhere(pilot)] if len(pilot) else [])], axis=0)
        measured = worst_over(cube.of(members), weights)
        for j, k in enumerate(cube.ks):
            if lacked := held[k not in pilot_ks]:
                rows.append((name, kind, lacked, k, *_compared(predicted[:, j], measured[:, j])))
    names = ["predicted", "low", "high", "measured", "error", "inside"]
    return pd.DataFrame(rows, columns=["name", "kind", "held_out", "k", *names])


def said_ends(interval: Interval) -> str:
    """Say the ends of an interval in brackets; nothing where it has none."""
    if interval.low is None or np.isinf(interval.low):
        return ""
    high = "no bound" if np.isinf(interval.high) else f"{interval.high:.0f}"
    return f" (95 % interval {interval.low:.0f} to {high})"


def _coefficients(fits: dict[str, laws.Fit], draws: int | None = None) -> np.ndarray:
    """Return (a, theta, c) of fits (M, 1 + D, 3); a fit without draws repeats its estimate.

    draws: how many there are to be, where perhaps no fit has any.
    """
    rows = [fit.coefficients for fit in fits.values()]
    count = max(map(len, rows)) if draws is None else 1 + draws
    return np.stack([np.broadcast_to(row, (count, 3)) for row in rows])


def _curves(fits: dict[str, laws.Fit], ks, draws: int | None = None) -> np.ndarray:
    """Return the fitted gaps (M, 1 + D, K) at ks; draws: see `_coefficients`."""
    return laws.LAWS[LAW].curve(np.asarray(ks, dtype=float), _coefficients(fits, draws))


def _needed(coefficients: np.ndarray, epsilon: float) -> np.ndarray:
    """Return the k (M, 1 + D) at which power laws fall to epsilon: 0 always, inf never."""
    a, b, c = np.moveaxis(coefficients, -1, 0)
    room = epsilon - c
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        k = np.where(a > 0, a / room, 0.0) ** (1 / b)
    return np.where(room <= 0, np.where((a <= 0) & (room == 0), 0.0, np.inf), k)


def _measured_elsewhere(values: np.ndarray) -> np.ndarray:
    """Return the largest of members (M, 1 + D, ...), chosen in one draw and taken from the next."""
    chosen = values.argmax(axis=0)
    chosen[1:] = np.roll(chosen[1:], 1, axis=0)
    return np.take_along_axis(values, chosen[None], axis=0)[0]


def _all_curves(fits, names, ks, distances, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Return the gaps (1 + D, K) that the pilot's fits predict for each name, in the pilot or not.

    A configuration outside the pilot takes the nearest curve, or mean and spread of all.
    """
    pilot, generator = _curves(fits, ks, draws), np.random.default_rng([seed, 1])
    curves, known = dict(zip(fits, pilot, strict=True)), list(fits)
    if len(known) < 2 and distances is None and set(names) - set(known):
        raise ValueError("one pilot configuration shows no spread; give 2 or more, or distances")
    for name in names:
        if name in fits:
            continue
        if distances is not None:
            curves[name] = curves[distances.loc[name, known].idxmin()]
        else:
            spread = pilot.std(axis=0, ddof=1) * np.sqrt(1 + 1 / len(known))
            shifts = generator.standard_t(len(known) - 1, (1 + draws, 1))
            curves[name] = pilot.mean(axis=0) + shifts * spread
    return curves


def _compared(predicted: np.ndarray, measured: np.ndarray) -> tuple:
    """Return predicted, low, high, measured, error, inside for draws (1 + D,) of both."""
    centre, value = float(np.median(predicted)), float(measured[0])
    _, low, high = laws.interval(predicted + measured - value)
    return centre, low, high, value, centre - value, bool(low <= value <= high)
