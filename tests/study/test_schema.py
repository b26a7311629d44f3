"""The schema by which editors check files of parameters."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from ddlib.study.schema import PATH, schema

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "parameters").glob("*/*.yaml")), ROOT / "examples" / "study.yaml"]
QUICK = yaml.safe_load((ROOT / "parameters" / "methods" / "quick.yaml").read_text())


def errors(table: dict) -> list[str]:
    """Return the paths of what the schema refuses."""
    plain = json.loads(json.dumps(table))
    return [error.json_path for error in Draft202012Validator(schema()).iter_errors(plain)]


def test_the_schema_that_is_kept_is_current():
    kept = json.loads((ROOT / PATH).read_text())
    assert kept == json.loads(json.dumps(schema())), "run python -m ddlib.study.schema"
    Draft202012Validator.check_schema(kept)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_names_the_schema_and_fits_it(path):
    first, table = path.read_text().splitlines()[0], yaml.safe_load(path.read_text())
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == ROOT / PATH
    assert errors(table) == []


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"sedes": 3}, "$"),
        ({"network": {"name": "convnet", "widht": 3}}, "$.network"),
        ({"methods": {"mine": {"method": "dm", "iteration": 3}}}, "$.methods.mine"),
        ({"configurations": {"a": {"optimizer": "adm"}}}, "$.configurations.a"),
        ({"training": {"learning_rate": "1e-3"}}, "$.training.learning_rate"),
    ],
)
def test_what_reading_refuses_is_marked_in_the_editor(changes, path):
    assert errors(QUICK | changes) == [path]


def test_what_extensions_bring_is_allowed():
    changes = {"methods": {"theirs": {"speed": 3}}, "network": {"name": "theirs", "size": 3}}
    assert errors(QUICK | changes | {"extensions": ["theirs.py"]}) == []
