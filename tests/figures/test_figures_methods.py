"""The figures that compare methods carry every row, and say what they cannot show."""

import itertools

import numpy as np
import pandas as pd
import pytest

from ddlib.figures import methods as charts_methods
from ddlib.figures import render, style
from ddlib.stats import compare as comparison
from ddlib.stats import scores

KS = (10, 100, 1000)
METHODS = ("random", "herding", "k_center", "dc", "dsa", "dm", "mtt", "mgd3")
FULL = pd.DataFrame({"n": [5], "accuracy": [0.99], "low": [0.988], "high": [0.992]})


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        (m, k // 10, k, 5, 5, 1 - 0.5 * k**-0.5 * (1 + 0.1 * i))
        for i, m in enumerate(METHODS)
        for k in KS
    ]
    table = pd.DataFrame(rows, columns=["method", "ipc", "k", "seeds", "n", "accuracy"])
    return table.assign(low=table["accuracy"] - 0.004, high=table["accuracy"] + 0.004)


@pytest.fixture
def forest() -> pd.DataFrame:
    rows = [(k, m, 5, 0.03, 0.01, 0.05, 0.01, 0.06, "", 0.04, True) for k in KS for m in METHODS]
    names = ["k", "method", *comparison.PAIR[:-1], "reason", "p_holm", "survives"]
    return pd.DataFrame(rows, columns=names)


def rows_of(spec: dict, *columns: str) -> pd.DataFrame:
    """Return the first data set of a specification that has all of these columns."""
    tables = (rows for rows in spec["datasets"].values() if rows and set(columns) <= set(rows[0]))
    return pd.DataFrame(next(tables))


def distance(one: str, other: str) -> float:
    """Return the least CIELAB distance of two colours over normal and three colour-blind eyes.

    Machado, Oliveira & Fernandes (2009), matrices of severity 1.
    """
    blind = [  # red, green, blue
        *([0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216]),
        *([-0.003882, -0.048116, 1.051998], [0.367322, 0.860646, -0.227968]),
        *([0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]),
        *([1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602]),
        [0.004733, 0.691367, 0.303900],
    ]
    eyes = np.array([*np.eye(3), *blind]).reshape(4, 3, 3)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    labs = []
    for colour in (one, other):
        part = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        xyz = np.clip(eyes @ linear, 0, 1) @ to_xyz.T / [0.95047, 1, 1.08883]
        x, y, z = np.cbrt(np.maximum(xyz, 1e-9)).T
        labs.append(np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)]))
    return np.linalg.norm(labs[0] - labs[1], axis=0).min()


def test_colours_of_methods_stay_apart_for_colour_blind_eyes():
    colours = style.METHOD_COLOURS
    assert set(METHODS) <= set(colours)
    for one, other in itertools.combinations(colours, 2):
        assert distance(colours[one], colours[other]) > 12, (one, other)


def test_every_mean_is_a_point_at_its_error(table):
    spec = charts_methods.accuracy_against_k(table, FULL).to_dict()
    shown = rows_of(spec, "shown", "error")
    assert len(shown) == 24
    np.testing.assert_allclose(shown["error"], 1 - table["accuracy"])
    np.testing.assert_allclose(shown["error_low"], 1 - table["low"])
    # side by side, in the order of the methods, and nearer to their own k than to any other
    at = shown[shown["k"] == 100].set_index("method")["shown"]
    assert at.is_monotonic_increasing
    assert at.between(80, 125).all()
    assert rows_of(spec, "label")["error"].tolist() == pytest.approx([0.01])


def test_controls_are_dashed_and_methods_solid(table):
    spec = charts_methods.accuracy_against_k(table, FULL).to_dict()
    [line] = [layer for layer in spec["layer"] if layer["mark"]["type"] == "line"]
    scale = line["encoding"]["strokeDash"]["scale"]
    dashes = dict(zip(scale["domain"], scale["range"], strict=True))
    assert {m for m in METHODS if dashes[m] != [1, 0]} == set(comparison.CONTROLS)


def test_missing_points_and_seeds_are_named(table):
    table.loc[(table["method"] == "mtt") & (table["k"] == 1000), ["accuracy", "low", "high"]] = None
    table.loc[(table["method"] == "mtt") & (table["k"] == 1000), "n"] = 0
    table.loc[(table["method"] == "dm") & (table["k"] == 10), "n"] = 3
    spec = charts_methods.accuracy_against_k(table, FULL).to_dict()
    told = " ".join(spec["title"]["subtitle"])
    assert told.endswith("No accuracy: mtt at k = 1000. Fewer seeds: dm at k = 10.")


def test_accuracies_of_one_and_intervals_beyond_it_stay_on_the_axis(table):
    table.loc[table["k"] == 1000, ["accuracy", "low", "high"]] = [1.0, 0.99, 1.01]
    for spec in (
        charts_methods.accuracy_against_k(table, FULL).to_dict(),
        charts_methods.accuracy_against_k(table.assign(accuracy=1.0), FULL).to_dict(),
        charts_methods.accuracy_against_k(table.assign(low=np.nan, high=np.nan), FULL).to_dict(),
    ):
        shown = rows_of(spec, "shown", "error")
        low, high = spec["layer"][1]["encoding"]["y"]["scale"]["domain"]
        assert 0 < low < high
        assert shown["error"].between(low, high).all()


def test_without_full_data_there_is_no_rule(table):
    spec = charts_methods.accuracy_against_k(table, FULL.assign(accuracy=np.nan)).to_dict()
    assert "label" not in str(spec["datasets"])


def test_filled_marks_survive_hollow_ones_do_not(forest):
    forest.loc[forest["method"] == "dm", "survives"] = False
    forest.loc[forest["method"] == "dc", "reason"] = "not testable: one seed"
    spec = charts_methods.differences(forest).to_dict()
    assert [panel["title"] for panel in spec["concat"]] == ["k = 10", "k = 100", "k = 1000"]
    shown = rows_of(spec, "ink", "fill").set_index("method")
    assert shown.loc["dm", "fill"] == "white"
    assert shown.loc["mtt", "fill"] == shown.loc["mtt", "ink"] == style.METHOD_COLOURS["mtt"]
    assert shown["untested"].to_dict() == {method: method == "dc" for method in METHODS}
    assert shown["difference"].tolist() == pytest.approx([3] * 8)  # points


def test_without_a_baseline_there_is_a_remark(forest):
    spec = charts_methods.differences(forest.head(0)).to_dict()
    assert rows_of(spec, "note")["note"].tolist() == [
        "no random in this study: nothing to compare with"
    ]


def test_the_front_is_drawn_and_labelled(table):
    spent = table.drop(columns=["low", "high", "seeds", "n"])
    seconds = spent["k"] ** 0.5 * (1 + spent["method"].map(METHODS.index))
    spent = spent.assign(distil_seconds=seconds, train_seconds=1.0, seconds=seconds + 1)
    spent = spent.assign(front=scores.front(spent["seconds"], spent["accuracy"]))
    spent.loc[spent["method"] == "mgd3", "seconds"] = np.nan
    spec = charts_methods.accuracy_against_seconds(spent).to_dict()
    told = " ".join(spec["title"]["subtitle"])
    assert told.endswith("No seconds: mgd3 at k = 10, mgd3 at k = 100, mgd3 at k = 1000.")
    layers = {layer["mark"]["type"]: layer for layer in spec["layer"]}
    labels = spec["datasets"][layers["text"]["data"]["name"]]
    # random is cheapest and, in this table, best at every k
    assert sorted(row["label"] for row in labels) == ["k = 10", "k = 100", "k = 1000"]
    assert {row["method"] for row in labels} == {"random"}


def test_figures_become_pictures_of_at_most_1000_pixels(table, forest):
    spent = table.assign(distil_seconds=1.0, train_seconds=1.0, front=False)
    spent = spent.assign(seconds=spent["k"].astype(float))
    for chart in (
        charts_methods.accuracy_against_k(table, FULL),
        charts_methods.differences(forest),
        charts_methods.accuracy_against_seconds(spent),
    ):
        _, metadata = render.mime_bundle(chart.to_dict())
        assert 600 <= metadata["image/png"]["width"] <= 1000


def test_the_loss_of_training_is_averaged_over_runs_of_steps():
    chart = charts_methods.training_loss([4.0, 2.0, 1.0, 3.0, 0.5, 0.5], points=3)
    assert chart.data["step"].tolist() == [2, 4, 6]
    assert chart.data["loss"].tolist() == [3.0, 2.0, 0.5]
    assert "ends at 0.5" in chart.to_dict()["title"]["text"]


def test_many_variants_of_a_method_differ_in_colour_or_shape():
    names = ["random", "dm", "dm_pool", "dm_plateau", "dm_representatives", "dm_few", "dm_short"]
    names += ["dm_short_far", "dsa", "dsa_representatives", "dsa_few"]
    marks = charts_methods._Marks(pd.Series(names))
    colours, shapes = (
        channel.to_dict()["scale"]["range"] for channel in (marks.colour, marks.shape)
    )
    assert len(set(colours)) < len(names)  # there are no more colours
    assert len(set(zip(colours, shapes, strict=True))) == len(names)
