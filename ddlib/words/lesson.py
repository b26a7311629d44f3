"""The coverage law in one or two plain sentences, for notebook 00."""

import pandas as pd

from ddlib.stats.intervals import LEVEL
from ddlib.words.text import Text


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
