"""Families of configurations, as tables give them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddlib.configurations.configuration import Configuration
from ddlib.parameters import check_names


@dataclass(frozen=True)
class Family:
    """A family of configurations by name; `series` names the growing families it is one of."""

    name: str
    members: tuple[str, ...]
    series: str = ""


def read_configurations(
    given: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any]
) -> dict[str, Configuration]:
    """Return every configuration by its name: what `given` says of it, and `base` for the rest.

    base: a flat table as `Configuration.read` takes it. Raises ValueError, in one sentence, for a
    bad configuration, and for two that are the same.
    """
    if not given:
        raise ValueError(
            "configurations must be a table {name: changes}, got {}; give at least one, such as "
            "{own: {}}"
        )
    read: dict[str, Configuration] = {}
    for name, changes in given.items():
        what = f"the configuration {name!r}"
        if not isinstance(changes, Mapping | None):
            raise ValueError(f"{what} must be a table of what it changes, got {changes!r}")
        configuration = Configuration.read({**base, **(changes or {})}, what)
        for other, there in read.items():
            if there == configuration:
                raise ValueError(f"{what} is the same as {other!r}; drop one of them")
        read[str(name)] = configuration
    return read


def expand(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, by entry, the table {name: changes} of the configurations that it stands for.

    An entry {product: {field: [values]}} stands for one configuration a combination of values,
    named by the entry and the values: `grid` of {optimizer: [sgd, adam]} gives grid-sgd and
    grid-adam; one field is a varying axis. Any other stands for itself. Raises ValueError for a
    product that is none, and for two configurations of one name.
    """
    written: dict[str, dict[str, Any]] = {}
    for name, changes in given.items():
        product = isinstance(changes, Mapping) and "product" in changes
        written[str(name)] = _product(str(name), changes) if product else {str(name): changes}
    labels = [label for each in written.values() for label in each]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two configurations are named {label!r}; rename one of them")
    return written


def _product(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    axes = changes["product"]
    if not isinstance(axes, Mapping) or not all(
        isinstance(values, list) and values for values in axes.values()
    ):
        raise ValueError(
            f"the product of {name!r} must be a table {{field: [values]}}, got {axes!r}"
        )
    rest = {key: value for key, value in changes.items() if key != "product"}
    written = {}
    for values in itertools.product(*axes.values()):
        label = "-".join([name, *map(_label, values)])
        if label in written:
            raise ValueError(f"two configurations are named {label!r}; give different values")
        written[label] = {**rest, **dict(zip(axes, values, strict=True))}
    return written


def _label(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return "-".join(f"{'' if key == 'name' else key}{one}" for key, one in value.items())


def read_families(
    given: Mapping[str, Any], entries: Mapping[str, Sequence[str]]
) -> dict[str, Family]:
    """Return the families by name: lists of configurations, or {nested: list}.

    entries: the names of the configurations that each entry of `expand` stands for; a list may
    name an entry, for all of them, or one of the configurations. A nested entry gives one growing
    family for every size from 2, named `name-size`, of the first configurations of its list. Raises
    ValueError, in one sentence, for an empty family, an unknown or doubled member, or one alone
    that is to grow.
    """
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"families must be a table {{name: configurations}}, got {given!r}")
    known = {label: [label] for labels in entries.values() for label in labels} | dict(entries)
    families: dict[str, Family] = {}
    for name, entry in given.items():
        if not isinstance(entry, Mapping):
            families[name] = Family(name, _members(name, entry, known))
            continue
        check_names(entry, ["nested"], f"parameter of the family {name!r}")
        members = _members(name, entry.get("nested"), known)
        if len(members) < 2:
            raise ValueError(
                f"the family {name!r} grows from two configurations; list at least two"
            )
        for size in range(2, len(members) + 1):
            label = f"{name}-{size}"
            families[label] = Family(label, members[:size], series=name)
    return families


def _members(name: str, given: Any, known: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"the family {name!r} is empty; list the configurations it holds")
    check_names(map(str, given), known, f"configuration of {name!r}")
    members = [member for one in given for member in known[str(one)]]
    for one in members:
        if members.count(one) > 1:
            raise ValueError(f"the family {name!r} holds {one!r} twice; drop one")
    return tuple(members)
