"""Sentences on what sets cost, from tables by hand."""

import math

import pandas as pd
import pytest

from ddlib.words import methods as words


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
