import json
import math
import pickle
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ddlib.parameters import (
    ByIpc,
    Parameters,
    Share,
    Text,
    at_ipc,
    options_of,
    read_yaml,
    whole_keys,
)


class Cooking(Parameters):
    minutes: NonNegativeInt = 20
    eggs: PositiveInt = 2
    heat: NonNegativeFloat = 0.5
    pan: Literal["iron", "steel"] = "iron"
    salt: ByIpc[NonNegativeFloat] = 1.0
    stirs: ByIpc[NonNegativeInt] = {1: 1, 10: 50}
    cook: Text = "anyone"
    spoons: list[PositiveInt] = [3, 1]


class Serving(Parameters):
    guests: PositiveInt
    soup: Cooking = Cooking()
    courses: dict[str, Cooking] = {}
    table: Text | None = Field(None, examples=["window"])
    prices: Annotated[list[PositiveFloat], Field(min_length=1)] | None = Field(
        None, examples=["[3.5]"]
    )
    names: list[Text] = []
    share: Share = 0.5
    served: bool = True


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("k: 1\nseeds: 2\nk: 3\n", "'k' stands twice in one table, in lines 1 and 3"),
        ("methods:\n  dm: {rate: 1}\n  dm: {rate: 2}\n", "'dm' .*, in lines 2 and 3"),
        ("- rate: {1: 5, 0x1: 6}", "1 stands twice"),
        ("rate: {1: 5, '1': 6}", "'1' stands twice"),  # which JSON does not tell apart
        ("a: &a {k: 1}\nb: {<<: *a, k: 2, k: 3}", "'k' stands twice"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(text, twice):
    with pytest.raises(ValueError, match=f"^mine: the key {twice}.*; keep one$"):
        read_yaml(text, "mine")


def test_what_a_table_merges_it_may_override():
    text = "a: {b: {one: &one {<<: {k: 1, n: 1}, k: 2}}}\ntwo: &two {<<: *one, k: 3}\nlast: *two\n"
    expected = {"k": 3, "n": 1}
    read = read_yaml(text, "mine")
    assert read == {"a": {"b": {"one": {"k": 2, "n": 1}}}, "two": expected, "last": expected}
    assert read_yaml("a: {k: 1}\nb: {k: 1}", "mine") == {"a": {"k": 1}, "b": {"k": 1}}


@pytest.mark.parametrize("text", ["k: [1", "? [a]\n: 1", "day: 2026-13-45"])
def test_text_that_is_not_yaml_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match=r"^mine(:| is not YAML)") as raised:
        read_yaml(text, "mine")
    assert "\n" not in str(raised.value)


def test_defaults_stand_where_nothing_is_given():
    expected = {
        **{"minutes": 20, "eggs": 2, "heat": 0.5, "pan": "iron", "salt": 1.0},
        **{"stirs": {1: 1, 10: 50}, "cook": "anyone", "spoons": [3, 1]},
    }
    for parameters in (Cooking(), Cooking.read(None, "soup"), Cooking.read({}, "soup")):
        assert parameters.model_dump() == expected


def test_given_values_replace_defaults():
    read = Cooking.read({"eggs": 3, "heat": 1, "salt": {5: 0.1, 50: 2}, "spoons": []}, "soup")
    assert read == Cooking(eggs=3, heat=1.0, salt={5: 0.1, 50: 2.0}, spoons=[])
    table = {"guests": 3, "soup": {"eggs": 1}, "courses": {"fish": None}, "prices": [1, 0.5]}
    read = Serving.read(table, "dinner")
    assert (read.soup.eggs, read.courses, read.prices) == (1, {"fish": Cooking()}, [1.0, 0.5])
    assert read.replace(guests=4, soup={"eggs": 2}) == Serving.read(
        table | {"guests": 4, "soup": {}}, "dinner"
    )


def test_a_table_that_went_through_json_is_read_as_it_was():
    read = Cooking.read(json.loads(json.dumps({"salt": {1: 0.5, 10: 2}, "pan": "steel"})), "soup")
    assert read == Cooking(salt={1: 0.5, 10: 2}, pan="steel")
    assert whole_keys({"1": 2, 3: 4, "x": 5}) == {1: 2, 3: 4, "x": 5}
    assert whole_keys(0.5) == 0.5


def test_parameters_are_frozen_share_no_table_and_travel():
    with pytest.raises(ValueError, match="frozen"):
        Cooking().eggs = 3
    Cooking().stirs[10] = 7
    Cooking().spoons.append(7)
    assert (Cooking().stirs, Cooking().spoons) == ({1: 1, 10: 50}, [3, 1])
    served = Serving(guests=3, courses={"fish": Cooking(eggs=1)})
    assert pickle.loads(pickle.dumps(served)) == served


WHOLE = "a whole number of at least 1"
NAMES = "guests, soup, courses, table, prices, names, share, served"
IRON = "did you mean 'iron'? allowed: iron, steel"


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        *[({"guests": value}, f"guests={value} must be {WHOLE}") for value in (None, 1.5, True)],
        ({"guests": "20"}, f"guests='20' must be {WHOLE}; YAML reads '20' as text: write 20"),
        ({"table": 3}, "table=3 must be text, such as window"),
        ({"table": " "}, "table=' ' must be text, such as window"),
        ({"prices": []}, "prices=[] must be a list of one or more numbers above 0, such as [3.5]"),
        ({"prices": [0.1, 0]}, "prices[1]=0 must be a number above 0"),
        ({"names": "Ann"}, "names='Ann' must be a list of texts"),
        ({"share": 1.5}, "share=1.5 must be a number of at least 0 and at most 1"),
        ({"share": math.inf}, "share=inf must be a number of at least 0 and at most 1"),
        ({"served": 1}, "served=1 must be true or false"),
        ({"soup": ["eggs"]}, "soup: this must be a table of names and values, got ['eggs']"),
        ({"soup": {"minutes": -1}}, "soup: minutes=-1 must be a whole number of at least 0"),
        ({"soup": {"pan": "Irn"}}, f"soup: 'Irn' is not a pan; {IRON}"),
        ({"soup": {"pan": ["iron"]}}, f"soup: ['iron'] is not a pan; {IRON}"),
        ({"courses": 3}, "courses=3 must be a table {name: value}"),
        (
            {"courses": {"fish": {"salt": "1e-3"}}},
            "courses: fish: salt='1e-3' must be a number of at least 0 or a table {ipc: number}; "
            "YAML reads '1e-3' as text: write 1.0e-3",
        ),
        ({"soup": {"salt": {0: 1.0}}}, "soup: salt has 0 for an ipc; give whole numbers from 1"),
        ({"soup": {"salt": {1: 1, 10: -2}}}, "soup: salt[10]=-2 must be a number of at least 0"),
        (
            {"soup": {"stirs": {"1": 1.5}}},
            "soup: stirs[1]=1.5 must be a whole number of at least 0",
        ),
        ({"gests": 3}, f"'gests' is not a parameter; did you mean 'guests'? allowed: {NAMES}"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(table, sentence):
    with pytest.raises(ValueError, match="dinner") as raised:
        Serving.read({"guests": 3, **table}, "dinner")
    assert str(raised.value) == f"dinner: {sentence}"
    with pytest.raises(ValueError, match=r".") as raised:
        Serving(**{"guests": 3, **table})
    assert str(raised.value) == sentence


def test_what_is_missing_or_no_table_is_refused():
    with pytest.raises(ValueError, match=r"^dinner: the parameter 'guests' is missing; add it$"):
        Serving.read({"share": 1}, "dinner")
    for table in (["guests"], "guests", 3):
        with pytest.raises(ValueError, match=r"^dinner: this must be a table of names and values"):
            Serving.read(table, "dinner")


def bake(
    bread, minutes: int = 40, *, heat: float = 0.5, brown: bool = True, note: str = "",
    salt: Literal["sea", "rock"] = "sea", crust: int | Literal["thin"] = 3,
):  # fmt: skip
    return bread


def test_options_are_the_optional_arguments_of_a_function():
    options = options_of(bake)
    defaults = {"minutes": 40, "heat": 0.5, "brown": True, "note": "", "salt": "sea", "crust": 3}
    assert options.read(None, "the bread").model_dump() == defaults
    changes = {"minutes": 1, "heat": -2.0, "brown": False, "note": "mine", "crust": "thin"}
    assert options.read(changes, "the bread").model_dump() == defaults | changes
    for change, sentence in (
        ({"minutes": 0}, "minutes=0 must be a whole number of at least 1"),
        ({"heat": math.inf}, "heat=inf must be a number"),
        ({"brown": 1}, "brown=1 must be true or false"),
        ({"note": 3}, "note=3 must be text"),
        ({"salt": "rok"}, "'rok' is not a salt; did you mean 'rock'? allowed: sea, rock"),
        ({"crust": True}, "crust=True must be a whole number of at least 1 or 'thin'"),
        (
            {"bread": "rye"},
            "'bread' is not a parameter; allowed: minutes, heat, brown, note, salt, crust",
        ),
    ):
        with pytest.raises(ValueError, match="the bread") as raised:
            options.read(change, "the bread")
        assert str(raised.value) == f"the bread: {sentence}"


@pytest.mark.parametrize("table", [{50: 10, 3: 1, 10: 50}, {10: 4.0}, 0.3])
def test_a_table_is_interpolated_and_constant_past_its_ends(table):
    sizes = [1, 2, 3, 5, 7, 10, 12, 40, 50, 51, 1000]
    points = dict(sorted(table.items())) if isinstance(table, dict) else {1: table}
    expected = np.interp(sizes, list(points), list(points.values()))
    assert [at_ipc(table, ipc) for ipc in sizes] == pytest.approx(expected)
    assert [at_ipc(points, ipc) for ipc in points] == list(points.values())  # exactly
