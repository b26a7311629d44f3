"""The JSON schema of parameter files, with which editors check and complete the YAML.

`python -m ddlib.study.schema` writes it to parameters/schema.json. Names from extensions are
allowed, but their parameters are not checked.
"""

import json
from collections.abc import Iterable
from typing import Any

from ddlib.configurations.configuration import Configuration
from ddlib.configurations.table_models import TABLE_MODELS
from ddlib.data.options import Options
from ddlib.data.sources import DATASETS
from ddlib.files import from_root, write_atomically
from ddlib.methods import METHODS
from ddlib.networks.zoo import NETWORKS
from ddlib.parameters import options_of
from ddlib.study.exploration import Exploration
from ddlib.study.settings import Settings

PATH = "parameters/schema.json"
Schema = dict[str, Any]
NOTHING: Schema = {"type": "null"}
NAMES: Schema = {"type": "array", "items": {"type": ["string", "integer"]}}


def schema() -> Schema:
    """Return the JSON schema of a parameter file, for a study or for the explorers."""
    study, changes = Settings.model_json_schema(), Configuration.model_json_schema()
    definitions = study.pop("$defs") | changes.pop("$defs")
    networks = [
        _with("name", {"const": name}, options_of(network).model_json_schema())
        for name, network in (NETWORKS | TABLE_MODELS).items()
    ]
    others = _other("name", NETWORKS | TABLE_MODELS)
    network = {"anyOf": [*networks[: len(NETWORKS)], others]}
    model = {"anyOf": [*networks, others]}
    changes["properties"] |= {"network": model, "product": {"type": "object"}}
    del changes["required"]  # a configuration takes the rest from the study
    methods = {name: method.parameters.model_json_schema() for name, method in METHODS.items()}
    for method in methods.values():
        definitions |= method.pop("$defs", {})
    variants = [_with("method", {"const": name}, methods[name]) for name in methods]
    names = {"type": "string", "examples": list(DATASETS)}
    study["properties"] |= {
        "data": _with("name", names, Options.model_json_schema()),
        "network": network,
        "methods": {
            "type": "object",
            "properties": {name: {"anyOf": [methods[name], NOTHING]} for name in methods},
            "additionalProperties": {"anyOf": [*variants, _other("method", METHODS), NOTHING]},
        },
        "configurations": _table({"anyOf": [changes, NOTHING]}),
        "families": _table({"anyOf": [NAMES, _table(NAMES)]}),
    }
    exploration = Exploration.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **{"if": {"required": ["studies"]}, "then": exploration, "else": study},
        "$defs": definitions,
    }


def _with(name: str, value: Schema, table: Schema) -> Schema:
    """Return the schema of a table that must also give `name`."""
    return table | {"properties": {name: value, **table["properties"]}, "required": [name]}


def _other(name: str, known: Iterable[str]) -> Schema:
    """Return the schema of a table whose `name`, if it has one, is not in `known`."""
    return {"type": "object", "properties": {name: {"not": {"enum": list(known)}}}}


def _table(values: Schema) -> Schema:
    return {"type": ["object", "null"], "additionalProperties": values}


if __name__ == "__main__":
    write_atomically(from_root(PATH), (json.dumps(schema(), indent=1) + "\n").encode())
