import json
import math
from dataclasses import FrozenInstanceError, dataclass
from typing import Literal

import numpy as np
import pytest

from ddlib.parameters import (
    ByIpc,
    Parameters,
    at_ipc,
    check_names,
    check_options,
    read_options,
    read_yaml,
    setting,
    whole_keys,
)


@dataclass(frozen=True)
class Cooking(Parameters):
    minutes: int = setting(20)
    eggs: int = setting(2, least=1)
    heat: float = setting(0.5)
    pan: str = setting("iron", choices=["iron", "steel"])
    salt: ByIpc = setting(1.0, by_ipc=True)
    stirs: ByIpc = setting({1: 1, 10: 50}, by_ipc=True)
    cook: str = setting("anyone")
    spoons: list[int] = setting([3, 1], least=1)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("k: 1\nseeds: 2\nk: 3\n", "'k' stands twice in one table, in lines 1 and 3"),
        ("{k: 1, k: 1}", "'k' stands twice in one table, in lines 1 and 1"),
        ("methods:\n  dm: {rate: 1}\n  dm: {rate: 2}\n", "'dm' .*, in lines 2 and 3"),
        ("- rate: {1: 5, 0x1: 6}", "1 stands twice"),
        ("rate: {1: 5, '1': 6}", "'1' stands twice"),  # which JSON does not tell apart
        ("a: &a {k: 1}\nb: {<<: *a, k: 2, k: 3}", "'k' stands twice"),
        ("a: &a {k: 1}\nb: &b {k: 2}\nc: {<<: *a, <<: *b}", "'<<' stands twice"),
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
    for parameters in (Cooking(), Cooking.read(None, "soup"), Cooking.read({}, "soup")):
        assert parameters == Cooking(20, 2, 0.5, "iron", 1.0, {1: 1, 10: 50}, "anyone", [3, 1])


@dataclass(frozen=True)
class Serving(Parameters):
    guests: int = setting(kind=int, least=1)
    note: dict | None = None
    table: str | None = setting(None, kind=str)
    prices: list[float] | None = setting(None, kind=list, of=float, above=0)
    names: list[str] = setting([], of=str)
    share: float = setting(0.5, above=0)


def test_what_has_no_default_must_be_given_and_what_is_none_may_stay_so():
    assert Serving.required() == ["guests"]
    assert Cooking.required() == []
    with pytest.raises(ValueError, match=r"^the parameter 'guests' of dinner is missing; add it"):
        Serving.read({"share": 1}, "dinner")
    given = {"guests": 3, "prices": [1, 0.5], "names": ["Ann"], "note": {"1": 2}}
    read = Serving.read(given | {"table": None}, "dinner")
    assert read == Serving(3, {"1": 2}, None, [1, 0.5], ["Ann"], 0.5)  # of a note all is left


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guests": None}, "dinner: guests=None must be a whole number of at least 1"),
        ({"table": 3}, "dinner: table=3 must be text"),
        ({"table": " "}, "dinner: table=' ' must be text"),
        ({"prices": 3}, "dinner: prices=3 must be a list of numbers above 0"),
        ({"prices": [0.1, 0]}, "dinner: prices[1]=0 must be a number above 0"),
        ({"names": "Ann"}, "dinner: names='Ann' must be a list of texts"),
        ({"names": [3]}, "dinner: names[0]=3 must be text"),
        ({"share": 0}, "dinner: share=0 must be a number above 0"),
        ({"share": math.inf}, "dinner: share=inf must be a number above 0"),
        ({"share": True}, "dinner: share=True must be a number above 0"),
    ],
)
def test_limits_and_kinds_are_those_declared(given, message):
    with pytest.raises(ValueError, match="dinner") as raised:
        Serving.read({"guests": 3, **given}, "dinner")
    assert str(raised.value) == message


def test_given_values_replace_defaults():
    read = Cooking.read({"eggs": 3, "heat": 1, "salt": {5: 0.1, 50: 2}}, "soup")
    assert (read.eggs, read.heat, read.salt, read.minutes) == (3, 1, {5: 0.1, 50: 2}, 20)


def test_a_table_that_went_through_json_is_read_as_it_was():
    read = Cooking.read(json.loads(json.dumps({"salt": {1: 0.5, 10: 2}, "pan": "steel"})), "soup")
    assert read == Cooking(salt={1: 0.5, 10: 2}, pan="steel")
    assert whole_keys({"1": 2, 3: 4, "x": 5}) == {1: 2, 3: 4, "x": 5}
    assert whole_keys(0.5) == 0.5


def test_parameters_are_frozen_and_share_no_table():
    with pytest.raises(FrozenInstanceError):
        Cooking().eggs = 3
    Cooking().stirs[10] = 7
    Cooking().spoons.append(7)
    assert Cooking().stirs == {1: 1, 10: 50}
    assert Cooking().spoons == [3, 1]


def test_text_and_lists_of_whole_numbers_may_be_any():
    read = Cooking.read({"cook": "/home/me", "spoons": []}, "soup")
    assert (read.cook, read.spoons) == ("/home/me", [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minutes": 1.5}, r"minutes=1\.5 must be a whole number of at least 0"),
        ({"minutes": -1}, r"minutes=-1 must be a whole number of at least 0"),
        ({"minutes": True}, r"minutes=True must be a whole number"),
        ({"minutes": "20"}, r"minutes='20' must be a whole number"),
        ({"minutes": None}, r"minutes=None must be a whole number"),
        ({"minutes": {1: 2}}, r"minutes=\{1: 2\} must be a whole number"),
        ({"eggs": 0}, r"eggs=0 must be a whole number of at least 1"),
        ({"heat": -0.1}, r"heat=-0\.1 must be a number of at least 0"),
        ({"heat": math.nan}, r"heat=nan must be a number of at least 0"),
        ({"heat": math.inf}, r"heat=inf must be a number of at least 0"),
        ({"salt": {"-1": 1.0}}, r"salt has '-1' for an ipc; give whole numbers from 1"),
        ({"pan": "irn"}, r"'irn' is not a pan; did you mean 'iron'\? allowed: iron, steel"),
        ({"pan": ["iron"]}, r"\['iron'\] is not a pan; .*allowed: iron, steel"),
        ({"salt": "much"}, r"salt='much' must be a number .* or a table \{ipc: number\}"),
        ({"salt": {}}, r"salt is an empty table; give at least one ipc: number"),
        ({"salt": {0: 1.0}}, r"salt has 0 for an ipc; give whole numbers from 1"),
        ({"salt": {"one": 1.0}}, r"salt has 'one' for an ipc; give whole numbers from 1"),
        ({"salt": {1: 1.0, 10: -2}}, r"salt\[10\]=-2 must be a number of at least 0"),
        ({"stirs": {1: 1.5}}, r"stirs\[1\]=1\.5 must be a whole number"),
        ({"stirs": 1.5}, r"stirs=1\.5 must be a whole number"),
        ({"cook": ""}, r"cook='' must be text"),
        ({"cook": None}, r"cook=None must be text"),
        ({"spoons": 3}, r"spoons=3 must be a list of whole numbers of at least 1"),
        ({"spoons": {1: 3}}, r"spoons=\{1: 3\} must be a list of whole numbers"),
        ({"spoons": [3, 0]}, r"spoons\[1\]=0 must be a whole number of at least 1"),
        ({"spoons": [1.5]}, r"spoons\[0\]=1\.5 must be a whole number"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(given, message):
    with pytest.raises(ValueError, match=message) as raised:
        Cooking.read(given, "soup")
    assert str(raised.value).startswith("soup: ")
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=message):
        Cooking(**given)  # checked however it is made


def test_an_unknown_name_is_refused_with_the_allowed_ones():
    message = (
        "'egs' is not a parameter of soup; did you mean 'eggs'? "
        "allowed: minutes, eggs, heat, pan, salt, stirs, cook, spoons"
    )
    with pytest.raises(ValueError, match="egs") as raised:
        Cooking.read({"egs": 3}, "soup")
    assert str(raised.value) == message


@pytest.mark.parametrize("given", [["eggs"], "eggs", 3])
def test_what_is_not_a_table_is_refused(given):
    with pytest.raises(ValueError, match="soup must be a table of names and values, got"):
        Cooking.read(given, "soup")


def test_check_names_without_a_near_miss_lists_the_allowed():
    with pytest.raises(ValueError, match=r"^'x' is not a dish; allowed: none$"):
        check_names(["x"], [], "dish")
    with pytest.raises(ValueError, match=r"^'x' is not an egg; allowed: duck, hen$"):
        check_names(["x"], ["duck", "hen"], "egg")
    with pytest.raises(ValueError, match=r"^'Soupe' is not a dish; did you mean 'soup'\? allowed"):
        check_names(["Soupe"], ["soup", "hen"], "dish")
    check_names(["soup"], ["soup", "stew"], "dish")
    check_names([], [], "dish")


def cook(fish, pan="iron", *, heat=0.5):
    return fish, pan, heat


def test_options_are_the_optional_arguments_and_the_callers_own_names():
    assert read_options(cook, {"pan": "steel"}, "cook") == {"pan": "steel", "heat": 0.5}
    assert read_options(cook, None, "cook") == {"pan": "iron", "heat": 0.5}
    given = {"heat": 1, "name": "x"}
    read = read_options(cook, given, "cook", own=["name"])
    assert read == {"pan": "iron", "heat": 1, "name": "x"}
    assert given == {"heat": 1, "name": "x"}
    with pytest.raises(ValueError, match=r"'fish' is not a parameter of cook; allowed: pan, heat"):
        read_options(cook, {"fish": "cod"}, "cook")
    with pytest.raises(ValueError, match="cook must be a table"):
        read_options(cook, ["pan"], "cook")


Salt = Literal["sea", "rock"]


def bake(minutes: int = 40, salt: Salt = "sea", crust: int | Literal["thin", "thick"] = 3):
    return minutes, salt, crust


@pytest.mark.parametrize(
    "given", [{}, {"minutes": 1, "salt": "rock", "crust": "thin"}, {"crust": 5}, {"salt": "sea"}]
)
def test_options_of_their_annotated_kind_pass(given):
    check_options(bake, given, "the bread")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minutes": 0}, "the bread: minutes=0 must be a whole number of at least 1"),
        ({"minutes": 2.5}, "the bread: minutes=2.5 must be a whole number of at least 1"),
        ({"minutes": None}, "the bread: minutes=None must be a whole number of at least 1"),
        ({"minutes": "thin"}, "the bread: minutes='thin' must be a whole number of at least 1"),
        ({"salt": 1}, "1 is not a salt of the bread; allowed: sea, rock"),
        ({"salt": [1]}, "[1] is not a salt of the bread; allowed: sea, rock"),
        (
            {"salt": "rok"},
            "'rok' is not a salt of the bread; did you mean 'rock'? allowed: sea, rock",
        ),
        (
            {"crust": "no"},
            "the bread: crust='no' must be a whole number of at least 1 or 'thin' or 'thick'",
        ),
        (
            {"crust": True},
            "the bread: crust=True must be a whole number of at least 1 or 'thin' or 'thick'",
        ),
    ],
)
def test_options_of_another_kind_are_refused(given, message):
    with pytest.raises(ValueError, match="the bread") as raised:
        check_options(bake, {"minutes": 40, **given}, "the bread")
    assert str(raised.value) == message


def test_one_number_serves_every_size():
    assert at_ipc(0.3, 1) == at_ipc(0.3, 1000) == 0.3


@pytest.mark.parametrize("ipc", [1, 2, 3, 5, 7, 10, 12, 40, 50, 51, 1000])
def test_a_table_is_interpolated_and_constant_past_its_ends(ipc):
    table = {50: 10, 3: 1, 10: 50}
    assert at_ipc(table, ipc) == pytest.approx(np.interp(ipc, [3, 10, 50], [1, 50, 10]))


def test_a_table_of_one_entry_is_constant():
    assert [at_ipc({10: 4.0}, ipc) for ipc in (1, 10, 99)] == [4.0, 4.0, 4.0]


def test_published_entries_come_back_exactly():
    table = {1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10}
    assert {ipc: at_ipc(table, ipc) for ipc in table} == table
