"""Sentences that say what fitted laws show, computed from the fits and never typed by hand."""

import math
from collections.abc import Mapping

from ddlib.laws import LAWS, Fit, Interval, best

SMALL_GAIN = 1e-4  # what one more image should still gain: an image in 10,000, or 1e-4 nats
NEAR = 2  # AICc units within which two laws cannot be told apart (Burnham & Anderson 2002)


class Text(str):
    """Markdown that a notebook renders and a terminal shows as it is."""

    def _repr_markdown_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return str(self)


def scaling(
    fits_by_method: Mapping[str, Mapping[str, Fit]], unit: str, tolerance: float, largest_k: int
) -> "Text":
    """Return one paragraph a method: does 1/sqrt(k) survive, and where does it saturate?

    fits_by_method: {method: {law: Fit}}; unit: what a gap counts in, such as "nats"; tolerance:
    the part of the floor at which the reducible part of the gap counts as spent; largest_k: the
    largest size that was measured; twice as many images are predicted.
    """
    paragraphs = []
    for method, fits in fits_by_method.items():
        law = fits["inverse_sqrt"]
        if law.fitted:
            sentences = [
                _exponent(fits["free_exponent"]),
                _choice(fits),
                _quality(law),
                _floor(law, unit),
                _saturation(law, tolerance, largest_k),
                _marginal(law, largest_k, unit),
                _prediction(law, 2 * largest_k, unit),
                _verdict(fits),
            ]
        else:
            sentences = [f"No curve can be fitted: {law.reason}."]
        paragraphs.append(f"**{method}.** {' '.join(filter(None, sentences))}")
    return Text("\n\n".join(paragraphs))


def effort(steps: int, batch_size: int, count: int) -> Text:
    """Say how much of all data, `count` images, the networks trained on it have seen."""
    passes = steps * batch_size / count
    seen = f"{steps} steps of {batch_size} images, {passes:.3g} passes over its {count:,} images"
    if passes >= 1:
        return Text(f"They took {seen}.")
    return Text(
        f"They took {seen}: some were never seen. Training these networks longer would lower R(D), "
        "and so raise every gap and every floor below."
    )


def between(interval: Interval) -> str:
    """Return an estimate with its interval in words: `0.31 (0.27 to 0.35)`."""
    if interval.low is None:
        return f"{_number(interval.estimate)} (no interval)"
    ends = f"{_number(interval.low)} to {_number(interval.high)}"
    return f"{_number(interval.estimate)} ({ends})"


def _number(value: float) -> str:
    if math.isinf(value):
        return "no bound"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _exponent(free: Fit) -> str:
    if not free.fitted:
        return f"The exponent cannot be fitted: {free.reason}."
    b = free.parameters["b"]
    found = f"Left free, the exponent is b = {between(b)}"
    if b.low is None or not free.identifiable:
        return f"{found}, but it is not identifiable: {free.reason}."
    if b.low <= 0.5 <= b.high:
        return f"{found}, which holds 1/2."
    return f"{found}: the gap falls {'slower' if b.high < 0.5 else 'faster'} than 1/√k."


def _choice(fits: Mapping[str, Fit]) -> str:
    choice = best(dict(fits))
    if choice is None:
        return "No law can be preferred."
    criterion = {"aicc": "AICc", "loo_error": "The leave-one-k-out error"}[choice.criterion]
    text = f"{criterion} prefers {LAWS[choice.law].formula}"
    if choice.rivals:
        text += f", which cannot be told from {_listed(LAWS[law].formula for law in choice.rivals)}"
    own = fits["inverse_sqrt"].aicc
    if choice.criterion == "aicc" and choice.law != "inverse_sqrt" and own is not None:
        behind = own - fits[choice.law].aicc
        text += f"; a/√k + c is {behind:.1f} units behind"
    return f"{text}."


def _quality(law: Fit) -> str:
    if law.r2 is None:
        return "The mean gap is the same at every k, so R² says nothing."
    above = law.r2 > law.r2_null_95
    return (
        f"a/√k + c explains R² = {law.r2:.3f} of the seed means (linear gaps), where random "
        f"falling curves reach {law.r2_null:.3f} in the middle and {law.r2_null_95:.3f} at their "
        f"best 5 %: "
        f"the law explains {'more' if above else 'no more'} than falling alone would."
    )


def _floor(law: Fit, unit: str) -> str:
    c = law.parameters["c"]
    text = f"Its floor is c = {between(c)} {unit}"
    if c.low is not None and c.low <= 0 <= c.high:
        return f"{text}, so no floor can be told from none."
    if c.high is not None and c.high < 0:
        return f"{text}: below zero, so the points fall faster than a/√k does."
    return f"{text}."


def _saturation(law: Fit, tolerance: float, largest_k: int) -> str:
    try:
        k = law.k_sat(tolerance)
    except ValueError as reason:
        return f"There is no saturation point: {reason}."
    return (
        f"Were a/√k + c the law, its reducible part would be down to {tolerance:.0%} of the floor "
        f"at k = {between(k)}{_beyond(k, largest_k)}."
    )


def _marginal(law: Fit, largest_k: int, unit: str) -> str:
    if law.parameters["a"].estimate <= 0:
        return ""
    k = law.k_marginal(SMALL_GAIN)
    return (
        f"One more image gains less than {SMALL_GAIN:g} {unit} from k = {between(k)} on"
        f"{_beyond(k, largest_k)}."
    )


def _beyond(k: Interval, largest_k: int) -> str:
    if k.estimate <= largest_k:
        return ""
    return f", which lies beyond the largest k measured, {largest_k}, and so is extrapolated"


def _prediction(law: Fit, k: int, unit: str) -> str:
    gap, low, high = law.predict(k)[["gap", "low", "high"]].iloc[0]
    interval = Interval(gap, None, None) if math.isnan(low) else Interval(gap, low, high)
    return f"At k = {k}, which was not measured, it predicts a gap of {between(interval)} {unit}."


def _verdict(fits: Mapping[str, Fit]) -> str:
    """Weigh the three conditions under which 1/sqrt(k) survives; one that fails rejects it."""
    law, free = fits["inverse_sqrt"], fits["free_exponent"]
    if not (law.identifiable and free.identifiable) or law.aicc is None:
        return "Whether 1/√k holds cannot be decided from these points."
    b = free.parameters["b"]
    least = min(fit.aicc for fit in fits.values() if fit.aicc is not None)
    against = {
        "the exponent": not b.low <= 0.5 <= b.high,
        "AICc": law.aicc - least > NEAR,
        "R²": law.r2 <= law.r2_null_95,
    }
    failed = [what for what, fails in against.items() if fails]
    if failed:
        return f"So 1/√k does not survive: against it speaks {' and '.join(failed)}."
    return "So 1/√k survives: the exponent, AICc and R² all allow it."


def _listed(names) -> str:
    names = list(names)
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
