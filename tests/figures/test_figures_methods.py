"""The figures that compare methods carry every row, and say what they cannot show."""

import numpy as np
import pandas as pd
import pytest

from ddlib import methods as registry
from ddlib.figures import methods as charts
from ddlib.figures import render, style
from ddlib.stats import compare, scores

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


def data_of(spec: dict) -> pd.DataFrame:
    return pd.DataFrame(max(spec["datasets"].values(), key=len))


def distances(colours: list[str]) -> np.ndarray:
    """Return the least CIELAB distance of each two colours over normal and colour-blind eyes.

    Machado, Oliveira & Fernandes (2009), matrices of severity 1.
    """
    blind = [  # red, green, blue
        *([0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216]),
        *([-0.003882, -0.048116, 1.051998], [0.367322, 0.860646, -0.227968]),
        *([0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]),
        *([1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602]),
        [0.004733, 0.691367, 0.303900],
    ]
    eyes = np.array([*np.eye(3), *blind]).reshape(4, 1, 3, 3)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750]]
    to_xyz = np.array([*to_xyz, [0.0193339, 0.1191920, 0.9503041]])
    parts = np.array([list(bytes.fromhex(colour[1:])) for colour in colours]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    xyz = np.clip((eyes @ linear[:, :, None])[..., 0], 0, 1) @ to_xyz.T / [0.95047, 1, 1.08883]
    x, y, z = np.moveaxis(np.cbrt(np.maximum(xyz, 1e-9)), -1, 0)
    lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], axis=-1)
    return np.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1).min(axis=0)


def test_colours_of_methods_stay_apart_for_colour_blind_eyes():
    apart = distances([style.METHOD_COLOURS[method] for method in METHODS])
    assert apart[np.triu_indices(len(METHODS), 1)].min() > 12
    count = len(style.OTHER_COLOURS)
    apart = distances([*style.OTHER_COLOURS, *style.METHOD_COLOURS.values()])[:count]
    assert apart[np.triu_indices(count, 1, apart.shape[1])].min() > 12


def test_every_registered_method_has_a_colour_of_its_own():
    assert set(style.METHOD_COLOURS) == set(registry.METHODS)
    assert len(set(style.METHOD_COLOURS.values())) == len(registry.METHODS)


def test_many_variants_of_a_method_differ_in_colour_or_shape():
    names = ["random", "dm", "dsa", *(f"dm_{i}" for i in range(12))]
    marks = charts.method_marks(pd.Series(names))
    colours, shapes = (channel.to_dict()["scale"]["range"] for channel in marks)
    assert len(set(colours)) < len(names)  # there are no more colours
    assert len(set(zip(colours, shapes, strict=True))) == len(names)


def test_every_mean_is_a_point_at_its_error_and_controls_are_dashed(table):
    spec = charts.accuracy_against_k(table, FULL).to_dict()
    rows = data_of(spec)
    full, rows = rows[rows["method"] == "all data"], rows[rows["method"] != "all data"]
    np.testing.assert_allclose(full[["error", "error_low"]], [[0.01, 0.012]])
    np.testing.assert_allclose(rows["error"], 1 - table["accuracy"])
    np.testing.assert_allclose(rows["error_low"], 1 - table["low"])
    # side by side, in the order of the methods, and nearer to their own k than to any other
    at = rows[rows["k"] == 100].set_index("method")["beside"]
    assert at.is_monotonic_increasing
    assert at.between(80, 125).all()
    [line] = [layer for layer in spec["layer"] if layer["mark"]["type"] == "line"]
    scale = line["encoding"]["strokeDash"]["scale"]
    dashes = dict(zip(scale["domain"], scale["range"], strict=True))
    assert {m for m in METHODS if dashes[m] != [1, 0]} == set(compare.CONTROLS) & set(METHODS)


def test_each_label_regime_is_a_panel_with_its_own_line_of_all_data(table):
    better = table.assign(accuracy=table["accuracy"] + 0.001)
    both = pd.concat([table.assign(labels="hard"), better.assign(labels="soft")])
    full = pd.concat([FULL.assign(labels="hard"), FULL.assign(labels="soft", accuracy=0.995)])
    spec = charts.accuracy_against_k(both, full).to_dict()
    drawn = data_of(spec)
    assert spec["facet"]["sort"] == ["hard", "soft"]
    assert len(drawn) == 2 * len(table) + 2
    whole = drawn[drawn["method"] == "all data"].set_index("labels")["error"]
    assert whole.to_dict() == pytest.approx({"hard": 0.01, "soft": 0.005})
    first = drawn[(drawn["method"] == "dm") & (drawn["k"] == 10)].set_index("labels")["error"]
    assert first["hard"] - first["soft"] == pytest.approx(0.001)


def test_missing_points_and_seeds_are_named(table):
    table.loc[(table["method"] == "mtt") & (table["k"] == 1000), ["accuracy", "low", "high"]] = None
    table.loc[(table["method"] == "mtt") & (table["k"] == 1000), "n"] = 0
    table.loc[(table["method"] == "dm") & (table["k"] == 10), "n"] = 3
    spec = charts.accuracy_against_k(table, FULL.assign(accuracy=np.nan)).to_dict()
    subtitle = " ".join(spec["title"]["subtitle"])
    assert subtitle.endswith("No accuracy: mtt at k = 1000. Fewer seeds: dm at k = 10.")
    assert "all data" not in set(data_of(spec)["method"])


def test_accuracies_of_one_and_intervals_beyond_it_stay_on_the_axis(table):
    table.loc[table["k"] == 1000, ["accuracy", "low", "high"]] = [1.0, 0.99, 1.01]
    nothing = {"low": np.nan, "high": np.nan}
    for changed in (table, table.assign(accuracy=1.0), table.assign(**nothing)):
        spec = charts.accuracy_against_k(changed, FULL).to_dict()
        low, high = spec["layer"][1]["encoding"]["y"]["scale"]["domain"]
        assert 0 < low < high
        assert data_of(spec)["error"].between(low, high).all()


def test_filled_marks_are_significant_hollow_ones_are_not():
    rows = [(k, m, 5, 0.03, 0.01, 0.05, 0.01, "", 0.04, True) for k in KS for m in METHODS]
    names = ["k", "method", "n", "difference", "low", "high", "p", "reason", "p_holm", "survives"]
    table = pd.DataFrame(rows, columns=names)
    table.loc[table["method"] == "dm", "survives"] = False
    table.loc[table["method"] == "dc", "reason"] = "not testable: one seed"
    spec = charts.differences(table).to_dict()
    rows = data_of(spec)
    assert len(rows) == 24
    rows = rows[rows["k"] == 10].set_index("method")
    assert rows.loc["dm", "fill"] == "white"
    assert rows.loc["mtt", "fill"] == rows.loc["mtt", "ink"] == style.METHOD_COLOURS["mtt"]
    assert set(rows.index[rows["shape"] == "cross"]) == {"dc"}
    assert rows["difference"].tolist() == pytest.approx([3] * 8)  # points
    _, metadata = render.mime_bundle(spec)
    assert 600 <= metadata["image/png"]["width"] <= 1000
    assert "no random in this study" in str(charts.differences(table.head(0)).to_dict())


def test_the_front_is_drawn_and_missing_times_are_named(table):
    costs = table.drop(columns=["low", "high", "seeds", "n"])
    seconds = costs["k"] ** 0.5 * (1 + costs["method"].map(METHODS.index))
    costs = costs.assign(distil_seconds=seconds, train_seconds=1.0, seconds=seconds + 1)
    costs = costs.assign(front=scores.front(costs["seconds"], costs["accuracy"]))
    costs = costs.assign(search_seconds=np.nan, labels="hard")
    costs.loc[(costs["method"] == "mgd3") & (costs["k"] < 1000), "seconds"] = np.nan
    spec = charts.accuracy_against_seconds(costs).to_dict()
    subtitle = " ".join(spec["title"]["subtitle"])
    assert "Search for settings (not counted), preparation, teacher" in subtitle
    missing = "mgd3 (hard labels) at k = 10, mgd3 (hard labels) at k = 100."
    assert subtitle.endswith(f"No seconds: {missing}")
    lost = costs.assign(accuracy=costs["accuracy"].where(costs["method"] != "dc"), seconds=9.0)
    assert "No seconds" not in str(charts.accuracy_against_seconds(lost).to_dict()["title"])
    rows = data_of(spec)
    assert len(rows) == 22
    # random is cheapest and, in this table, best at every k
    assert set(rows.loc[rows["front"], "method"]) == {"random"}
    assert spec["spec"]["layer"][0]["transform"] == [{"filter": "datum.front"}]
    searched = costs["search_seconds"].where(costs["method"] != "dm", 5.0)
    both = pd.concat([costs, costs.assign(labels="soft", search_seconds=searched)])
    spec = charts.accuracy_against_seconds(both).to_dict()
    assert spec["facet"]["sort"] == ["hard", "soft"]
    assert "Search for settings (dm), preparation" in " ".join(spec["title"]["subtitle"])
    render.mime_bundle(spec)
