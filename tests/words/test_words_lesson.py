"""What notebook 00 says of the coverage law, for results whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from ddlib.words import lesson


@pytest.mark.parametrize(("p", "shown"), [(0.03, "need"), (0.085, "are not shown to need")])
def test_a_trend_that_chance_shows_often_is_no_trend(p, shown):
    rows = [("log_members", 0.5, ""), ("h_cov", p, "")]
    text = lesson.coverage(pd.DataFrame(rows, columns=["predictor", "p", "reason"]))
    assert text.startswith(f"**Families with a larger H_cov {shown} more samples.** If ")
    assert f"{100 * p:.0f} of 100 such swaps would show as clear a trend." in text


def test_what_cannot_be_said_is_said():
    table = pd.DataFrame({"predictor": ["h_cov"], "p": [np.nan], "reason": ["1 of 8 inside"]})
    assert lesson.coverage(table) == "Nothing can be said about H_cov, as 1 of 8 inside."
