"""What is said of tables of cells, gains and tests whose numbers are known."""

import numpy as np
import pandas as pd
import pytest

from ddlib.figures import findings as charts
from ddlib.stats.cells import Coverage, Held
from ddlib.stats.families import ABOVE, BELOW
from ddlib.words import findings as words
from ddlib.words import summary

NOT_HELD = Held(0, 0, 0, 0.0)
WHY = "a mean gap is not above zero"
ROWS = [  # data, method, kind, outcome, why, way, b, low, high, r2
    ("mnist", "dm", "paper", "survives", "", None, 0.5, 0.4, 0.6, 0.99),
    ("mnist", "dc", "paper", "fails", "the exponent lies above 1/2", "faster", 1, 0.9, 1.1, 0.9),
    ("mnist", "random", "control", "fails", "", "slower", 0.2, 0.1, 0.3, 0.95),
    ("adult", "dm", "paper", "undecided", WHY, None, 0.3, 0.01, 1.8, 0.2),
    ("adult", "dc", "paper", "undecided", "vague", None, 0.3, 0.01, 1.8, 0.9),
    ("adult", "random", "control", "undecided", "vague", None, np.nan, np.nan, np.nan, np.nan),
]
NAMES = ["data", "method", "kind", "outcome", "why", "way", "b", "low", "high", "r2"]


@pytest.fixture
def cells():
    table = pd.DataFrame(ROWS, columns=NAMES)
    table["seeds_needed"] = [np.nan] * 3 + [np.inf, 20, np.inf]
    table["tells_below"], table["tells_above"] = 0.3, [0.7, 0.7, 0.7, np.nan, 1.5, np.nan]
    table["rival"], table["delta_aic"] = ["inverse"] * 5 + [None], [1.5, -9, -3, 0, 0, np.nan]
    shares = {"r2_null": 0.712, "r2_null_95": 0.934, "r2_null_share": [0.17] * 3 + [0.5] * 3}
    table["misfit"] = [0.5, 0.5, 0.01, 0.5, 0.5, np.nan]
    floors = dict.fromkeys(("floor", "floor_low", "floor_high"), 0.1)
    table["capped"] = table["data"] == "adult"
    return table.assign(missing=[0, 0, 1, 0, 0, 0], asked=30, **shares, **floors)


@pytest.fixture
def gains():
    outcomes = {
        ("mnist", "hard", "dm"): ["beats all controls", "beats random", "level with random"],
        ("mnist", "hard", "herding"): ["beats random"] * 3,
        ("adult", "hard", "dm"): ["worse than random", None, "beats random"],
        ("letter", "hard", "dc"): ["beats random"] * 3,
        ("mnist, soft labels", "soft", "dm"): ["level with random"] * 2 + ["beats random"],
        ("mnist, hard labels", "hard", "dm"): ["beats random"] * 2 + ["level with random"],
    }
    names = ["data", "labels", "method", "ipc", "outcome"]
    rows = [
        (*place, ipc, outcome)
        for place, several in outcomes.items()
        for ipc, outcome in zip((1, 10, 50), several, strict=True)
    ]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(kind=table["method"].replace({"herding": "control"}))


LEADERS = pd.DataFrame(
    [("own", 1, "dm", False, False), ("own", 10, "dm", False, True)]
    + [("own", 50, "herding", True, False)]
    + [("soft", ipc, "herding", True, False) for ipc in (1, 10)],
    columns=["labels", "ipc", "best", "control", "alone"],
).assign(data="mnist", methods=5)


def covered(p, lead, equal, *, k_stars=(), held=NOT_HELD):
    rows = [("h_cov", 0.05, 0.4, p, lead, ""), ("log_members", 0.05, 0.2, 0.3, np.nan, "")]
    rows.append(("h_cov", 0.1, np.nan, np.nan, np.nan, "k* is the same in every family"))
    rows.append(("log_members", 0.1, np.nan, np.nan, np.nan, "k* is the same in every family"))
    fitted = pd.DataFrame(rows, columns=["predictor", "epsilon", "r2", "p", "p_lead", "reason"])
    within = pd.DataFrame({"predictor": "h_cov", "epsilon": [0.05, 0.1], "p": equal, "reason": ""})
    k_stars = pd.DataFrame(k_stars, columns=["epsilon", "worst", "k_star", "censored"])
    counts = {"n": 34, "distinct": 9, "censored": 8, "reduced": 0, "shortened": 0, "unknown": 0}
    within = within.assign(r2=0.3, n=6, distinct=4)
    return Coverage(k_stars, fitted.assign(**counts), within, held)


def test_the_summary_counts_what_the_tables_hold(cells, gains):
    studies = {"mnist": covered(0.01, 0.02, 0.03, held=Held(19, 20, 30, 0.25))}
    studies |= {"adult": covered(0.01, 0.2, 0.03), "letter": covered(0.01, 0.02, 0.2)}
    text = summary.summary(cells, gains, LEADERS, studies)
    assert max(map(len, text.splitlines())) <= 100
    data, *lines = " ".join(text.split()).split(" - ")
    assert data == "Data: mnist and adult."
    assert lines == [
        "**Scaling law.** The curve a/√k + c survives in 1 of 4 cells (a method on a data set, "
        "judged by test error, balanced where classes differ), fails in 1 and is undecided in 2. "
        "Of those that fail, 0 fall more slowly than 1/√k, 1 faster, which the paper's upper "
        "bound allows; for 0 no one power of k fits, or several do. Of the 1 that survive, 1 "
        "passed a strong test, which a true exponent of 1/4 or of 1 would have failed. The paper "
        "itself has 20 cells. In those "
        "that are measured here, the curve survives in 1 of 2, fails in 1 and is undecided in 0. "
        "For controls, made without learning, it survives in 0 of 2, fails in 1 and is undecided "
        "in 1. On adult the networks on all data were still improving at the limit on passes, so "
        "gaps are too small there.",
        "**R² above 0.85**, the paper's criterion for all cells, is reached in 3 of 4. It "
        "decides little: random real samples reach it on 1 of 1 data sets, and 17% to 50% of "
        "random falling curves do.",
        "**Coverage law.** It is confirmed on mnist at a worst gap of 0.05 (not decided at 0.1), "
        "not confirmed on adult and not confirmed on letter. It counts as confirmed where, at "
        "every worst gap that can be tested, k*, the samples that a family of training "
        "configurations needs, rises significantly with the family's measured diversity H_cov, "
        "more than with ln M, the log of its size, and also among families of equal size.",
        "**Against random real samples.** Distilled sets are significantly better in 3 of 5 "
        "comparisons (a method at a size), worse in 1, and better than all controls, such as "
        "herding, in 1. Up to 10 samples per class they are better in 2 of 3, above in 1 of 2. "
        "With soft labels of one teacher they are better in 1 of 3 and worse in 0; the same sets "
        "with hard labels are better in 2 of 3.",
        "**Which method?** The most accurate, by samples per class: on mnist dm at 1 and 10 and "
        "herding (a control) at 50; on mnist with soft labels herding (a control) at 1 and 10. "
        "Significantly better than every other method: dm on mnist at 10.",
        "**Planner.** It predicts gaps (at most 1) from a part of a study, and refuses networks "
        "and sizes of which this part says nothing. On mnist it answered for 20 of 30 hidden gaps; "
        "19 of these lie in its 95 % intervals, but half of the intervals are wider than 0.25.",
    ]


def test_soft_labels_are_counted_apart_from_the_labels_of_a_study(cells, gains):
    soft = gains.assign(labels="soft")
    alone = soft[soft["data"].isin(["mnist", "adult"])]  # studies that have no other labels
    assert "With soft labels" not in summary.summary(cells, alone, LEADERS, {})
    first = pd.concat([soft[soft["data"] == "mnist"], gains[gains["data"] != "mnist"]])
    text = " ".join(summary.summary(cells[cells["data"] == "mnist"], first, LEADERS, {}).split())
    assert (
        "With soft labels of one teacher they are better in 1 of 3 and worse in 0; the same sets "
        "with hard labels are better in 2 of 3." in text
    )
    renamed = gains.assign(data=gains["data"].str.replace("mnist", "microsoft"))
    text = summary.summary(cells.replace("mnist", "microsoft"), renamed, LEADERS, {})
    assert "the same sets with hard labels are better in 2 of 3." in " ".join(text.split())


def test_the_box_has_a_line_for_each_law(cells, gains):
    studies = {"mnist": covered(0.01, 0.02, 0.03), "adult": covered(0.01, 0.2, 0.03)}
    assert summary.verdicts(cells, gains, studies).splitlines() == [
        "> - **Scaling law:** a/√k + c survives in 1 of 4 cells (a method on a data set), fails in "
        "1 and is undecided in 2.",
        "> - **Coverage law:** confirmed on mnist at a worst gap of 0.05 (not decided at 0.1) and "
        "not confirmed on adult.",
        "> - **Against random real samples:** distilled sets are significantly better in 3 of 5 "
        "comparisons (a method at a size), worse in 1.",
    ]
    half = covered(0.01, 0.02, 0.03)
    half.fitted.loc[half.fitted["epsilon"] == 0.1, ["p", "p_lead", "reason"]] = (0.3, 0.01, "")
    some = summary.verdicts(cells, gains, {"mnist": half})
    assert (
        "not confirmed on mnist (confirmed at a worst gap of 0.05, not confirmed at 0.1)." in some
    )
    none = summary.verdicts(cells, gains, {})
    assert "**Coverage law:** no study of it is among these findings." in none


def test_r2_is_counted_and_compared_with_random_curves(cells):
    assert words.r2(cells) == (
        "R² is above 0.85 in 3 of 4 cells; the two conditions reject 1 of these. It exceeds what "
        "95 % of random falling curves reach in 1."
    )


def test_exponents_are_compared_with_those_of_quantisation(cells):
    text = words.quantisation(cells)
    assert "Of 2 cells of dm, the interval of b holds 1/2 alone in 1, some 1/d with d ≥ 6" in text
    assert "alone in 0, both in 1 and neither in 0." in text
    slower = cells.assign(method=cells["method"].replace("random", "herding"))  # 0.1 to 0.3
    assert "alone in 1, some 1/d with d ≥ 6 alone in 1, both in 1" in words.quantisation(slower)
    assert "is not tested" in words.quantisation(cells[cells["method"] == "dc"])


def test_the_member_that_decides_is_named():
    rows = [(0.05, "vit", 300, ""), (0.05, "vit", 200, ""), (0.05, "own", 20, "")]
    rows += [(0.1, "mlp", 900, ""), (0.05, None, np.nan, "")]
    study = covered(0.2, 0.3, 0.4, k_stars=rows)
    text = words.coverage("adult", study)
    assert text.startswith(
        "### adult: not confirmed\n\n> - **Worst gap 0.05: not confirmed.** Not shown: that "
        "k* rises with H_cov; that H_cov fits better than ln M; that k* rises among families of "
        "equal M.\n"
        "> - **Worst gap 0.1: cannot be decided.** Nothing can be said about H_cov, as k* is the "
        "same in every "
        "family.\n\nThe worst member decides: where it is vit (2 of 3 families at a gap of 0.05), "
        "the median k* is 250, elsewhere 20.\n\n**Worst gap 0.05.** R² of ln k*: "
    )
    assert "0.40 with H_cov (p = 0.200), 0.20 with ln M (p = 0.300); the lead" in text
    beyond = [(0.02, name, 500, "above the largest k") for name in ("adam", "vit")]
    study = covered(0.2, 0.3, 0.4, k_stars=[*beyond, *rows])
    assert "(2 of 3 families at a gap of 0.05)" in words.coverage("adult", study)
    assert "decides" not in words.coverage("adult", covered(0.2, 0.3, 0.4, k_stars=beyond))


def test_what_would_change_our_mind(cells):
    text = words.change(cells)
    assert text.splitlines()[:2] == [
        "- 3 of 6 cells, controls too, are undecided: in 2 vague; in 1 a mean gap is not above "
        "zero.",
        "- Seeds that would tell an exponent of 1 from 1/2: dc on adult: 20. In 2 no number that "
        "was tried would decide, or none could be tried.",
    ]
    assert "0 of 1 cells that survive do so in a weak test" in text


def test_the_table_is_read_without_nan(cells):
    table = words.table(cells)
    assert list(table.index[:2]) == [("mnist", "dm"), ("mnist", "dc")]
    assert table["verdict"][2:4].tolist() == ["fails", f"undecided: {WHY}"]
    assert table["lack of fit"].iloc[2] == "p = 0.01"
    assert table["exponent b"].iloc[1].split() == ["1.00", "(0.90", "to", "1.10)"]
    assert table["ΔAIC of the best rival"].iloc[1] == "-9.0 (a/k + c)"
    assert table["exponents told from 1/2"].iloc[0] == "≤ 0.3 or ≥ 0.7"
    assert table["trials missing"].iloc[2] == "1 of 30"
    assert "nan" not in table.to_string()
    few = cells.assign(b=None, low=None, high=None, r2=None)  # as of studies of one seed
    assert words.table(few)["exponent b"].unique().tolist() == ["—"]
    assert "rival is not tested" in words.quantisation(cells.assign(low=np.nan, high=np.nan))


def test_a_k_star_beyond_the_measured_sizes_is_said_to_be_above_them():
    rows = [(0.05, "vit", 500, ABOVE), (0.05, "vit", 500, ABOVE), (0.05, "own", 20, "")]
    text = words.coverage("adult", covered(0.2, 0.3, 0.4, k_stars=rows))
    assert "the median k* is above 500, the largest size, elsewhere 20." in text
    below = [(0.05, "vit", 10, BELOW)] * 2 + [(0.05, "vit", 500, ABOVE), (0.05, "own", 5, "")]
    text = words.coverage("adult", covered(0.2, 0.3, 0.4, k_stars=below))
    assert "the median k* is below 10, the smallest size, elsewhere 5." in text
    rows[0] = (0.05, "vit", 10, "")  # the median lies between a known k* and one above 500
    text = words.coverage("adult", covered(0.2, 0.3, 0.4, k_stars=rows))
    assert "the median k* is above 255, elsewhere 20." in text


def test_cells_without_an_exponent_are_named_and_their_trials_counted(cells):
    lost = cells.assign(missing=[0, 0, 0, 0, 0, 20])  # random on adult has no exponent
    chart = charts.exponents(lost).to_dict()
    assert chart["title"]["subtitle"][-1] == "Without an exponent: random on adult."
    assert chart["facet"]["sort"] == ["mnist", "adult\ntrials missing: 20"]
    far = charts.exponents(cells.assign(b=5.0, low=None, high=None)).to_dict()
    assert "Triangles: the exponent or its interval goes beyond 2." in far["title"]["subtitle"]
    [table] = far["datasets"].values()
    assert all(row["beyond"] for row in table)
    dots = [layer for layer in far["spec"]["layer"] if "shape" in layer["encoding"]]
    assert [layer["transform"] for layer in dots] == [[{"filter": "datum.b <= 2.0"}]]


def test_findings_without_methods_or_studies_are_said_in_sentences(cells, gains):
    controls = cells[cells["kind"] == "control"]
    text = summary.summary(controls, gains[:0], LEADERS[:0], {})
    assert "survives in 0 of 0 cells" in text
    assert "cannot be judged" in text
    assert "nan" not in text
    for chart in (charts.exponents(cells[:0]), charts.gains(gains.assign(outcome=None))):
        assert chart.to_dict()


def test_orders_are_told_by_study():
    row = {"configuration": "longer", "first": "own", "pairs": 9, "kept": 9, "reversed": 0}
    text = words.orders({"mnist: methods/longer": pd.DataFrame([row | {"unclear": 0}])})
    assert text.startswith(
        "### mnist: methods/longer\n\n- **longer** keeps the order of 9 of the 9 "
    )
    assert words.orders({}) == "No study compares methods under several configurations."
