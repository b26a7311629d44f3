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
    **{"method": ["dm", "dm", "dc", "dc"], "k": [10, 20, 10, 20]},
    "outcome": ["ahead", "ahead", "level", "untested"],
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


@pytest.mark.parametrize(
    ("level", "others"),
    [
        ((), "significantly better than any other method"),
        (("dc",), "not significantly better than"),
    ],
)
def test_the_best_is_compared_with_any_other_method_or_those_named(level, others):
    """Of three methods dm is best; dc is its runner-up."""
    row = {"k": 10, "best": "dm", "accuracy": 0.7, "low": 0.6, "high": 0.8, "runner_up": "dc"}
    row |= {"difference": 0.1, "p_holm": 0.02, "reason": ""}
    pairs = PAIRS.query("k == 10")
    pairs = pd.concat([pairs, paired((10, "dm", "dc", 0.1, 0.02))])
    line = words.per_image(pairs, pd.DataFrame([row | {"not_separable": level}])).splitlines()[2]
    assert line.startswith(f"- k = 10: dm is best with 0.7 (0.6 to 0.8), {others}")
    every = pd.DataFrame([row | {"not_separable": ("dc", "random")}])
    assert "not significantly better than any other method." in words.per_image(pairs, every)
    assert ("better than dc." in line) == bool(level)


def test_nobody_beats_random_samples_and_nothing_is_worth_its_time():
    level = PAIRS.assign(p=0.5)
    assert lines(level)[1] == "**Against random:** no method significantly beats random samples."
    assert "no random beside another method" in lines(PAIRS[:0])[1]
    matched = CONTROLS.assign(outcome=["level", "level", "level", "untested"])
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
    names = ["labels", "method", "k", "nearest", "difference", "p_holm", "outcome"]
    return pd.DataFrame(rows, columns=names)


COMPARED = controls(
    ("hard", "dm", 10, "random", 0.3, 0.001, "ahead"),
    ("hard", "dc", 10, "random", 0.02, 0.2, "level"),
    ("hard", "dm", 20, "herding", -0.0123, 1.0, "level"),
    ("hard", "dc", 20, "herding", 0.05, 0.04, "ahead"),
    ("hard", "dm", 50, "herding", 0.2, 0.01, "ahead"),
    ("hard", "dc", 50, "", math.nan, math.nan, "untested"),
    ("soft", "dm", 10, "random", 0.01, 0.6, "level"),
    ("soft", "mtt", 10, "", math.nan, math.nan, "untested"),
)


def test_who_is_ahead_of_every_cheaper_control(costs):
    verdict, _, head, _, *lines = words.per_second(costs, COMPARED).splitlines()
    assert verdict == (
        "**A control that costs less is not significantly worse in 2 of 5 cases with hard labels "
        "and 1 of 1 cases with soft labels.** A case is a method at a size. Its p is the largest "
        "against the controls that cost less, the control with that p is the nearest, and Holm's "
        "correction is over the methods at one k. The largest lead over the nearest of them that "
        "is not significant is 0.02: dc over random at k = 10, hard labels (Holm p = 0.2)."
    )
    assert head == "**Significantly better than every control that costs less**"
    assert lines[:2] == [
        "- Hard labels: dm (k = 10 and 50) and dc (k = 20).",
        "- Soft labels: none.",
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
    equal = controls(("hard", "dm", 10, "random", -0.1, 1.0, "level"))
    verdict = words.per_second(costs, equal).splitlines()[0]
    assert "in 1 of 1 cases with hard labels.**" in verdict
    assert verdict.endswith("No lead over all of them falls short of significance.")


def test_the_tests_name_the_family_of_each_question():
    assert words.comparison(PAIRS, RANKS[:0]).splitlines()[-2:] == [
        "- 3 of 4 differences between two methods are significant, and 3 of 4 from random.",
        "- Paired t tests, Holm's correction at one k: against random over the methods; for who "
        "is best over all pairs, as that is known only afterwards. They assume normal differences.",
    ]
    alone = paired((10, "dm", "dc", 0.2, 0.01))  # a study without random
    text = words.comparison(alone, RANKS[:0])
    assert "- 1 of 1 differences between two methods are significant.\n" in text


def test_what_another_configuration_does_to_the_order_is_said_in_one_line():
    row = {"configuration": "long", "first": "own", "pairs": 9, "kept": 6, "reversed": 1}
    text = words.orders(pd.DataFrame([row | {"unclear": 2}]))
    assert text == (
        "- **long** keeps the order of 6 of the 9 pairs that differ significantly under own, and "
        "reverses it significantly in 1; the rest, 2, do not differ significantly there, which may "
        "be lack of power."
    )
    text = words.orders(pd.DataFrame([row | {"kept": 8, "unclear": 0}]))
    assert text.endswith("differ significantly under own, and reverses it significantly in 1.")
    nothing = pd.DataFrame([row | {"pairs": 0, "kept": 0, "reversed": 0, "unclear": 0}])
    assert words.orders(nothing) == "No two methods differ significantly under own."
    assert words.orders(pd.DataFrame()) == (
        "No two configurations can be compared; those with learned labels do not count."
    )
