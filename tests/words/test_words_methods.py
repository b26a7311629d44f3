"""The verdicts of notebook 02, and what sets cost, on tables written by hand."""

import math

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
CONTROLS = pd.DataFrame({
    **{"method": ["dm", "dm", "dm", "dc", "dc"], "k": [10, 10, 20, 10, 20]},
    "outcome": ["worse", "worse", "worse", "level", "untested"],
})  # fmt: skip
ALIKE = pd.DataFrame({"differs": [False]})


def lines(pairs=PAIRS, ranks=RANKS, controls=CONTROLS, learned=PAIRS[:0], exponents=ALIKE):
    quote = words.verdicts(pairs, ranks, controls, learned, exponents).splitlines()
    assert all(line.startswith("> - **") for line in quote)
    return [line.removeprefix("> - ") for line in quote]


def test_the_box_has_a_line_for_each_question():
    assert lines() == [
        "**Per sample:** best is dm at k = 10 and 20; dc at k = 50. Significantly better than all "
        "others: only at k = 10.",
        "**Against random:** dm (k = 10 and 20) and dc (k = 10) significantly beat random samples.",
        "**Per second:** dm (k = 10 and 20) significantly beats every control that costs less.",
        "**Interchangeable: cannot be decided.** No two methods that learn can be compared.",
    ]


@pytest.mark.parametrize(
    ("ranks", "end"),
    [
        (ranking((10, "dm", ()), (20, "dm", ())), "better than all others: at every k."),
        (ranking((10, "dm", ("dc",))), "better than all others: at no k."),
        (ranking((10, "dm", ())).assign(runner_up=np.nan), "There is no other method."),
        (ranking(), "Per sample: cannot be decided.** No method reached an accuracy."),
    ],
)
def test_who_is_best_per_sample(ranks, end):
    assert lines(ranks=ranks)[0].endswith(end)


def test_nobody_beats_random_samples_and_nothing_is_worth_its_time():
    level = PAIRS.assign(survives=False)
    assert lines(level)[1] == "**Against random:** no method significantly beats random samples."
    assert "no random beside another method" in lines(PAIRS[:0])[1]
    matched = CONTROLS.assign(outcome=["worse", "level", "level", "level", "untested"])
    second = "**Per second:** no method significantly beats every control that costs less."
    assert lines(controls=matched)[2] == second
    second = "**Per second: cannot be decided.** No control that costs less can be tested."
    assert lines(controls=CONTROLS[-1:])[2] == second


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


@pytest.fixture
def costs():
    columns = ["labels", "method", "k", "accuracy", "search_seconds", "seconds", "front"]
    rows = [
        ("hard", "random", 10, 0.5, math.nan, 1.0, True),
        ("hard", "dm", 10, 0.6, 20.0, 30.0, True),
        ("soft", "random", 10, 0.7, math.nan, 2.5, True),
        ("soft", "dm", 10, 0.6, 20.0, 32.5, False),
    ]
    return pd.DataFrame(rows, columns=columns)


def controls(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["labels", "method", "k", "control", "difference", "outcome"])


def test_where_a_cheaper_control_is_level(costs):
    table = controls(
        ("hard", "dm", 10, "random", 0.3, "worse"),
        ("hard", "dm", 20, "random", 0.02, "level"),
        ("hard", "dm", 50, "random", -0.1, "level"),
        ("hard", "dm", 100, "random", 0.1, "untested"),
        ("hard", "dm", 200, "random", 0.1, "untested"),
        ("hard", "dm", 10, "herding", 0.2, "worse"),
        ("hard", "dm", 20, "herding", 0.09, "worse"),
        ("hard", "dm", 50, "herding", 0.01, "level"),
        ("hard", "dm", 100, "herding", 0.2, "worse"),
        ("hard", "dm", 200, "herding", 0.1, "untested"),
        ("soft", "dm", 10, "random", 0.4, "worse"),
        ("soft", "mtt", 10, "random", 0.9, "untested"),
    )
    verdict, _, head, _, *lines = words.per_second(costs, table).splitlines()
    assert verdict.startswith(
        "**A control that costs less is not significantly worse in 2 of 4 cases with hard labels "
        "and 0 of 1 cases with soft labels.** A case is a method at a size."
    )
    assert verdict.endswith(
        "The largest lead that is not significant is 0.02: dm over random at k = 20, hard labels "
        "(paired t tests, Holm's correction over the pairs at one k)."
    )
    assert head == "**Controls that cost less and are not significantly worse**"
    assert lines[:3] == [
        "- dm, hard labels: random at k = 20 and 50; herding at k = 50; none at k = 10 and 100; no "
        "cheaper control is tested at k = 200.",
        "- dm, soft labels: none at k = 10.",
        "- mtt, soft labels: no cheaper control is tested at k = 10.",
    ]
    assert lines[-3:] == [
        "- Hard labels: no cheaper set is more accurate than random at k = 10 (0.5 in 1 s) or dm "
        "at k = 10 (0.6 in 30 s).",
        "- Soft labels: no cheaper set is more accurate than random at k = 10 (0.7 in 2.5 s).",
        "- The search for settings is counted for dm alone.",
    ]


def test_without_controls_or_search_the_sentences_say_so(costs):
    costs = costs.assign(search_seconds=math.nan, front=False)
    lines = words.per_second(costs, controls()).splitlines()
    assert lines == [
        "No method can be compared with a control that costs less.",
        "",
        "**Per second**",
        "",
        "- Hard labels: no set's seconds are known.",
        "- Soft labels: no set's seconds are known.",
        "- The search for settings is not counted.",
    ]
    equal = controls(("hard", "dm", 10, "random", -0.1, "level"))
    verdict = words.per_second(costs, equal).splitlines()[0]
    assert "in 1 of 1 cases with hard labels.**" in verdict
    assert "No lead falls short of significance" in verdict
