"""One or two sentences on each law in plain words, for notebook 00."""

from collections.abc import Mapping

import pandas as pd

from ddlib.stats.intervals import LEVEL
from ddlib.stats.laws import Fit
from ddlib.stats.verdicts import verdict
from ddlib.words.text import Text, bullets

CURVES = {
    "survives": "follows the law. The points lie on a/√k + c, up to the noise of the seeds.",
    "fails": "breaks the law: {why}.",
    "undecided": "cannot be judged: {why}.",
}


def scaling(fits_by_method: Mapping[str, Mapping[str, Fit]]) -> Text:
    """Say for each method whether its gaps follow a/√k + c; fits: {method: {law: Fit}}."""
    judged = {method: verdict(fits) for method, fits in fits_by_method.items()}
    return Text(
        bullets(f"**{m}** {CURVES[v.outcome].format(why=v.why)}" for m, v in judged.items())
    )


def coverage(regressions: pd.DataFrame) -> Text:
    """Say whether families with a larger H_cov need more images.

    regressions: one row with predictor "h_cov", as `ddlib.stats.regressions.regress` returns it.
    """
    row = regressions.set_index("predictor").loc["h_cov"]
    if row["reason"]:
        return Text(f"Nothing can be said about H_cov, as {row['reason']}.")
    verb = "need" if row["p"] <= LEVEL else "are not shown to need"
    return Text(
        f"**Families with a larger H_cov {verb} more samples.** If configurations swapped their "
        f"gaps at random, {100 * row['p']:.0f} of 100 such swaps would show as clear a trend."
    )
