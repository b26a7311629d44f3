"""What notebook 00 says of each law, for results whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from ddlib.stats import laws
from ddlib.words import lesson


def fitted(exponent: float) -> dict:
    ks = np.array([10, 20, 50, 100, 200, 500])
    draws = np.random.default_rng(0).normal(0, 0.002, (5, len(ks)))
    return laws.fit_all(pd.DataFrame(ks**-exponent + 0.05 + draws, columns=ks), draws=200)


def test_each_method_has_one_line_and_its_verdict():
    flat = laws.fit_all(pd.DataFrame(np.full((5, 3), 0.1), columns=[10, 20, 40]), draws=50)
    text = lesson.scaling({"dm": fitted(0.5), "dc": fitted(1.2), "random": flat})
    dm, dc, random = text.split("\n")
    assert dm == (
        "- **dm** follows the law. The points lie on a/√k + c, up to the noise of the seeds."
    )
    assert dc.startswith("- **dc** breaks the law: the exponent lies above 1/2")
    assert random.startswith("- **random** cannot be judged: ")


@pytest.mark.parametrize(("p", "shown"), [(0.03, "need"), (0.085, "are not shown to need")])
def test_a_trend_that_chance_shows_often_is_no_trend(p, shown):
    rows = [("log_members", 0.5, ""), ("h_cov", p, "")]
    text = lesson.coverage(pd.DataFrame(rows, columns=["predictor", "p", "reason"]))
    assert text.startswith(f"**Families with a larger H_cov {shown} more samples.** If ")
    assert f"{100 * p:.0f} of 100 such swaps would show as clear a trend." in text


def test_what_cannot_be_said_is_said():
    table = pd.DataFrame({"predictor": ["h_cov"], "p": [np.nan], "reason": ["1 of 8 inside"]})
    assert lesson.coverage(table) == "Nothing can be said about H_cov, as 1 of 8 inside."
