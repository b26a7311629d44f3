"""Sentences that say what results show, computed from the results and never typed by hand."""

from collections import Counter
from collections.abc import Mapping

import pandas as pd

from ddlib.stats.compare import BASELINE, Agreement, against, crossings, holm, not_positive
from ddlib.stats.intervals import LEVEL, Interval, number
from ddlib.stats.laws import LAWS, Fit
from ddlib.stats.verdicts import NEAR, Verdict, best, detectable, verdict
from ddlib.words.text import Text, between, bullets, listed, p_value, sections

FEW = 4  # configurations that are named one by one


def scaling(
    fits_by_method: Mapping[str, Mapping[str, Fit]],
    unit: str,
    floor_share: float,
    least_gain: float,
) -> "Text":
    """Return one paragraph a method: does a/√k + c survive, and what follows from it if it does?

    fits_by_method: {method: {law: Fit}}; unit: what a gap counts in, such as "nats"; floor_share:
    the share of the floor at which the part of the gap above it counts as spent; least_gain: what
    one more image should still gain, in units of the gap.
    """
    paragraphs = []
    for method, fits in fits_by_method.items():
        law = fits["inverse_sqrt"]
        if law.fitted:
            judged = verdict(fits)
            sentences = [_positive(law), _verdict(judged, fits), _exponent(fits["free_exponent"])]
            if judged.survives:
                sentences += [_told(fits["free_exponent"]), _floor(law, unit)]
                sentences += [_spent(law, floor_share), _marginal(law, least_gain, unit)]
                sentences.append(_predicted(law, unit))
            sentences += [_choice(fits), _quality(law)]
        else:
            sentences = [f"No curve can be fitted: {law.reason}."]
        sentences.append(_missing(law))
        paragraphs.append(f"**{method}.** {' '.join(filter(None, sentences))}")
    return Text("\n\n".join(paragraphs))


def effort(references: pd.DataFrame) -> Text:
    """Say what R(D) is: how long the networks on all data were trained, and what that changes.

    references: the study's table, of one configuration.
    """
    kinds = {name: rows.set_index("seed") for name, rows in references.groupby("reference")}
    same = kinds["same_steps"]
    if "converged" not in kinds:
        unseen = ", and some of its images were never seen" if same["passes"].iloc[0] < 1 else ""
        return Text(
            f"R(D) is the risk of networks that take the same steps on all of D as on S: "
            f"{_length(same)}{unseen}. They need not have converged: `reference: converged` trains "
            "them until they have."
        )
    full = kinds["converged"]
    if full["steps"].isna().any():
        return Text("How long networks on all of D have to be trained is not known: see Failures.")
    behind = (full["accuracy"] - same["accuracy"]).dropna()
    if (full["steps"] == same["steps"]).all():
        compared = "Those are the same steps as on S, so there is one R(D) only"
    elif behind.empty:
        compared = "No seed has both a converged network and one of the same steps"
    else:
        compared = (
            f"Trained for the same steps as on S instead, {_length(same)}, their accuracy changes "
            f"by {-behind.mean():+.4f} (seeds: {-behind.max():+.4f} to {-behind.min():+.4f})"
        )
    if full["capped"].any():
        end = (
            "R(D) may fall further: the most passes allowed ended the training, not the "
            "cross-entropy on training images held out. Raise `converged: {passes: ...}`"
        )
    else:
        end = "Longer training of seed 0 no longer lowered the cross-entropy on images held out"
    return Text(
        f"R(D) is the risk of networks trained on all of D for {_length(full)}. {end}. {compared}."
    )


def _length(references: pd.DataFrame) -> str:
    steps, passes = references[["steps", "passes"]].iloc[0]
    return f"{int(steps):,} steps, {passes:.3g} passes over D"


def per_image(pairs: pd.DataFrame, ranks: pd.DataFrame) -> Text:
    """Say which method gives most at each k, and where each beats BASELINE or falls short.

    pairs, ranks: the tables `paired` and `ranking` of `ddlib.stats.compare`.
    """
    leaders = [*map(_leader, ranks.to_dict("records")), _tally(ranks)]
    return sections({"Per image": leaders, f"Against {BASELINE}": _over_baseline(against(pairs))})


def comparison(pairs: pd.DataFrame, ranks: pd.DataFrame, spent: pd.DataFrame) -> Text:
    """Say which method gives most per image and per second, and what the tests can tell.

    pairs, ranks, spent: the tables `paired`, `ranking` and `cost_table` of `ddlib.stats.compare`.
    """
    costs = {"Per second": [_rate(spent), _front(spent)], "The tests": [_power(pairs)]}
    return Text(f"{per_image(pairs, ranks)}\n\n{sections(costs)}")


def surrogates(
    order: Agreement,
    pairs: pd.DataFrame,
    exponents: pd.DataFrame,
    trials: pd.DataFrame | None = None,
) -> Text:
    """Say whether the learned methods behave as interchangeable surrogates of one objective.

    order, pairs: `agreement` and `paired` of the learned methods' trials; exponents: the table of
    that name, all of `ddlib.stats.compare`; trials: those whose gaps at or below 0 are said first.
    """
    pairs = pairs.assign(survives=holm(pairs["p"]) <= LEVEL)  # over all pairs and sizes
    lines = [_differing(pairs), _order(order), _swaps(crossings(pairs)), _exponents(exponents)]
    first = [] if trials is None else no_worse(trials)
    verdict = " ".join([*first, _interchangeable(order, pairs, exponents)])
    return Text(f"{verdict}\n\n{bullets(lines)}")


def no_worse(trials: pd.DataFrame) -> list[str]:
    """Say where mean gaps in error are at or below 0: one sentence, or none at all.

    trials: the study's, of one configuration or more.
    """
    configurations, places = trials.groupby("configuration", sort=False), {}
    for name, own in configurations:
        for method, ks in not_positive(own).items():
            places.setdefault(method, {})[name] = ks
    parts = []
    for method, sizes in places.items():
        if len(configurations) == 1:
            parts += [f"{method} at k = {listed(ks, 'and')}" for ks in sizes.values()]
        elif len(sizes) <= FEW:
            parts += [f"{method} under {n} at k = {listed(ks, 'and')}" for n, ks in sizes.items()]
        else:
            where = f"{len(sizes)} of {len(configurations)} configurations"
            ks = sorted(set().union(*sizes.values()))
            parts.append(f"{method} under {where} at k = {listed(ks)}")
    start = "On average, networks trained on S are no worse than those trained on D for "
    return [f"{start}{'; '.join(parts)}."] if parts else []


def _positive(law: Fit) -> str:
    """Name the sizes at which S is at least as good as D: there is no gap to speak of."""
    data = law.data
    ks = [f"{k:g}" for k, mean in zip(data.ks, data.means, strict=True) if mean <= 0]
    if not ks:
        return ""
    at = listed(ks, "and")
    return f"Networks trained on S are on average no worse than those trained on D at k = {at}."


def _verdict(judged: Verdict, fits: Mapping[str, Fit]) -> str:
    """Say the verdict. The paper's upper bound is another matter: see `_faster`."""
    law = fits["inverse_sqrt"]
    test = "" if law.misfit is None else f" (lack of fit: {p_value(law.misfit)})"
    if judged.outcome == "undecided":
        return f"Whether the curve a/√k + c holds cannot be decided: {judged.why}."
    return f"The curve a/√k + c {judged.outcome}: {judged.why}{test}.{_faster(judged, fits)}"


def _faster(judged: Verdict, fits: Mapping[str, Fit]) -> str:
    free = fits["free_exponent"]
    if judged.survives or free.misfit <= LEVEL or free.parameters["b"].low <= 0.5:
        return ""
    return " The gap falls faster, which the paper's upper bound allows."


def _exponent(free: Fit) -> str:
    if not free.fitted:
        return f"The exponent cannot be fitted: {free.reason}."
    found = f"Left free, the exponent is b = {between(free.parameters['b'])}"
    return f"{found}." if free.identifiable else f"{found}, not pinned down: {free.reason}."


def _told(free: Fit) -> str:
    """Say the power: which exponents this design tells from 1/2."""
    low, high = detectable(free)
    above = f"reject 1/2 if the true exponent were {high:.2f} or more"
    if low <= 0:
        return f"Power: no lower exponent can be told from 1/2; 9 of 10 such studies would {above}."
    return f"Power: about 9 of 10 such studies would {above}, or {low:.2f} or less."


def _choice(fits: Mapping[str, Fit]) -> str:
    choice = best(dict(fits))
    if choice is None:
        return "No law can be preferred: there is no AIC without a variance between seeds."
    text = f"AIC prefers {LAWS[choice.law].formula}"
    if choice.rivals:
        rivals = listed((LAWS[law].formula for law in choice.rivals), "and")
        text += f"; within {NEAR} units {'are' if len(choice.rivals) > 1 else 'is'} {rivals}"
    if "inverse_sqrt" not in (choice.law, *choice.rivals):
        behind = fits["inverse_sqrt"].aic - fits[choice.law].aic
        text += f"; a/√k + c is {behind:.1f} units behind"
    return f"{text}."


def _quality(law: Fit) -> str:
    """Describe R² as the paper uses it. It decides nothing."""
    if law.r2 is None:
        return ""
    return (
        f"The paper's criterion, R² with equal weights, is {law.r2:.3f}; random falling curves "
        f"reach {law.r2_null:.3f} in the median, and 5 % of them {law.r2_null_95:.3f}."
    )


def _floor(law: Fit, unit: str) -> str:
    c, a = law.parameters["c"], law.parameters["a"].estimate
    text = f"The floor is c = {between(c)} {unit}"
    if c.low > 0:
        return f"{text}."
    if c.high >= 0:
        return f"{text}: it may be zero."
    meets = f"; the curve reaches zero at k = {(a / c.estimate) ** 2:.0f}" if a > 0 else ""
    return f"{text}, below zero, so the curve has no floor{meets}."


def _spent(law: Fit, floor_share: float) -> str:
    if not law.has_floor:
        return ""  # as was said
    k = law.k_floor(floor_share)
    return (
        f"The part above the floor is down to {floor_share:.0%} of the floor at k = "
        f"{between(k)}{_beyond(k, law)}."
    )


def _marginal(law: Fit, least_gain: float, unit: str) -> str:
    k = law.k_sat(least_gain)
    return f"One more image gains less than {least_gain:.2g} {unit} from k = {between(k)} on" + (
        f"{_beyond(k, law)}."
    )


def _predicted(law: Fit, unit: str) -> str:
    k = 2 * max(*law.data.ks, *law.data.missing)
    return f"At k = {k:g}, not measured, the curve predicts a gap of {between(law.gap(k))} {unit}."


def _missing(law: Fit) -> str:
    """Say which sizes lost seeds: what diverges does not do so at random."""
    data, few = law.data, [k for k in law.data.missing if k not in law.data.ks]
    lost = [f"{count} of {data.asked} at k = {k}" for k, count in data.missing.items()]
    if not lost:
        return ""
    text = f"Seeds without a gap: {listed(lost, 'and')}"
    return f"{text}; k = {listed(few, 'and')} is left out." if few else f"{text}."


def _beyond(k: Interval, law: Fit) -> str:
    largest = law.data.ks[-1]
    return f", extrapolated beyond the largest k, {largest:g}" if k.estimate > largest else ""


def _of_row(row: Mapping, estimate: str) -> str:
    return between(Interval(row[estimate], row["low"], row["high"]))


def _leader(row: Mapping) -> str:
    text = f"k = {row['k']}: {row['best']} with {_of_row(row, 'accuracy')}"
    if not isinstance(row["runner_up"], str):
        return f"{text}, the only method."
    test = row["reason"] or f"Holm {p_value(row['p_holm'])}"
    by = f"{number(row['difference'])} " if row["difference"] > 0 else ""
    text += f", {'level with' if row['difference'] == 0 else f'{by}ahead of'} {row['runner_up']} "
    text += f"({test})"
    if row["not_separable"]:
        return f"{text}; not told from the best: {listed(row['not_separable'], 'and')}."
    return f"{text}, told from every other method."


def _tally(ranks: pd.DataFrame) -> str:
    rows = ranks[["best", "not_separable"]].itertuples(index=False)
    counts = Counter(
        method for best_one, not_separable in rows for method in (best_one, *not_separable)
    )
    if not counts:
        return "No method reached an accuracy."
    sizes = listed((f"{method} at {count}" for method, count in counts.most_common()), "and")
    return f"Best, or not told from the best, of {len(ranks)} sizes: {sizes}."


def _over_baseline(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return [f"The study has no {BASELINE} beside another method, so nothing to compare with."]
    up, told, untested = table["low"] > 0, table["survives"], table["reason"] != ""
    down = table["high"] < 0
    groups = {
        "better": up & told,
        "better before the correction only,": up & ~told,
        "worse": down & told,
        "worse before the correction only,": down & ~told,
        "not told apart": ~(up | down | untested),
        "not testable": untested,
    }
    lines = []
    for method, ks in table.groupby("method", sort=False)["k"]:
        places = {words: ks[where[ks.index]] for words, where in groups.items()}
        found = [f"{words} at k = {listed(at, 'and')}" for words, at in places.items() if len(at)]
        lines.append(f"{method}: {'; '.join(found)}.")
    return lines


def _rate(spent: pd.DataFrame) -> str:
    known = spent.dropna(subset="gain_per_second")
    if known.empty:
        return f"No method's gain over {BASELINE} for a second of distillation is known."
    top = known.loc[known["gain_per_second"].idxmax()]
    return (
        f"Most accuracy over {BASELINE} for a second of distillation: {top['method']} at k = "
        f"{top['k']}, {number(top['gain'])} in {number(top['distil_seconds'])} s."
    )


def _front(spent: pd.DataFrame) -> str:
    front = spent[spent["front"]].sort_values("seconds")
    points = (
        f"{row['method']} at k = {row['k']} ({number(row['accuracy'])} in "
        f"{number(row['seconds'])} s)"
        for row in front.to_dict("records")
    )
    text = "Not beaten in accuracy by anything as fast, distillation and one training together: "
    return f"{text}{listed(points, 'and') or 'nothing with a known time'}."


def _power(pairs: pd.DataFrame) -> str:
    tested = pairs[pairs["reason"] == ""]
    if tested.empty:
        return "No comparison can be tested: that takes two methods, two seeds and some variance."
    survivors, least = tested[tested["survives"]], 2.0 ** (1 - tested["n"].max())
    largest = tested.groupby("k").size().max()
    text = (
        f"{len(survivors)} of {len(tested)} comparisons survive Holm's correction over the pairs "
        f"at one k, which asks p ≤ {LEVEL / largest:.2g} of the first. The t test takes the "
        "differences for normal"
    )
    if least > LEVEL:
        return (
            f"{text}; the sign-flip test does not, but with {tested['n'].max()} seeds its p cannot "
            f"fall below {least:.3g}, so it can confirm nothing."
        )
    confirmed = (survivors["p_flip"] <= LEVEL).sum()
    return f"{text}; the sign-flip test does not, and finds p ≤ {LEVEL} for {confirmed} of them."


def _differing(pairs: pd.DataFrame) -> str:
    """Say at which k some pair of methods differs, after the correction over the pairs at one k."""
    tested = pairs[pairs["reason"] == ""]
    if tested.empty:
        return "No two methods can be compared."
    by_size = tested.groupby("k")["survives"].agg(["sum", "count"])
    parts = [
        f"{int(row['sum'])} of {row['count']} pairs at k = {k}" for k, row in by_size.iterrows()
    ]
    test = "paired t tests, Holm's correction over all of them"
    return f"Significant differences ({test}): {listed(parts, 'and')}."


def _order(order: Agreement) -> str:
    complete, asked = order.seeds
    lost = f" Left out, for a size without a result: {listed(order.left_out, 'and')}."
    lost = lost if order.left_out else ""
    if complete < asked:
        lost += f" {complete} of {asked} seeds have all other results and count."
    if order.reason:
        return f"Whether one order holds at every k is not testable: {order.reason}.{lost}"
    alike = "more" if order.p <= LEVEL else "not more"
    return (
        f"Over {len(order.ks)} sizes the order of {listed(order.methods, 'and')} agrees with "
        f"Kendall's W = {order.w:.2f} ({p_value(order.p)}): {alike} than random orders do.{lost}"
    )


def _swaps(swaps: pd.DataFrame) -> str:
    if swaps.empty:
        return "No two methods change places beyond doubt."
    return " ".join(
        f"{row['first']} leads {row['second']} at k = {listed(row['first_leads'], 'and')} and "
        f"trails it at k = {listed(row['second_leads'], 'and')}."
        for row in swaps.to_dict("records")
    )


def _exponents(table: pd.DataFrame) -> str:
    sound = table[table["reason"] == ""]
    if sound.empty:
        return "No two methods' exponents of a/k^b + c can be compared."
    far = [
        f"{row['first']} ({number(row['b_first'])}) and {row['second']} "
        f"({number(row['b_second'])}) differ by {_of_row(row, 'difference')}"
        for row in sound[sound["differs"]].to_dict("records")
    ]
    widest = (sound["high"] - sound["low"]).max()
    text = f"The exponents b of a/k^b + c can be compared for {len(sound)} of {len(table)} pairs: "
    none = f"none differ, within intervals up to {widest:.2g} wide"
    return f"{text}{'; '.join(far) or none}."


def _interchangeable(order: Agreement, pairs: pd.DataFrame, exponents: pd.DataFrame) -> str:
    """Weigh differences at each k, the order over k and the exponents; one is enough to reject."""
    tested = pairs[pairs["reason"] == ""]
    if tested.empty:
        return "Whether the methods are interchangeable cannot be decided from these trials."
    shared = order.p <= LEVEL
    told, bent = sorted(tested.loc[tested["survives"], "k"].unique()), exponents["differs"].any()
    if not told and not bent:
        most = pairs[["low", "high"]].abs().max(axis=None)
        return (
            "These trials do not separate the methods: they may be interchangeable, but "
            f"differences up to {number(most)} are not excluded"
            f"{', and an order that agrees over k hints at some' if shared else ''}."
        )
    against_it = [f"some differ at k = {listed(told, 'and')}"] if told else []
    if bent:
        against_it.append("their gaps fall with different exponents")
    text = f"The methods are not interchangeable: {listed(against_it, 'and')}."
    if len(crossings(pairs)):
        return f"{text} Nor is one merely better than another: some change places with k."
    if shared:
        return (
            f"{text} But their order agrees over k more than chance would (W = {order.w:.2f}; 1 if "
            "all served one objective with unequal success)."
        )
    return f"{text} Whether their order agrees over k cannot be told."
