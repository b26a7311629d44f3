"""Parameters from YAML: pydantic models that report the first error as one sentence."""

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    create_model,
    model_validator,
)

Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text that is not blank."""
Share = Annotated[float, Field(ge=0, le=1)]


class Parameters(BaseModel):
    """Base class of parameters: a frozen pydantic model that checks every value.

    Raises ValueError, in one sentence, for an unknown name (with the allowed names), a missing
    value and a bad value. In nested tables the sentence begins with the path to the value.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(_first_sentence(error)) from None

    __init__.__pydantic_base_init__ = True  # pydantic reads inner tables without calling it

    @model_validator(mode="wrap")
    @classmethod
    def _read_table(cls, table: Any, read: ValidatorFunctionWrapHandler) -> Self:
        if isinstance(table, cls):
            return table
        table = {} if table is None else table  # as YAML reads `random:`
        if not isinstance(table, Mapping):
            raise ValueError(f"this must be a table of names and values, got {table!r}")
        try:
            return read({str(name): value for name, value in table.items()})
        except ValidationError as error:
            raise ValueError(_sentence(cls, table, error)) from None

    @classmethod
    def read(cls, table: Any, what: str) -> Self:
        """Return the parameters in a table, completed by defaults.

        what: the name of the table in an error. Raises ValueError, see the class.
        """
        try:
            return cls.model_validate(table)
        except ValidationError as error:
            raise ValueError(f"{what}: {_first_sentence(error)}") from None

    @classmethod
    def of_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Return the parameters of a running notebook: its own cell's, changed by papermill's cell.

        namespace: `globals()` of the notebook. Raises ValueError, see the class, also for unknown
        names of the last parameters cell, of which papermill only logs a warning.
        """
        cells = [cell for cell in namespace["In"] if cell.startswith("# Parameters")]
        names = assigned(cells[-1] if cells else "") | set(cls.model_fields) & set(namespace)
        return cls.read({name: namespace[name] for name in sorted(names)}, "this notebook")

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some values changed; ValueError for a bad value."""
        return type(self)(**{**vars(self), **changes})


@cache
def options_of(function: Callable) -> type[Parameters]:
    """Return a model of the optional arguments of a function, with the annotated types.

    Whole numbers must be at least 1.
    """
    hints = get_type_hints(function, include_extras=True)
    fields = {
        argument.name: (_counted(hints[argument.name]), argument.default)
        for argument in inspect.signature(function).parameters.values()
        if argument.default is not argument.empty
    }
    return create_model(function.__name__, __base__=Parameters, **fields)


def _counted(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(map(_counted, get_args(hint)))]  # noqa: UP007
    return PositiveInt if hint is int else hint


def check_names(names: Iterable[str], allowed: Iterable[str], kind: str) -> None:
    """Raise ValueError, with the allowed names, if one of `names` is not among them."""
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            raise ValueError(_unknown(name, allowed, kind))


def whole_keys(value: Any) -> Any:
    """Return a table {ipc: number} with whole keys again; JSON and papermill make them text."""
    if not isinstance(value, Mapping):
        return value
    return {int(key) if str(key).isdecimal() else key: number for key, number in value.items()}


Number = TypeVar("Number")
Table = Annotated[dict[PositiveInt, Number], Field(min_length=1), BeforeValidator(whole_keys)]
ByIpc = Number | Table[Number]
"""One number for every size, or a table {ipc: number}: `ByIpc[float]`, `ByIpc[PositiveInt]`."""


def at_ipc(value: float | Mapping[int, float], ipc: int) -> float:
    """Return `value` at `ipc`. A table is interpolated linearly, and constant beyond its ends."""
    if not isinstance(value, Mapping):
        return value
    sizes = sorted(value)
    return float(np.interp(ipc, sizes, [value[size] for size in sizes]))


def _first_sentence(error: ValidationError) -> str:
    return str(error.errors()[0]["ctx"]["error"])  # `_read_table` leaves no other kind of error


def _sentence(model: type[Parameters], table: Mapping[str, Any], error: ValidationError) -> str:
    """Return one sentence on what is wrong with a table; an unknown name comes first."""
    errors = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    start = errors[0]["loc"][:1]
    # If several types are allowed, each reports an error: take the deepest one.
    same_place = [problem for problem in errors if problem["loc"][:1] == start]
    problem = max(same_place, key=lambda problem: len(problem["loc"]))
    kind, value, name = problem["type"], problem["input"], "".join(map(str, start))
    if kind == "extra_forbidden":
        return _unknown(name, model.model_fields, "parameter")
    if kind == "missing":
        return f"the parameter {name!r} is missing; add it"
    # pydantic's path also holds names of types, which are no keys of the value.
    names = table.get(name) if isinstance(table.get(name), Mapping) else ()
    keys = [step for step in problem["loc"][1:] if isinstance(step, int) or step in names]
    steps = (f"[{key}]" if isinstance(key, int) else f": {key}" for key in keys)
    path = "".join([name, *steps])
    if kind == "value_error":
        return f"{path}: {problem['ctx']['error']}".removeprefix(": ")
    if problem["loc"][-1] == "[key]":
        return f"{name} has {value!r} for an ipc; give whole numbers from 1"
    schema = model.model_json_schema()["properties"][name]
    such_as = f", such as {schema['examples'][0]}" if "examples" in schema and not keys else ""
    for _ in keys:
        inner = ("items", "additionalProperties")
        kinds = schema.get("anyOf", [schema])
        schema = next(kind[part] for kind in kinds for part in inner if part in kind)
    if "enum" in schema:
        return _unknown(value, schema["enum"], path)
    return f"{path}={value!r} must be {_described(schema)}{such_as}{_unquoted(value, schema)}"


def _unknown(name: Any, allowed: Iterable[str], kind: str) -> str:
    close = difflib.get_close_matches(str(name).lower(), allowed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    article = "an" if kind[0] in "aeiou" else "a"
    return f"{name!r} is not {article} {kind}; {hint}allowed: {', '.join(allowed) or 'none'}"


NOUNS = {"integer": "whole number", "number": "number", "string": "text"}
LIMITS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def _described(schema: Mapping[str, Any], plural: str = "") -> str:
    """Return in words what a JSON schema allows besides null."""
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_described, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return " or ".join(map(repr, schema.get("enum") or [schema["const"]]))
    kind = schema.get("type")
    if kind == "array":
        items = _described(schema["items"], "s") or "tables"
        return f"a list of {'one or more ' if schema.get('minItems') else ''}{items}"
    if kind == "object":
        values = schema.get("additionalProperties")  # their schema, or whether any may stand there
        numbers = isinstance(values, Mapping) and values.get("type") in ("integer", "number")
        return "a table {ipc: number}" if numbers else "a table {name: value}"
    if kind not in NOUNS:
        return "true or false" if kind == "boolean" else ""
    article = "" if plural or kind == "string" else "a "
    return f"{article}{NOUNS[kind]}{plural}{_limits(schema)}"


def _limits(schema: Mapping[str, Any]) -> str:
    limits = {words: schema[name] for name, words in LIMITS.items() if name in schema}
    if schema["type"] == "integer" and "above" in limits:
        limits = {"of at least": limits.pop("above") + 1, **limits}
    return " and".join(f" {words} {limit:g}" for words, limit in limits.items())


def _unquoted(value: Any, schema: Mapping[str, Any]) -> str:
    """Return how to write a number that YAML reads as text, such as 1e-3; otherwise nothing."""
    kinds = {kind.get("type") for kind in schema.get("anyOf", [schema])}
    if not isinstance(value, str) or not kinds & {"integer", "number"}:
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    mantissa, _, exponent = value.lower().partition("e")
    number = f"{float(mantissa)}e{int(exponent):+d}" if exponent else value
    return f"; YAML reads {value!r} as text: write {number}"


class _Loader(yaml.SafeLoader):
    """Loads YAML and refuses a repeated key. A table may override keys that `<<` merges."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # PyYAML refuses a list or a table as a key
            merges = key.tag.endswith(":merge")
            name = key.value if merges else self.construct_object(key)
            line = key.start_mark.line + 1
            if str(name) in lines:  # as text: JSON, and so papermill, turns 1 into "1"
                raise ValueError(
                    f"the key {name!r} stands twice in one table, in lines {lines[str(name)]} and "
                    f"{line}; keep one"
                )
            lines[str(name)] = line
        return node


def read_yaml(text: str, source: object) -> Any:
    """Return the content of YAML text; source: the name of the text in an error.

    Raises ValueError, in one sentence, for text that is not YAML and for a repeated key (PyYAML
    would silently take the last value).
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def read_file(path: Path) -> dict[str, Any]:
    """Return the table in a YAML file of parameters.

    Raises FileNotFoundError for a missing file, ValueError for a file that is not YAML or holds no
    table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path")
    try:
        table = read_yaml(path.read_text("utf-8"), path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path} must hold a table of names and values, got {table!r}")
    return table


def assigned(source: str) -> set[str]:
    """Return the names that a cell assigns."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
    return {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
