"""The verdicts of notebook 02, what sets cost and what soft labels give, for known answers."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from ddlib.words import methods as words


def ranking(*rows):
    """Rows of k, best method, those that are not significantly worse."""
    table = pd.DataFrame(rows, columns=["k", "best", "not_separable"])
    return table.assign(runner_up="random", reason="")


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
        (
            ranking((10, "dm", ()), (20, "dm", ())).assign(runner_up=[np.nan, "dc"]),  # alone at 10
            "better than all others: only at k = 20.",
        ),
        (ranking((10, "dm", ())).assign(runner_up=np.nan), "There is no other method."),
        (
            ranking((10, "dm", ("dc",))).assign(reason="not testable: one seed"),
            "at k = 10. Whether it is significantly better cannot be decided.",
        ),
        (ranking(), "Per sample: cannot be decided.** No method reached an accuracy."),
    ],
)
def test_who_is_best_per_sample(ranks, end):
    assert lines(ranks=ranks)[0].endswith(end)


def test_nobody_beats_random_samples_and_nothing_is_worth_its_time():
    level = PAIRS.assign(p=0.5)
    assert lines(level)[1] == "**Against random:** no method significantly beats random samples."
    untested = PAIRS.assign(p=np.nan, survives=False, reason="not testable: one seed")
    decided = "**Against random:** it cannot be decided who beats random samples."
    assert lines(untested)[1] == decided
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


def controls(*rows: tuple) -> pd.DataFrame:
    names = ["labels", "method", "k", "nearest", "difference", "p_holm", "outcome"]
    return pd.DataFrame(rows, columns=names)


COMPARED = controls(
    ("hard", "dm", 10, "random", 0.3, 0.001, "ahead"),
    ("hard", "dc", 10, "random", 0.02, 0.2, "level"),
    ("hard", "dm", 20, "herding", -0.0123, 1.0, "level"),
    ("hard", "dc", 20, "herding", 0.05, 0.04, "ahead"),
    ("hard", "dm", 50, "herding", 0.2, 0.01, "ahead"),
    ("hard", "dc", 50, "", np.nan, np.nan, "untested"),
    ("soft", "dm", 10, "random", 0.01, 0.6, "level"),
    ("soft", "mtt", 10, "", np.nan, np.nan, "untested"),
)


def test_who_is_ahead_of_every_cheaper_control():
    costs = pd.DataFrame({"method": ["dm", "dm", "dc"], "search_seconds": [9.0, 8.0, np.nan]})
    better = "Significantly better than every control that costs less"
    assert words.per_second(costs, COMPARED).splitlines() == [
        "**A control that costs less is not significantly worse in 2 of 5 cases with hard labels "
        "and 1 of 1 cases with soft labels.** A case is a method at a size.",
        "",
        f"- {better}, hard labels: dm (k = 10 and 50) and dc (k = 20).",
        f"- {better}, soft labels: none.",
        "- The search for settings is counted for: dm.",
    ]
    unknown = words.per_second(costs.assign(search_seconds=np.nan), COMPARED)
    assert unknown.endswith("The search for settings is counted for: none.")
    nothing = "No method can be compared with a control that costs less."
    assert words.per_second(costs, controls()) == nothing


def test_where_each_method_is_better_than_random_samples():
    assert words.against_random(PAIRS).splitlines() == [
        "- dm: better at k = 10 and 20.",
        "- dc: better at k = 10; no significant difference at k = 20.",
    ]


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


TEACHERS = pd.DataFrame({"accuracy": [0.975]})
NOISE = np.array([0.01, -0.01, 0.0, 0.005, -0.005])  # over seeds


def trials(**accuracies):
    """Five seeds at k = 10 and 20; the differences of methods vary by a tenth of the noise."""
    places = product(enumerate(accuracies.items()), (10, 20), range(5))
    rows = [
        (method, k, seed, mean + NOISE[seed] + NOISE[(seed + place + round(10 * mean)) % 5] / 10)
        for (place, (method, mean)), k, seed in places
    ]
    table = pd.DataFrame(rows, columns=["method", "k", "seed", "accuracy"])
    return table.assign(base=table["method"], status="ok")


def test_who_beats_random_images_is_said_of_every_regime():
    regimes = {
        "hard": trials(random=0.5, dm=0.6, herding=0.4),
        "soft": trials(random=0.7, dm=0.7, herding=0.4),
        "learned": trials(random=0.5, dm=0.5, herding=0.6),
    }
    verdict, _, *lines = words.labels(regimes, TEACHERS).splitlines()
    assert verdict == "**With the same teacher, no method significantly beats random samples.**"
    assert lines == [
        "- Under hard labels, dm (k = 10 and 20) significantly beats random samples.",
        "- Under learned labels (hard for methods that learn none), herding (k = 10 and 20) "
        "significantly beats random samples.",
        "- Soft labels significantly change the accuracy of random samples by +0.200 at k = 10 and "
        "+0.200 at k = 20.",
        "- The teacher was trained on all data and has an accuracy of 0.975.",
    ]


def test_one_regime_is_nothing_to_compare():
    text = words.labels({"hard": trials(random=0.5, dm=0.6)}, TEACHERS[:0])
    assert text == "Only hard labels are in this study, so there is nothing to compare."


def test_without_the_baseline_nothing_is_said_to_be_no_better_than_it():
    regimes = dict.fromkeys(["hard", "soft"], trials(dm=0.5, dc=0.6))
    text = words.labels(regimes, TEACHERS)
    assert text == "The study has no random beside another method, so nothing to compare with."
