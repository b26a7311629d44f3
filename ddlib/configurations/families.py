"""Configurations and families of them, read from the tables of a parameter file."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ddlib.configurations.configuration import Configuration
from ddlib.parameters import check_names
from ddlib.training.recipe import Recipe


def read_configurations(
    tables: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any]
) -> dict[str, Configuration]:
    """Return every configuration by name: its own table completed by `base`, and its teacher, too.

    base: a table as `Configuration.read` takes it. Raises ValueError, in one sentence, for a bad
    configuration and for two that train in the same way.
    """
    if not tables:
        raise ValueError(
            "configurations must be a table {name: changes}, got {}; give at least one, such as "
            "{own: {}}"
        )
    configurations: dict[str, Configuration] = {}
    for name, changes in tables.items():
        if not isinstance(changes, Mapping | None):
            raise ValueError(f"{name} must be a table of what it changes, got {changes!r}")
        configuration = Configuration.read({**base, **(changes or {})}, str(name))
        if configuration.labels.regime == "soft":
            configuration = _with_teacher(configuration, base, str(name))
        for other, earlier in configurations.items():
            if earlier.used == configuration.used:
                raise ValueError(f"{name!r} trains in the same way as {other!r}; drop one of them")
        configurations[str(name)] = configuration
    return configurations


def _with_teacher(
    configuration: Configuration, base: Mapping[str, Any], name: str
) -> Configuration:
    """Complete the table of the teacher by `base`. A teacher is trained on hard labels."""
    fields, labels = ["network", *Recipe.model_fields], configuration.labels
    check_names(labels.teacher, fields, "parameter of a teacher")
    shared = {field: base[field] for field in fields if field in base}
    teacher = Configuration.read(shared | labels.teacher, f"{name}: teacher")
    if not teacher.takes_steps:
        raise ValueError(f"{name}: {teacher.network['name']} cannot teach; choose a network")
    table = {field: getattr(teacher, field) for field in fields}
    return configuration.replace(labels=labels.replace(teacher=table))


def expand(tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Replace products by their configurations; return {entry: {name: changes}}.

    An entry {product: {field: [values]}} gives one configuration per combination of values, named
    by the entry and the values: `grid` with {optimizer: [sgd, adam]} gives grid-sgd and grid-adam.
    Every other entry is one configuration. Raises ValueError for a malformed product, and for two
    configurations of one name.
    """
    entries = {str(name): _expanded(str(name), changes) for name, changes in tables.items()}
    names = [name for pairs in entries.values() for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two configurations are named {name!r}; rename one, or give other values"
            )
    return {entry: dict(pairs) for entry, pairs in entries.items()}


def _expanded(name: str, changes: Any) -> list[tuple[str, Any]]:
    if not isinstance(changes, Mapping) or "product" not in changes:
        return [(name, changes)]
    axes = changes["product"]
    is_table = isinstance(axes, Mapping) and len(axes) > 0
    if not is_table or not all(isinstance(values, list) and values for values in axes.values()):
        raise ValueError(
            f"the product of {name!r} must be a table {{field: [values]}}, got {axes!r}"
        )
    rest = {key: value for key, value in changes.items() if key != "product"}
    return [
        ("-".join([name, *map(_label, values)]), {**rest, **dict(zip(axes, values, strict=True))})
        for values in itertools.product(*axes.values())
    ]


def _label(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return "-".join(f"{'' if key == 'name' else key}{option}" for key, option in value.items())


def read_families(
    tables: Mapping[str, Any], entries: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Return the members of each family, by its name.

    tables: {name: list of configurations, or {nested: list}}; entries: the configurations of each
    entry of `expand`. A list may name configurations, or an entry for all of its configurations. A
    nested family gives one family for every size from 2, named `name-size`: the first
    configurations of its list. Raises ValueError, in one sentence, for an empty family, an unknown
    or repeated member, and a nested family of one; and for two families of one name.
    """
    if not isinstance(tables, Mapping) or not tables:
        raise ValueError(f"families must be a table {{name: configurations}}, got {tables!r}")
    members_of = {name: [name] for names in entries.values() for name in names} | dict(entries)
    families = {}
    for name, entry in tables.items():
        named = _grown(name, entry, members_of)
        if twice := families.keys() & named:
            raise ValueError(f"two families are named {min(twice)!r}; rename one of them")
        families |= named
    return families


def _grown(name: str, entry: Any, members_of: Mapping[str, Sequence[str]]) -> dict[str, tuple]:
    """Return the families of one entry of a table: itself, or all sizes of a nested one."""
    if not isinstance(entry, Mapping):
        return {name: _members(name, entry, members_of)}
    check_names(entry, ["nested"], f"parameter of the family {name!r}")
    members = _members(name, entry.get("nested"), members_of)
    if len(members) < 2:
        raise ValueError(f"the family {name!r} grows from two configurations; list at least two")
    return {f"{name}-{size}": members[:size] for size in range(2, len(members) + 1)}


def _members(name: str, names: Any, members_of: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise ValueError(f"the family {name!r} is empty; list the configurations it holds")
    check_names(map(str, names), members_of, f"configuration of {name!r}")
    members = [member for listed in names for member in members_of[str(listed)]]
    for member in members:
        if members.count(member) > 1:
            raise ValueError(f"the family {name!r} holds {member!r} twice; drop one")
    return tuple(members)
