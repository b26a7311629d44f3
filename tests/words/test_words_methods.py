"""The verdicts of notebook 02, on tables written by hand."""

import numpy as np
import pandas as pd
import pytest

from ddlib.words import methods as words


def ranking(*rows):
    """Rows of k, best method, those that are not significantly worse."""
    table = pd.DataFrame(rows, columns=["k", "best", "not_separable"])
    return table.assign(runner_up="random")


def paired(*rows):
    """Rows of k, first, second, difference, p, with a tenth of the difference as its error."""
    table = pd.DataFrame(rows, columns=["k", "first", "second", "difference", "p"])
    half = table["difference"].abs() / 10
    ends = {"low": table["difference"] - half, "high": table["difference"] + half}
    reason = np.where(table["p"].isna(), "not testable: one seed", "")
    return table.assign(**ends, p_holm=table["p"], survives=table["p"] <= 0.05, reason=reason)


PAIRS = paired(
    *((10, "random", "dm", -0.2, 0.001), (10, "random", "dc", -0.1, 0.01)),
    *((20, "random", "dm", -0.1, 0.01), (20, "random", "dc", 0.1, 0.2)),
)
RANKS = ranking((10, "dm", ()), (20, "dm", ("dc",)), (50, "dc", ("dm", "random")))
COSTS = pd.DataFrame({
    **{"method": ["random", "dm", "dm", "dc"], "k": [10, 10, 20, 10]},
    "front": [True, True, True, False],
})  # fmt: skip
ALIKE = pd.DataFrame({"differs": [False]})


def lines(pairs=PAIRS, ranks=RANKS, costs=COSTS, learned=PAIRS[:0], exponents=ALIKE):
    quote = words.verdicts(pairs, ranks, costs, learned, exponents).splitlines()
    assert all(line.startswith("> - **") for line in quote)
    return [line.removeprefix("> - ") for line in quote]


def test_the_box_has_a_line_for_each_question():
    assert lines() == [
        "**Per sample:** best is dm at k = 10 and 20; dc at k = 50. Significantly better than all "
        "others: only at k = 10.",
        "**Against random:** dm (k = 10 and 20) and dc (k = 10) significantly beat random samples.",
        "**Per second:** no cheaper set is as accurate as dm (k = 10 and 20).",
        "**Interchangeable: cannot be decided.** No two methods that learn can be compared.",
    ]


@pytest.mark.parametrize(
    ("ranks", "end"),
    [
        (ranking((10, "dm", ()), (20, "dm", ())), "better than all others: at every k."),
        (ranking((10, "dm", ("dc",))), "better than all others: at no k."),
        (ranking((10, "dm", ())).assign(runner_up=np.nan), "There is no other method."),
        (ranking(), "no method reached an accuracy."),
    ],
)
def test_who_is_best_per_sample(ranks, end):
    assert lines(ranks=ranks)[0].endswith(end)


def test_nobody_beats_random_samples_and_nothing_is_worth_its_time():
    level = PAIRS.assign(survives=False)
    assert lines(level)[1] == "**Against random:** no method significantly beats random samples."
    assert "no random beside another method" in lines(PAIRS[:0])[1]
    control = COSTS.assign(front=COSTS["method"] == "random")
    end = "a cheaper control is as accurate as every distilled set."
    assert lines(costs=control)[2].endswith(end)


@pytest.mark.parametrize(
    ("p", "differs", "verdict"),
    [
        (0.01, False, "no.** Some methods that learn differ at k = 10."),
        (0.2, True, "no.** Their gaps fall with different exponents."),
        (
            0.03,
            False,
            "perhaps.** No two methods that learn differ significantly, but differences ",
        ),
        (np.nan, False, "cannot be decided.** No two methods that learn can be compared."),
    ],
)
def test_whether_methods_are_interchangeable(p, differs, verdict):
    """Two sizes: Holm's correction doubles the smaller p, so 0.03 is not significant."""
    learned = paired((10, "dm", "dc", 0.2, p), (20, "dm", "dc", 0.1, p if np.isnan(p) else 0.5))
    line = lines(learned=learned, exponents=pd.DataFrame({"differs": [differs]}))[3]
    assert line.startswith(f"**Interchangeable: {verdict}")
    assert ("up to 0.22 are not excluded" in line) == (p == 0.03)
