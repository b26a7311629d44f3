"""Parameters as people write them in YAML, checked before anything runs."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, Self, get_args, get_type_hints

import numpy as np

ByIpc = float | Mapping[int, float]
"""One number for every size, or a table {ipc: number}."""


def setting(
    default: Any,
    *,
    choices: Iterable[str] | None = None,
    least: float = 0,
    by_ipc: bool = False,
    each: Callable[[Any], Any] | None = None,
) -> Any:
    """Declare one parameter of a `Parameters` class: its default, and what it may be.

    choices: the allowed words; least: the smallest allowed number; by_ipc: whether a table
    {ipc: number} may stand for the number. Numbers must be whole where the default is. Where the
    default is text without choices, any text may stand; where it is a list, whole numbers, or what
    `each` reads without a ValueError.
    """
    example = next(iter(default.values())) if isinstance(default, Mapping) else default
    metadata = {
        "choices": choices,
        "least": least,
        "by_ipc": by_ipc,
        "each": each,
        "kind": type(example),
    }
    if isinstance(default, Mapping | list):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """Base of parameter sets: a frozen dataclass whose fields are checked when it is made."""

    def __post_init__(self) -> None:
        for declared in fields(self):
            value, metadata = getattr(self, declared.name), dict(declared.metadata)
            each = metadata.pop("each")
            if each:
                _check_each(declared.name, value, each)
            else:
                _check(declared.name, value, **metadata)

    @classmethod
    def read(cls, given: Mapping[str, Any] | None, what: str) -> Self:
        """Return the parameters that `given` names, defaults for the rest.

        Raises ValueError for an unknown name, with the allowed ones, and for a bad value.
        """
        given = _mapping(given, what)
        check_names(given, [declared.name for declared in fields(cls)], f"parameter of {what}")
        try:
            return cls(**{name: whole_keys(value) for name, value in given.items()})
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

    That is `int` (a whole number of at least 1), a `Literal` of words, or a union of the two.
    """
    hints = get_type_hints(function)
    for name, value in options.items():
        kinds = get_args(hints[name]) if int in get_args(hints[name]) else (hints[name],)
        words = [word for kind in kinds for word in get_args(kind)]
        if int not in kinds:
            check_names([value], words, f"{name} of {what}")
        elif not (_is_number(value, int) and value >= 1) and value not in words:
            raise ValueError(
                f"{what}: {name}={value!r} must be "
                + " or ".join(["a whole number of at least 1", *map(repr, words)])
            )


def check_names(given: Iterable[str], allowed: Iterable[str], kind: str) -> None:
    """Raise ValueError, with the allowed names, if one of `given` is not among them."""
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            close = difflib.get_close_matches(str(name), allowed, n=1)
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


def _check(
    name: str, value: Any, choices: Iterable[str] | None, least: float, by_ipc: bool, kind: type
) -> None:
    if choices is not None:
        check_names([value], choices, name)
    elif by_ipc and isinstance(value, Mapping):
        if not value:
            raise ValueError(f"{name} is an empty table; give at least one ipc: number")
        for ipc, number in value.items():
            if not _is_number(ipc, int) or ipc < 1:
                raise ValueError(f"{name} has {ipc!r} for an ipc; give whole numbers from 1")
            _check(f"{name}[{ipc}]", number, None, least, False, kind)
    elif kind is str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name}={value!r} must be text")
    elif kind is list:
        if not isinstance(value, list):
            raise ValueError(
                f"{name}={value!r} must be a list of whole numbers of at least {least}"
            )
        for position, number in enumerate(value):
            _check(f"{name}[{position}]", number, None, least, False, int)
    else:
        whole = kind is int
        if not _is_number(value, int if whole else int | float) or not least <= value < math.inf:
            sort = "whole number" if whole else "number"
            table = " or a table {ipc: number}" if by_ipc else ""
            raise ValueError(f"{name}={value!r} must be a {sort} of at least {least}{table}")


def _check_each(name: str, value: Any, read: Callable[[Any], Any]) -> None:
    if not isinstance(value, list):
        raise ValueError(f"{name}={value!r} must be a list")
    for position, one in enumerate(value):
        try:
            read(one)
        except ValueError as error:
            raise ValueError(f"{name}[{position}]: {error}") from None


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
