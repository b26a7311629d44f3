"""Parameters as people write them in YAML, checked before anything runs."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml

ByIpc = float | Mapping[int, float]
"""One number for every size, or a table {ipc: number}."""


class _Loader(yaml.SafeLoader):
    """Reads YAML whose tables hold every key once; a table may override what `<<` merges."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # no key of a Python table: PyYAML refuses it
            name = key.value if key.tag.endswith(":merge") else self.construct_object(key)
            line = key.start_mark.line + 1
            names = {name, str(name)}  # JSON, so papermill, turns 1 into "1"
            if twice := lines.keys() & names:
                raise ValueError(
                    f"the key {name!r} stands twice in one table, in lines "
                    f"{lines[twice.pop()]} and {line}; keep one"
                )
            lines |= dict.fromkeys(names, line)
        return node


def read_yaml(text: str, source: object) -> Any:
    """Return what YAML text holds; source: what an error calls the text.

    Raises ValueError, in one sentence, for text that is not YAML, and for a table that holds a key
    twice, of which PyYAML alone would take the last.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def read_file(path: Path) -> dict[str, Any]:
    """Return the table in a YAML file of parameters.

    Raises FileNotFoundError for a missing file, ValueError for one that holds something else, and
    as `read_yaml`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    given = read_yaml(text, path)
    if not isinstance(given, dict):
        raise ValueError(f"{path} must hold a table of names and values, got {given!r}")
    return given


def setting(
    default: Any = MISSING,
    *,
    kind: type | None = None,
    of: type = int,
    choices: Iterable[str] | None = None,
    least: float = 0,
    above: float | None = None,
    by_ipc: bool = False,
    each: Callable[[Any], Any] | None = None,
    example: str = "",
) -> Any:
    """Declare one parameter of a `Parameters` class: its default, and what it may be.

    kind: `int`, `float`, `str` (any text) or `list`, where there is no default to tell; it must be
    given where there is none, and where the default is None, None may stand as well. of: the kind
    of a list's items; choices: the allowed words; least: the smallest allowed number; above: what
    it must be above, in the place of `least`; by_ipc: whether a table {ipc: number} may stand for
    the number; each: reads an item of a list, or raises ValueError; example: what to give, for
    who gave a text or a list that is none.
    """
    one = next(iter(default.values())) if isinstance(default, Mapping) else default
    metadata = {
        "kind": kind or type(one),
        "of": of,
        "choices": choices,
        "least": least,
        "above": above,
        "by_ipc": by_ipc,
        "each": each,
        "example": example,
        "optional": default is None,
    }
    if isinstance(default, Mapping | list):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """Base of parameter sets: a frozen dataclass whose settings are checked when it is made."""

    def __post_init__(self) -> None:
        for declared in fields(self):
            if declared.metadata:
                check_value(declared.name, getattr(self, declared.name), **declared.metadata)

    @classmethod
    def required(cls) -> list[str]:
        """Return the names of the parameters that have no default."""
        defaults = [(each.name, each.default, each.default_factory) for each in fields(cls)]
        return [name for name, *default in defaults if default == [MISSING, MISSING]]

    @classmethod
    def read(cls, given: Mapping[str, Any] | None, what: str) -> Self:
        """Return the parameters that `given` names, defaults for the rest.

        Raises ValueError for an unknown name, with the allowed ones, for one that is missing and
        has no default, and for a bad value.
        """
        given = _mapping(given, what)
        declared = {each.name: each for each in fields(cls)}
        check_names(given, declared, f"parameter of {what}")
        missing = [name for name in cls.required() if name not in given]
        if missing:
            raise ValueError(
                f"the parameter {missing[0]!r} of {what} is missing; add it to the YAML file"
            )
        tables = {name for name in given if declared[name].metadata.get("by_ipc")}
        try:
            return cls(**{**given, **{name: whole_keys(given[name]) for name in tables}})
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None


def read_options(
    function: Callable, given: Mapping[str, Any], what: str, own: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the optional arguments of `function`, with what `given` says in their place.

    own: names that the caller reads itself, returned as given. Raises ValueError with the allowed
    names for any other.
    """
    given = _mapping(given, what)
    signature = inspect.signature(function).parameters.values()
    defaults = {each.name: each.default for each in signature if each.default is not each.empty}
    check_names(given, [*own, *defaults], f"parameter of {what}")
    return {**defaults, **given}


def check_options(function: Callable, options: Mapping[str, Any], what: str) -> None:
    """Raise ValueError if one of `options` is not what `function` annotates its argument with.

    That is `int` (a whole number of at least 1), `float`, `bool`, `str`, a `Literal` of words, or a
    union of these; an annotation of anything else is refused, too.
    """
    hints = get_type_hints(function)
    for name, value in options.items():
        is_union = get_origin(hints[name]) in (Union, UnionType)
        kinds = get_args(hints[name]) if is_union else (hints[name],)
        words = [word for kind in kinds for word in get_args(kind)]
        plain = [kind for kind in kinds if not get_args(kind)]
        if not set(plain) <= set(OPTIONS):
            raise ValueError(
                f"{what}: its option {name} is annotated with {hints[name]}; annotate it with int, "
                "float, bool, str or a Literal of words"
            )
        if not plain:
            check_names([value], words, f"{name} of {what}")
        elif value not in words and not any(OPTIONS[kind][0](value) for kind in plain):
            allowed = " or ".join([*(OPTIONS[kind][1] for kind in plain), *map(repr, words)])
            raise ValueError(f"{what}: {name}={value!r} must be {allowed}")


def check_names(given: Iterable[str], allowed: Iterable[str], kind: str) -> None:
    """Raise ValueError, with the allowed names, if one of `given` is not among them."""
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            close = difflib.get_close_matches(str(name).lower(), allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            listed = ", ".join(allowed) or "none"
            article = "an" if kind[0] in "aeiou" else "a"
            raise ValueError(f"{name!r} is not {article} {kind}; {hint}allowed: {listed}")


def whole_keys(value: Any) -> Any:
    """Return a table {ipc: number} with whole keys, which JSON and papermill turn into text."""
    if not isinstance(value, Mapping):
        return value
    return {int(key) if str(key).isdecimal() else key: number for key, number in value.items()}


def at_ipc(value: ByIpc, ipc: int) -> float:
    """Return `value` at `ipc`: a table is interpolated linearly, and constant past its ends."""
    if not isinstance(value, Mapping):
        return value
    sizes = sorted(value)
    return float(np.interp(ipc, sizes, [value[size] for size in sizes]))


def _mapping(given: Any, what: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a table of names and values, got {given!r}")
    return given


def check_value(
    name: str,
    value: Any,
    *,
    kind: type,
    of: type = int,
    choices: Iterable[str] | None = None,
    by_ipc: bool = False,
    each: Callable[[Any], Any] | None = None,
    example: str = "",
    optional: bool = False,
    **limits: float | None,
) -> None:
    """Raise ValueError unless `value` is what `setting` declares; limits: `least` and `above`."""
    if optional and value is None:
        return
    such_as = f", such as {example}" if example else ""
    if choices is not None:
        check_names([value], choices, name)
    elif by_ipc and isinstance(value, Mapping):
        if not value:
            raise ValueError(f"{name} is an empty table; give at least one ipc: number")
        for ipc, number in value.items():
            if not _is_number(ipc, int) or ipc < 1:
                raise ValueError(f"{name} has {ipc!r} for an ipc; give whole numbers from 1")
            check_value(f"{name}[{ipc}]", number, kind=kind, **limits)
    elif kind is list:
        items = "" if each else f" of {_described(of, **limits, plural='s')}"
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name}={value!r} must be a list{items}{such_as}")
        for position, item in enumerate(value):
            if each:
                _read_item(f"{name}[{position}]", item, each)
            else:
                check_value(f"{name}[{position}]", item, kind=of, **limits)
    elif not _fits(value, kind, **limits):
        table = " or a table {ipc: number}" if by_ipc else ""
        article = "" if kind is str else "a "
        what = f"{article}{_described(kind, **limits)}{table}"
        raise ValueError(f"{name}={value!r} must be {what}{such_as}")


def _read_item(name: str, item: Any, read: Callable[[Any], Any]) -> None:
    try:
        read(item)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _fits(value: Any, kind: type, least: float = 0, above: float | None = None) -> bool:
    if kind is str:
        return isinstance(value, str) and bool(value.strip())
    if not _is_number(value, int if kind is int else int | float):
        return False
    return (least <= value if above is None else above < value) and value < math.inf


def _described(kind: type, least: float = 0, above: float | None = None, plural: str = "") -> str:
    if kind is str:
        return f"text{plural}"
    limit = f"of at least {least}" if above is None else f"above {above}"
    return f"{'whole number' if kind is int else 'number'}{plural} {limit}"


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


OPTIONS: dict[type, tuple[Callable[[Any], bool], str]] = {
    int: (lambda value: _is_number(value, int) and value >= 1, "a whole number of at least 1"),
    float: (lambda value: _is_number(value, int | float) and math.isfinite(value), "a number"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    str: (lambda value: isinstance(value, str), "text"),
}
"""What a network's option may be annotated with: whether a value fits, and what to give."""
