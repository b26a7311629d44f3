"""Tables as vectors: against scikit-learn's own scaler and encoder, and numbers known by hand."""

import math
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from layouts import images, real_data
from sklearn import datasets
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ddlib.data.load import load
from ddlib.data.tables import nearest_valid, rows

TRAIN = {
    "age": [10, 20, 30, 40],
    "town": ["Bonn", "Rome", "Bonn", "Oslo"],
    "height": [1.0, 1.5, 2.0, 1.5],
    "label": ["yes", "no", "yes", "no"],
}
TEST = {"age": [25, 35], "town": ["Rome", "Bonn"], "height": [1.5, 1.5], "label": ["no", "yes"]}


def write(folder, suffix=".csv", train=None, test=None):
    """Write TRAIN and TEST, changed by train=... and test=...; a column of None is left out."""
    folder.mkdir(exist_ok=True)
    for part, table, changes in (("train", TRAIN, train), ("test", TEST, test)):
        columns = {name: value for name, value in (table | (changes or {})).items() if value}
        frame = pd.DataFrame(columns)
        path = folder / f"{part}{suffix}"
        frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_numbers_are_standardised_on_the_training_rows_and_words_are_one_hot(tmp_path, suffix):
    loaded = load(write(tmp_path / "towns", suffix))
    assert (loaded.name, loaded.kind, loaded.sample_shape) == ("towns", "vector", (5,))
    assert loaded.classes == ("no", "yes")
    assert (loaded.train.labels.tolist(), loaded.test.labels.tolist()) == ([1, 0, 1, 0], [0, 1])
    ages, heights = np.array([10, 20, 30, 40]), np.array([1, 1.5, 2, 1.5])
    train = np.stack([(ages - 25) / np.sqrt(125), (heights - 1.5) / np.sqrt(0.125)], 1)
    towns = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])  # Bonn, Oslo, Rome
    expected = torch.tensor(np.hstack([train, towns]), dtype=torch.float32)
    torch.testing.assert_close(images(loaded.train), expected)
    expected = [[0, 0, 0, 0, 1], [10 / np.sqrt(125), 0, 1, 0, 0]]
    torch.testing.assert_close(images(loaded.test), torch.tensor(expected, dtype=torch.float32))


def test_against_scikit_learn_with_rare_words_together(tmp_path):
    draws = np.random.default_rng(0)
    words = [*draws.choice(list("abc"), 2996), "rare", "rarer", "c", "a"]
    train = {"x": [*draws.normal(7, 3, 3000)], "word": words, "label": [0, 1] * 1500}
    gone = dict.fromkeys(TRAIN)
    test = {"x": [1.0, 2.0], "word": ["b", "rare"], "label": [1, 0]}
    loaded = load(write(tmp_path, train=gone | train, test=gone | test))
    x = StandardScaler().fit_transform(np.array(train["x"])[:, None])
    encoder = OneHotEncoder(min_frequency=3, sparse_output=False)
    one_hot = encoder.fit_transform(np.array(words)[:, None])
    assert loaded.normalisation.columns == (("x", ()), ("word", ("a", "b", "c", "other")))
    np.testing.assert_allclose(images(loaded.train), np.hstack([x, one_hot]), atol=1e-6)
    assert images(loaded.test)[:, 1:].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_words_that_only_test_rows_have_are_said(tmp_path):
    folder = write(tmp_path / "towns", test={"town": ["Rome", "Pisa"]})
    with pytest.warns(UserWarning, match="no training row has the words Pisa of column town"):
        loaded = load(folder)
    assert images(loaded.test)[1, 2:].tolist() == [0, 0, 0]


def test_missing_values_are_replaced_where_that_is_asked_for(tmp_path):
    gaps = {"age": [10, None, 30, 40], "town": ["Bonn", "Rome", "Bonn", None]}
    folder = write(tmp_path, train=gaps, test={"age": [None, 35]})
    with pytest.raises(ValueError, match=r"3 values are missing, in age, town; fill them"):
        load(folder)
    for missing, age in (("mean", 80 / 3), ("most_frequent", 10)):
        loaded = load(folder, missing=missing)
        table = rows(images(loaded.train), loaded.normalisation)
        assert table["age"][1] == pytest.approx(age)
        assert table["town"].tolist() == ["Bonn", "Rome", "Bonn", "Bonn"]
        age_of_test = rows(images(loaded.test), loaded.normalisation)["age"][0]
        assert age_of_test == pytest.approx(age)


def test_whole_numbers_may_take_the_place_of_missing_ones(tmp_path):
    gone = dict.fromkeys(TRAIN)
    train = gone | {"age": [10, 20, 10, 40], "label": ["yes", "no"] * 2}
    test = {"age": [None, 20], "town": None, "height": None}
    loaded = load(write(tmp_path, train=train, test=test), missing="most_frequent")
    ages = rows(images(loaded.test), loaded.normalisation)["age"]
    assert ages.tolist() == pytest.approx([10, 20])


@pytest.mark.filterwarnings("ignore:.*marks such as AB")
def test_words_are_read_in_test_as_in_train(tmp_path):
    """Alone, the column of the test file would be read as the numbers 1 and 2."""
    train = {"town": ["01", "02", "AB", "01"]}
    loaded = load(write(tmp_path, train=train, test={"town": ["01", "02"]}))
    assert images(loaded.test)[:, 2:].tolist() == [[1, 0, 0], [0, 1, 0]]
    train = {"town": ["1", "2", "?", "1"]}
    with pytest.warns(
        UserWarning, match="town holds numbers, but in 1 training rows marks such as [?]"
    ):
        load(write(tmp_path, train=train, test={"town": ["1", "2"]}))
    # Alone, TRUE would be read as True, but beside an empty cell as the word TRUE.
    train = {"town": ["TRUE", "FALSE", None, "TRUE"]}
    folder = write(tmp_path, train=train, test={"town": ["TRUE", "FALSE"]})
    loaded = load(folder, missing="mean")
    assert loaded.normalisation.columns[-1] == ("town", ("FALSE", "TRUE"))
    assert images(loaded.test)[:, 2:].tolist() == [[0, 1], [1, 0]]


@pytest.mark.filterwarnings("ignore:.* are read as words")
def test_only_an_empty_cell_is_a_missing_word(tmp_path):
    train = {"age": [10, "NA", 30, 40], "town": ["NA", "None", None, "Rome"]}
    train["label"], test = ["null", "no"] * 2, {"town": ["None", "NA"], "label": ["no", "null"]}
    folder = write(tmp_path, train=train, test=test)
    with pytest.raises(ValueError, match="2 values are missing, in age, town; fill them"):
        load(folder)
    with pytest.warns(UserWarning, match="2 cells of column town such as NA are read as words"):
        loaded = load(folder, missing="mean")
    assert loaded.classes == ("no", "null")
    for part, towns in ((loaded.train, ["NA", "None", "NA", "Rome"]), (loaded.test, test["town"])):
        assert rows(images(part), loaded.normalisation)["town"].tolist() == towns


def test_rows_are_the_nearest_ones(tmp_path):
    loaded = load(write(tmp_path))
    back = rows(images(loaded.train), loaded.normalisation)
    assert list(back) == ["age", "height", "town"]
    assert back["town"].tolist() == TRAIN["town"]
    np.testing.assert_allclose(
        back[["age", "height"]], pd.DataFrame(TRAIN)[["age", "height"]], rtol=1e-5
    )
    blurred = torch.tensor([[1.0, 0.0, 0.2, -3.0, 0.3]])
    (row,) = rows(blurred, loaded.normalisation).to_dict("records")
    assert (row["town"], row["age"]) == ("Rome", pytest.approx(25 + np.sqrt(125)))
    assert nearest_valid(blurred, loaded.normalisation).tolist() == [[1, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            {"label.1": [0, 1, 0, 1]},
            {"label.1": [0, 1]},
            "train has two columns 'label'; leave one",
        ),
        ({"label": None}, {}, "towns: train has no column 'label', only age, town, height; name"),
        ({}, {"label": None}, "towns: test has no column 'label'"),
        ({}, {"label": ["no", "maybe"]}, "the label maybe of test rows is that of no training row"),
        ({"label": ["yes", "no", "yes", None]}, {}, "towns: train has 1 rows without a label"),
        ({"height": [1] * 4}, {}, "column height is constant in the training rows; drop"),
        ({"town": ["Bonn"] * 4}, {}, "column town is constant in the training rows; drop"),
        ({"Unnamed: 0": [0, 1, 2, 3]}, {"Unnamed: 0": [0, 1]}, "column Unnamed: 0 has no name"),
        ({}, {"height": [1.0, -np.inf]}, "column height holds infinite numbers; replace them"),
        ({"height": None}, {}, "the columns height are not in both train and test"),
        ({}, {"age": ["young", "old"]}, "column age holds numbers in train, but words in test"),
        (
            dict.fromkeys(["age", "town", "height"]),
            dict.fromkeys(["age", "town", "height"]),
            "towns: train or test has no rows, or no column besides the labels",
        ),
    ],
)
def test_bad_tables(tmp_path, train, test, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "towns", train=train, test=test))


def test_no_cell_of_a_file_is_lost_in_an_index(tmp_path):
    folder = tmp_path / "towns"
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}.csv").write_text("age,income,label\n31,5,100,x\n42,6,200,y\n")
    with pytest.raises(
        ValueError, match=r"train.csv cannot be read \(its rows have more cells than"
    ):
        load(folder)
    folder = write(tmp_path / "others", suffix=".parquet")
    frame = pd.read_parquet(folder / "train.parquet")
    frame.set_index("age").to_parquet(folder / "train.parquet")
    with pytest.raises(ValueError, match=r"its index holds age; make it a column, reset_index\(\)"):
        load(folder)
    frame.sample(frac=1, random_state=0).to_parquet(folder / "train.parquet")  # an index of places
    assert load(folder).train.labels.shape == (4,)


def test_decimals_are_numbers_and_numbers_as_text_are_said(tmp_path):
    folder = write(tmp_path / "towns", suffix=".parquet")
    for part in ("train", "test"):
        frame = pd.read_parquet(folder / f"{part}.parquet")
        frame.assign(age=frame["age"].map(Decimal)).to_parquet(folder / f"{part}.parquet")
    assert load(folder).sample_shape == load(write(tmp_path / "plain")).sample_shape
    frame = pd.read_parquet(folder / "train.parquet")
    frame.assign(age=["1", "2", "1", "2"]).to_parquet(folder / "train.parquet")
    frame = pd.read_parquet(folder / "test.parquet")
    frame.assign(age="1").to_parquet(folder / "test.parquet")
    with pytest.warns(UserWarning, match="column age holds numbers that are written as text, so"):
        assert dict(load(folder).normalisation.columns)["age"] == ("1", "2")


def test_too_many_words_and_options_of_other_formats(tmp_path):
    many = {"town": [f"t{row}" for row in range(10_000)], "label": ["yes", "no"] * 5000}
    many |= {"age": [*range(10_000)], "height": [*range(10_000)]}
    with pytest.raises(ValueError, match="column town has 10000 different words in 10000"):
        load(write(tmp_path / "towns", train=many))
    (tmp_path / "bad").mkdir()
    for part in ("train", "test"):
        (tmp_path / "bad" / f"{part}.parquet").write_bytes(b"PAR")
    with pytest.raises(ValueError, match=r"train\.parquet cannot be read"):
        load(tmp_path / "bad")
    for cell in ([1.0, 2.0], {"bytes": b"", "path": "x"}):
        frame = pd.DataFrame({"image": [cell] * 4, "label": [0, 1, 0, 1]})
        for part in ("train", "test"):
            frame.to_parquet(tmp_path / "bad" / f"{part}.parquet")
        with pytest.raises(ValueError, match="column image holds lists, tables or durations"):
            load(tmp_path / "bad")
    for options, message in (
        ({"image_size": 8}, "image_size=8 is an option of images, but wine holds tables; leave"),
        ({"zca": True}, "zca=True is an option of images, but wine holds tables"),
        ({"form": "tokens"}, "form='tokens' is an option of texts, but wine holds tables"),
    ):
        with pytest.raises(ValueError, match=message):
            load("wine", **options)
    with pytest.raises(ValueError, match="missing='mean' is an option of tables, but digits holds"):
        load("digits", missing="mean")
    with pytest.raises(ValueError, match="label='kind' is an option of tables and texts, but digi"):
        load("digits", label="kind")


@pytest.mark.parametrize(
    ("name", "table"),
    [("breast_cancer", datasets.load_breast_cancer()), ("wine", datasets.load_wine())],
)
def test_tables_of_scikit_learn_are_split_two_to_one(name, table):
    loaded = load(name)
    counts = len(loaded.train.labels), len(loaded.test.labels)
    assert loaded.classes == tuple(sorted(table.target_names))
    assert counts == (len(table.target) * 2 // 3, math.ceil(len(table.target) / 3))
    parts = [rows(images(part), loaded.normalisation) for part in (loaded.train, loaded.test)]
    both = pd.concat(parts).sort_values(list(parts[0])).to_numpy()
    expected = pd.DataFrame(table.data).sort_values([*range(both.shape[1])]).to_numpy()
    np.testing.assert_allclose(both[:, 0], expected[:, 0], rtol=1e-5)
    trained_on = images(loaded.train).double()
    assert trained_on.mean(0).abs().max() < 1e-6
    assert (trained_on.std(0, correction=0) - 1).abs().max() < 1e-5


def test_tables_of_scikit_learn_take_the_options_of_tables():
    with pytest.raises(ValueError, match=r"the proline .* of test rows is that of no training row"):
        load("wine", label="proline")
    with pytest.raises(ValueError, match="has no column 'grape', only alcohol, "):
        load("wine", label="grape")


def test_options_of_every_format_work_on_tables():
    whole = load("wine")
    few = load("wine", classes=["class_2", "class_0"], per_class=5, held_out=3)
    assert few.classes == ("class_2", "class_0")
    assert few.train.labels.bincount().tolist() == [5, 5]
    assert few.test.labels.bincount().tolist() == [3, 3]
    assert few.normalisation == whole.normalisation


def test_a_table_of_openml_is_written_once_and_a_fifth_tests(root, monkeypatch):
    table = datasets.load_wine(as_frame=True)
    table.target = table.target.map(str)
    asked = []
    monkeypatch.setattr(
        datasets, "fetch_openml", lambda *a, **more: asked.append((a, more)) or table
    )
    with pytest.raises(FileNotFoundError, match="download: true"):
        load("letter")
    loaded = load("letter", download=True)
    assert asked == [(("letter",), {"version": 1, "as_frame": True})]
    assert (len(loaded.train.labels), len(loaded.test.labels)) == (142, 36)
    again = load("letter")
    assert torch.equal(images(again.train), images(loaded.train))


@real_data
@pytest.mark.parametrize(
    ("name", "shape", "counts", "first", "share"),
    [
        # Published shares of the first class: 75.9 % of Adult's rows earn <= 50K, 64.8 % of MAGIC's
        # are gamma; Letter has 789 A in 20,000.
        ("adult", None, (26_049, 6_512), "<=50K", 0.759),
        ("magic_telescope", (10,), (15_216, 3_804), "g", 0.648),
        ("letter", (16,), (16_000, 4_000), "A", 0.0395),
    ],
)
def test_real_tables(name, shape, counts, first, share):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one word of Adult is in a test row alone
        loaded = load(name)
    assert shape in (None, loaded.sample_shape)
    assert (len(loaded.train.labels), len(loaded.test.labels)) == counts
    assert loaded.classes[0] == first
    assert (loaded.train.labels == 0).float().mean().item() == pytest.approx(share, abs=0.003)
    numbers = [not words for _, words in loaded.normalisation.columns]
    values = images(loaded.train)[:, : sum(numbers)].double()
    assert values.mean(0).abs().max() < 1e-5
    assert (values.std(0) - 1).abs().max() < 1e-3


def test_numbers_may_name_the_columns_of_parquet_files(tmp_path):
    for part in ("train", "test"):
        table = pd.DataFrame({0: [1.0, 2.0, 4.0], 1: ["a", "b", "a"]})
        table.to_parquet(tmp_path / f"{part}.parquet")
    assert load(tmp_path, label="1").normalisation.columns == (("0", ()),)
