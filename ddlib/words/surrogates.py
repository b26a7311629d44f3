"""Sentences on whether methods are interchangeable surrogates of one objective."""

import pandas as pd

from ddlib.stats.compare import holm
from ddlib.stats.intervals import LEVEL, number
from ddlib.stats.surrogates import Agreement
from ddlib.words.scaling import no_worse
from ddlib.words.text import Text, bullets, listed, p_value


def surrogates(order: Agreement, pairs: pd.DataFrame, trials: pd.DataFrame) -> Text:
    """Say how the learned methods differ, and whether one order holds at every k.

    order, pairs: `agreement` and `paired` of the learned methods' trials, of `ddlib.stats`; trials:
    a sentence on gaps at or below 0 comes first.
    """
    lines = bullets([_differing(_over_all(pairs)), _order(order)])
    return Text("\n\n".join([*no_worse(trials), lines]))


def _over_all(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return pairs as corrected over all pairs and sizes."""
    return pairs.assign(survives=holm(pairs["p"]) <= LEVEL)


def interchangeable(pairs: pd.DataFrame, exponents: pd.DataFrame) -> str:
    """Return the verdict. Differing accuracies or differing exponents are enough to reject."""
    if (pairs["reason"] != "").all():  # also where there are none
        return "**Interchangeable: cannot be decided.** No two methods that learn can be compared."
    ks = sorted(pairs.loc[_over_all(pairs)["survives"], "k"].unique())
    reasons = [f"some methods that learn differ at k = {listed(ks)}"] if ks else []
    reasons += ["their gaps fall with different exponents"] * bool(exponents["differs"].any())
    if reasons:
        return f"**Interchangeable: no.** {' and '.join(reasons).capitalize()}."
    most = number(pairs[["low", "high"]].abs().max(axis=None))
    return (
        "**Interchangeable: perhaps.** No two methods that learn differ significantly, but "
        f"differences up to {most} are not excluded."
    )


def _differing(pairs: pd.DataFrame) -> str:
    tested = pairs[pairs["reason"] == ""]
    if tested.empty:
        return "No two methods can be compared."
    return (
        f"{tested['survives'].sum()} of {len(tested)} differences are significant (paired t tests, "
        "Holm's correction over all pairs and sizes)."
    )


def _order(order: Agreement) -> str:
    complete, seeds = order.seeds
    left_out = listed(order.left_out)
    caveat = f" Left out, for a size without a result: {left_out}." if left_out else ""
    if complete < seeds:
        caveat += f" {complete} of {seeds} seeds have all other results and count."
    if order.reason:
        return f"Whether one order holds at every k is not testable: {order.reason}.{caveat}"
    agrees, success = "not significantly more", ""
    if order.p <= LEVEL:
        agrees, success = "more", ", as if all served one objective with unequal success"
    return (
        f"The order of {listed(order.methods)} agrees over {len(order.ks)} sizes {agrees} than "
        f"random orders do{success} (Kendall's W = {order.w:.2f}, {p_value(order.p)}).{caveat}"
    )
