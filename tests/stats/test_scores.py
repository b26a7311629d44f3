"""Costs, controls that cost less, the front, and DD-Ranking's scores, against numbers by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from known import p_of, trials

from ddlib.stats import compare, scores


def costs(table: pd.DataFrame, seconds: dict[str, float | None]) -> pd.DataFrame:
    rows = table[["method", "ipc", "seed"]].drop_duplicates()
    distil = rows["method"].map(seconds)
    nothing = {"search_seconds": None, "prepare_seconds": 0.0, "teacher_seconds": 0.0}
    return rows.assign(**nothing, distil_seconds=distil, evaluate_seconds=4.0)


def test_costs_by_hand():
    values = {("random", 10): [0.4, 0.6], ("random", 100): [0.9, 0.9], ("dm", 10): [0.8, 0.8]}
    table = trials(values)
    table = pd.concat([table, table.assign(evaluation=1)])  # 4 seconds are two trainings
    found = compare.accuracies(table)
    spent = scores.cost_table(costs(table, {"random": 0.0, "dm": 6.0}), table, found)
    assert spent["train_seconds"].tolist() == [2, 2, 2]
    assert spent["seconds"].tolist() == [2, 2, 8]
    assert spent["front"].tolist() == [False, True, False]
    table = trials({("dm", 10): [0.8, 0.9], ("dc", 10): [None, None]})  # reused, failed
    found = compare.accuracies(table)
    spent = scores.cost_table(costs(table, {"dm": None, "dc": None}), table, found)
    assert spent[["distil_seconds", "seconds"]].isna().all(axis=None)
    assert not spent["front"].any()


def test_all_that_a_set_costs_counts_by_hand():
    values = {("random", 10): [0.4, 0.6], ("dm", 10): [0.8, 0.8], ("mtt", 10): [0.7, 0.7]}
    table = trials(values | {("dm", 100): [0.9, 0.9], ("file", 10): [0.9, 0.9]})
    table["base"] = table["method"].replace({"file": "imported"})
    spent = costs(table, {"random": 0.0, "mtt": 7.0, "file": 0.01}).assign(teacher_seconds=10.0)
    dm = spent["method"] == "dm"  # one call a seed, of 6 and of 8 seconds, makes both sizes
    spent.loc[dm, "distil_seconds"] = spent["seed"].map({0: 3.0, 1: 4.0})
    spent.loc[spent["method"] == "mtt", "prepare_seconds"] = 100.0
    spent["search_seconds"] = spent["method"].map({"dm": 1000.0})
    names = ["search_seconds", "prepare_seconds", "teacher_seconds", "distil_seconds"]
    found = scores.cost_table(spent, table, compare.accuracies(table)).set_index(["method", "k"])
    unknown = math.nan
    expected = {  # search, preparation, teacher, distillation, and 4 seconds of training
        ("random", 10): [unknown, 0, 10, 0, 14],
        ("dm", 10): [1000, 0, 10, 7, 1021],
        ("dm", 100): [1000, 0, 10, 7, 1021],
        ("mtt", 10): [unknown, 100, 10, 7, 121],
        ("file", 10): [unknown, 0, 10, unknown, unknown],  # read, not distilled, in this time
    }
    for place, seconds in expected.items():
        row = found.loc[place, [*names, "seconds"]].tolist()
        assert row == pytest.approx(seconds, nan_ok=True)
    spent.loc[spent["method"] == "mtt", "prepare_seconds"] = unknown
    found = scores.cost_table(spent, table, compare.accuracies(table)).set_index("method")
    assert math.isnan(found.loc["mtt", "seconds"])


def test_who_is_ahead_of_every_control_that_costs_less():
    good, noise = np.array([0.9, 0.8, 0.85]), np.array([0.001, 0, -0.001])
    values = {("random", 10): good - 0.3 + noise, ("herding", 10): good - 9 * noise + 0.001}
    values |= {("dm", 10): good, ("mtt", 10): good + 0.1, ("near", 10): good + 0.2 - noise}
    values["file", 10] = good
    table = trials({place: list(accuracies) for place, accuracies in values.items()})
    table["base"] = table["method"].replace({"near": "herding"})
    seconds = {"random": 1.0, "herding": 5.0, "dm": 6.0, "mtt": 5.0, "near": 9.0, "file": math.nan}
    spent = pd.DataFrame({"method": seconds.keys(), "k": 10, "seconds": seconds.values()})
    found = scores.against_controls(table, spent).set_index("method")
    assert found["outcome"].to_dict() == {"dm": "level", "mtt": "ahead", "file": "untested"}
    assert found["controls"].to_dict() == {"dm": "random, herding", "mtt": "random", "file": ""}
    assert found["nearest"].tolist() == ["herding", "random", ""]
    assert found["difference"].tolist() == pytest.approx([-0.001, 0.4, math.nan], nan_ok=True)
    p = 2 * p_of(values, "mtt", "random")  # of two methods
    assert found["p_holm"].tolist() == pytest.approx([1.0, p, math.nan], nan_ok=True)
    alike = trials({("herding", 10): [0.5, 0.6], ("dm", 10): [0.6, 0.7]})
    assert scores.against_controls(alike, spent)["outcome"].tolist() == ["untested"]
    values["herding", 10] = [None, None, None]
    lost = trials(values)
    for seconds in (5.0, math.nan):
        spent.loc[spent["method"] == "herding", "seconds"] = seconds
        found = scores.against_controls(lost, spent).set_index("method")["outcome"]
        assert found["dm"] == "untested"
    assert found["mtt"] == "untested"  # herding may cost less
    learned = trials({("dm", 10): [0.5, 0.6], ("mtt", 10): [0.6, 0.7]})
    assert scores.against_controls(learned, spent).empty


def test_the_front_is_what_no_other_point_beats():
    points = np.random.default_rng(0).integers(0, 6, (30, 2)).astype(float)
    points[0] = [math.nan, 9.0]
    expected = [
        not math.isnan(s)
        and not any((t <= s and b >= a) and (t < s or b > a) for t, b in points[1:])
        for s, a in points
    ]
    assert scores.front(*map(pd.Series, points.T)).tolist() == expected


def test_dd_ranking_by_hand():
    def score(advantage):
        return (math.exp(advantage) - math.exp(-1)) / (math.e - math.exp(-1))

    plain = trials({("random", 10): [0.4, 0.6], ("dm", 10): [0.8, 0.8], ("dm", 20): [0.9, 0.9]})
    other = trials({("dm", 10): [0.7, 0.9], ("random", 10): [0.6, 0.8], ("dm", 20): [0.9, 0.9]})
    full = {"seed": [0, 1], "accuracy": [0.9, 1.0], "balanced_accuracy": 0.5}
    full = compare.full_data(pd.DataFrame(full).assign(reference="converged"), "converged")
    found, augmented = (compare.accuracies(table) for table in (plain, other))
    table = scores.dd_ranking(found, full, augmented)
    assert table["hlr"].tolist() == pytest.approx([0.45, 0.15, 0.05])
    assert table["ior"].tolist() == pytest.approx([0, 0.3, math.nan], nan_ok=True)
    assert table["lrs"][1] == pytest.approx(score(0.5 * 0.3 - 0.5 * 0.15))
    expected = [score(0.0), score(0.5 * 0.1 + 0.5 * 0.3), math.nan]
    assert table["ars"].tolist() == pytest.approx(expected, nan_ok=True)
    assert scores.dd_ranking(found, full)["ars"].isna().all()
