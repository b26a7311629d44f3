"""The coverage law in a few plain sentences, for notebook 00."""

import pandas as pd

from ddlib.stats.intervals import LEVEL
from ddlib.stats.regressions import confirms
from ddlib.words.text import Text, listed


def coverage(tests: pd.DataFrame, within: pd.DataFrame | None) -> Text:
    """Say whether families with a larger H_cov need more samples, and what all tests say together.

    The first sentences are on the first epsilon, the last on all. tests, within: of `regress` and
    `within_equal` in `ddlib.stats.regressions`.
    """
    rows = tests[tests["predictor"] == "h_cov"]
    row, limits = rows.iloc[0], listed(f"{epsilon:g}" for epsilon in rows["epsilon"])
    if row["reason"]:
        return Text(f"Nothing can be said about H_cov, as {row['reason']}.")
    verb = "need" if row["p"] <= LEVEL else "are not shown to need"
    return Text(
        f"**Families with a larger H_cov {verb} more samples** to hold a worst gap of "
        f"{row['epsilon']:g}. If configurations swapped their gaps at random, "
        f"{100 * row['p']:.0f} of 100 such swaps would show as clear a trend.\n\n"
        "That is one of three tests. H_cov must also explain k* better than ln M (the log of the "
        "family's size) does, and k* must rise with H_cov among families of equal size. All three, "
        f"at a worst gap of {limits}: **{confirms(tests, within)}**. See notebook 06."
    )
