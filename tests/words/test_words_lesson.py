"""What notebook 00 says of the coverage law, for results whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from ddlib.words.coverage import lesson

COLUMNS = ["epsilon", "predictor", "p", "p_lead", "reason"]


@pytest.mark.parametrize(
    ("p", "among_equal", "verb", "verdict"),
    [
        (0.03, 0.04, "need", "confirmed"),
        (0.002, 0.04, "need", "confirmed"),
        (0.03, 0.06, "need", "not confirmed"),
        (0.03, np.nan, "need", "not decided"),
        (0.085, 0.04, "are not shown to need", "not confirmed"),
    ],
)
def test_a_trend_that_chance_shows_often_is_no_trend(p, among_equal, verb, verdict):
    """The first epsilon gives the trend; the verdict is on all tests at both."""
    rows = [(0.1, "log_members", 0.5, np.nan, ""), (0.1, "h_cov", p, 0.01, "")]
    tests = pd.DataFrame([*rows, (0.2, "h_cov", 0.01, 0.01, "")], columns=COLUMNS)
    equal = [(0.1, "h_cov", 0.01), (0.2, "h_cov", among_equal)]
    text = lesson(tests, pd.DataFrame(equal, columns=COLUMNS[:3]))
    assert text.startswith(f"**Families with a larger H_cov {verb} more samples** to hold a worst ")
    assert "gap of 0.1. If " in text
    swaps = "fewer than 1" if p < 0.01 else f"{100 * p:.0f}"
    assert f"{swaps} of 100 such swaps would show as clear a trend." in text
    assert text.endswith(f"at a worst gap of 0.1 and 0.2: **{verdict}**. See notebook 06.")


def test_what_cannot_be_said_is_said():
    """Of two goals, the one that can be tested gives the trend."""
    row = (0.1, "h_cov", np.nan, np.nan, "1 of 8 inside")
    table = pd.DataFrame([row], columns=COLUMNS)
    assert lesson(table, None) == "Nothing can be said about H_cov, as 1 of 8 inside."
    table = pd.DataFrame([row, (0.2, "h_cov", 0.01, 0.01, "")], columns=COLUMNS)
    text = lesson(table, pd.DataFrame([(0.2, "h_cov", 0.03)], columns=COLUMNS[:3]))
    assert "need more samples** to hold a worst gap of 0.2." in text
    assert text.endswith("All three, at a worst gap of 0.2: **confirmed**. See notebook 06.")
