"""Sentences on the scaling law, computed from the fits."""

from collections.abc import Mapping

import pandas as pd

from ddlib.stats.compare import not_positive
from ddlib.stats.intervals import Interval
from ddlib.stats.laws import FLOOR_SHARE, LAWS, Fit
from ddlib.stats.power import detectable
from ddlib.stats.verdicts import NEAR, best, verdict
from ddlib.words.text import Text, box, listed, p_value

FEW = 4  # configurations that are named one by one
ERRORS = {"accuracy": "test error", "balanced": "balanced test error"}  # by measure
NO_WORSE = "On average, networks trained on S are no worse than those trained on D"
BALANCED = (
    "Accuracies, errors and their gaps are balanced: each class counts the same, however many "
    "samples it has. Cross-entropy is of the test set as it is."
)


def verdicts(
    errors: Mapping[str, Mapping[str, Fit]], nats: Mapping[str, Mapping[str, Fit]] | None = None
) -> Text:
    """Return one line a method: whether a/√k + c survives, and why.

    errors: the fits of the gap in error, {method: {law: Fit}}; nats: those of the gap in
    cross-entropy, whose outcome ends a line.
    """
    lines = []
    for method, fits in errors.items():
        outcome, why = _outcome(fits)
        line = f"**{method}: {outcome}.** {why[0].upper()}{why[1:]}."
        if nats:
            line += f" In cross-entropy: {_outcome(nats[method])[0]}."
        lines.append(line)
    return box(lines)


def _outcome(fits: Mapping[str, Fit]) -> tuple[str, str]:
    """Return the outcome and why, also where a test is weak or the paper allows a failure."""
    outcome, why, way = verdict(fits)
    if outcome == "survives":
        low, high = detectable(fits["free_exponent"])
        if passing := ["1/4"] * (not low >= 0.25) + ["1"] * (not high <= 1):
            why = f"a true exponent of {listed(passing, 'or')} could pass this test, too"
            return "survives a weak test", why
    why += ", which the paper's upper bound allows" * (way == "faster")
    return outcome.replace("undecided", "cannot be decided"), why


def scaling(fits_by_method: Mapping[str, Mapping[str, Fit]], unit: str, least_gain: float) -> Text:
    """Return one paragraph per method: what the verdict on a/√k + c rests on, and what follows.

    fits_by_method: {method: {law: Fit}}; unit: of the gap, such as "nats"; least_gain: the text
    names the k from which one more sample gains less than this, in units of the gap.
    """
    paragraphs = []
    for method, fits in fits_by_method.items():
        law, free = fits["inverse_sqrt"], fits["free_exponent"]
        sentences = [f"No curve can be fitted: {law.reason}."]
        if law.fitted:
            sentences = _rests_on(law, free)
            if verdict(fits).survives:
                sentences += [_power(free), *_follows(law, unit, least_gain)]
            sentences.append(_choice(fits))
        sentences += _missing(law)
        paragraphs.append(f"**{method}.** {' '.join(sentences)}")
    return Text("\n\n".join(paragraphs))


def _rests_on(law: Fit, free: Fit) -> list[str]:
    """Say which gaps are not above 0, the lack of fit, and the exponent."""
    means = zip(law.data.ks, law.data.means, strict=True)
    ks = listed(f"{k:g}" for k, mean in means if mean <= 0)
    sentences = [f"{NO_WORSE} at k = {ks}."] if ks else []
    if law.misfit is not None:
        sentences.append(f"Lack of fit of a/√k + c: {p_value(law.misfit)}.")
    if not free.fitted:
        return [*sentences, f"The exponent cannot be fitted: {free.reason}."]
    vague = "" if free.identifiable else f", which these gaps do not determine: {free.reason}"
    return [*sentences, f"Left free, the exponent is b = {free.parameters['b']}{vague}."]


def _power(free: Fit) -> str:
    low, high = detectable(free)
    ends = [f"{end:.2f} or {way}" for end, way in ((high, "more"), (low, "less")) if end == end]
    if not ends:
        return "These gaps are too noisy to tell any exponent from 1/2."
    return f"9 of 10 such studies would reject 1/2 if the true exponent were {listed(ends, 'or')}."


def _follows(law: Fit, unit: str, least_gain: float) -> list[str]:
    """Say what follows from a curve that survives: its floor, when gains end, a prediction."""
    a, c = law.parameters["a"].estimate, law.parameters["c"]
    if c.high < 0:
        floor = f"There is no floor, as c = {c} {unit} is below zero: the curve reaches zero at "
        sentences = [f"{floor}k = {(a / c.estimate) ** 2:.0f}."]
    else:
        sentences = [f"The floor is c = {c} {unit}{'' if c.low > 0 else ': it may be zero'}."]
    if c.low > 0:
        k, share = law.k_floor(FLOOR_SHARE), f"{FLOOR_SHARE:.0%}"
        sentences.append(f"It comes within {share} of the floor at k = {k}{_beyond(k, law)}.")
    k, twice = law.k_sat(least_gain), 2 * max(*law.data.ks, *law.data.missing)
    less = f"One more sample gains less than {least_gain:.2g} {unit}"
    return [
        *sentences,
        f"{less} from k = {k} on{_beyond(k, law)}.",
        f"At k = {twice:g}, not measured, the curve predicts a gap of {law.gap(twice)} {unit}.",
    ]


def _beyond(k: Interval, law: Fit) -> str:
    largest = law.data.ks[-1]
    return f", extrapolated beyond the largest k, {largest:g}" if k.estimate > largest else ""


def _choice(fits: Mapping[str, Fit]) -> str:
    laws = best(fits)
    if not laws:
        return "No law can be preferred: without a variance between seeds there is no AIC."
    first, *rivals = (LAWS[law].formula for law in laws)
    text = f"AIC prefers {first}"
    if rivals:
        text += f", with {listed(rivals)} as good (within {NEAR} units)"
    if "inverse_sqrt" not in laws:
        text += f"; a/√k + c is {fits['inverse_sqrt'].aic - fits[laws[0]].aic:.1f} units behind"
    return f"{text}."


def _missing(law: Fit) -> list[str]:
    """Say which sizes lost seeds, because networks do not diverge at random."""
    data = law.data
    sizes = [f"{count} of {data.asked} at k = {k}" for k, count in data.missing.items()]
    few = listed(k for k in data.missing if k not in data.ks)
    left_out = f"; k = {few} is left out" if few else ""
    return [f"Seeds without a gap: {listed(sizes)}{left_out}."] if sizes else []


def effort(references: pd.DataFrame) -> Text:
    """Say how long the networks on all data were trained, and how that changes their accuracy.

    It also says where gaps are balanced. references: the study's table, of one configuration.
    """
    text = _effort(references)
    return Text(f"{text} {BALANCED}" if "balanced" in set(references["measure"]) else text)


def _effort(references: pd.DataFrame) -> str:
    if (references["steps"] == 0).any():
        return "R(D) is the risk of table models fitted to all of D; they take no steps."
    if references["steps"].isna().any():
        return "It is not known how long networks on all of D must be trained: see Failures."
    kinds = {name: rows.set_index("seed") for name, rows in references.groupby("reference")}
    same, full = kinds["same_steps"], kinds.get("converged")
    if full is None:
        return (
            "R(D) is the risk of networks that take the same steps on all of D as on S: "
            f"{_length(same)}. They need not have converged: `reference: converged` trains them "
            "until they have."
        )
    end = "Longer training of seed 0 did not lower the risk on training samples held out."
    if full["capped"].any():
        end = "It may fall further: training stopped at the largest allowed number of passes, so "
        end += "raise `converged: {passes: ...}`."
    text = f"R(D) is the risk of networks trained on all of D for {_length(full)}. {end}"
    change = (same["accuracy"] - full["accuracy"]).dropna()
    if len(change):
        text += f" After only the steps taken on S ({_length(same)}) the accuracy on D changes by "
        text += f"{change.mean():+.4f} (seeds: {change.min():+.4f} to {change.max():+.4f})."
    return text


def _length(references: pd.DataFrame) -> str:
    steps, passes = references[["steps", "passes"]].iloc[0]
    return f"{int(steps):,} steps, {passes:.3g} passes over D"


def no_worse(trials: pd.DataFrame) -> list[str]:
    """Return a sentence that says where mean gaps in error are at or below 0; [] if nowhere.

    trials: the study's, of one configuration or more.
    """
    names, places = trials["configuration"].unique(), {}
    for name in names:
        for method, ks in not_positive(trials[trials["configuration"] == name]).items():
            places.setdefault(method, {})[name] = ks
    parts = []
    for method, sizes in places.items():
        under = listed(sizes) if len(sizes) <= FEW else f"{len(sizes)} configurations"
        under = f" under {under}" * (len(names) > 1)
        ks = sorted(set().union(*sizes.values()))
        some = "one or more of " * any(list(own) != ks for own in sizes.values())
        parts.append(f"{method}{under} at {some}k = {listed(ks, 'or')}")
    return [f"{NO_WORSE} for {'; '.join(parts)}."] if parts else []
