"""Your own methods, networks and data sets, from Python files: `extensions: [my_method.py]`.

A file registers them as the library does: `METHODS["mine"] = Method(...)`,
`NETWORKS["mine"] = ...`, `DATASETS["mine"] = Source(...)`. A process runs each version of a file
once, and the entries stay registered. The study sends the text to its workers, so all run the same.
"""

import ast
import copyreg
import inspect
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.abc import ExecutionLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from threading import RLock
from types import FunctionType, ModuleType
from typing import Any

from pydantic import PydanticUserError

from ddlib.data.sources import DATASETS, Source
from ddlib.files import from_root
from ddlib.fingerprints import code_digest, fingerprint
from ddlib.methods import METHODS, Method
from ddlib.networks.zoo import NETWORKS
from ddlib.parameters import Parameters, options_of

REGISTRIES = {"method": METHODS, "network": NETWORKS, "data set": DATASETS}
Entries = dict[tuple[str, str], Any]
"""The entries that a file registers, by (kind, name)."""


@dataclass(frozen=True)
class Extension(ExecutionLoader):
    """A Python file: its path as the study names it, and its text.

    It is the loader of its own module, so tracebacks and `inspect` show the text that ran.
    """

    path: str
    text: str

    @property
    def module(self) -> str:
        """The name of its module, with a digest of the text."""
        return f"{Path(self.path).stem}_{fingerprint([self.path, self.text])}"

    def get_source(self, fullname: str) -> str:
        return self.text

    def get_filename(self, fullname: str) -> str:
        return self.path


_loaded: dict[Extension, Entries] = {}
_owners: dict[tuple[str, str], str] = {}  # the path of the file that registered an entry
_lock = RLock()  # Dask loads jobs in other threads


def read_extensions(paths: Sequence[str] | None) -> tuple[Extension, ...]:
    """Read the files at `paths`, which start at the project's root, and `use` them.

    Raises FileNotFoundError for a missing file; ValueError, with file and line, for a file that
    does not run on its own or registers something invalid.
    """
    extensions = tuple(_read(path) for path in dict.fromkeys(paths or []))
    use(extensions)
    return extensions


def use(extensions: Sequence[Extension]) -> None:
    """Register the entries of these files. A process runs each version of a file once.

    An edited file replaces its earlier entries. Raises ValueError as `read_extensions`.
    """
    with _lock:
        for extension in extensions:
            if extension not in _loaded:
                _loaded[extension] = _load(extension)
            for (kind, name), entry in _loaded[extension].items():
                REGISTRIES[kind][name] = entry


def network_code(extensions: Sequence[Extension], text: str) -> list[str]:
    """Return code digests of the files whose networks occur in `text`, plain data as JSON.

    They become part of the names of results. The code of methods counts by `Method.modules`, and
    data sets count by their images.
    """
    return [
        code_digest(extension.module)
        for extension in extensions
        if any(kind == "network" and f'"{name}"' in text for kind, name in _loaded[extension])
    ]


def _read(path: str) -> Extension:
    file = from_root(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"extensions: there is no file {file}; give its path from the project's root"
        )
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from None
    except ValueError:
        raise ValueError(f"{path} is not Python in UTF-8; give a .py file") from None
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in (name.partition(".")[0] for name in names):
            if file.with_name(f"{name}.py").is_file():
                raise ValueError(
                    f"{path}, line {node.lineno}: an edit of {name}.py would not change the names "
                    "of results; put all code into one file"
                )
    return Extension(path, text)


def _load(extension: Extension) -> Entries:
    """Run a file and return its checked entries; the registries do not change."""
    before = {kind: dict(registry) for kind, registry in REGISTRIES.items()}
    try:
        module = _run(extension)
        entries = {
            (kind, name): registry.get(name)
            for kind, registry in REGISTRIES.items()
            for name in registry | before[kind]
            if registry.get(name) is not before[kind].get(name)
        }
    finally:
        for kind, registry in REGISTRIES.items():
            for name in set(registry) - set(before[kind]):
                del registry[name]
            registry.update(before[kind])
    if not entries:
        raise ValueError(
            f"{extension.path} registers nothing; let it set an entry of METHODS, NETWORKS or "
            "DATASETS"
        )
    for (kind, name), entry in entries.items():
        if problem := _problem(extension, kind, name, entry, name in before[kind]):
            place = re.search(rf"\[\s*['\"]{re.escape(str(name))}['\"]", extension.text)
            line = f", line {len(extension.text[: place.end()].splitlines())}" if place else ""
            raise ValueError(f"{extension.path}{line}: the {kind} {name!r} {problem}")
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    for kind in classes:
        if issubclass(kind, Parameters) and kind.__module__ == extension.module:
            copyreg.pickle(kind, partial(_packed, extension))
    _owners.update(dict.fromkeys(entries, extension.path))
    return entries


def _run(extension: Extension) -> ModuleType:
    spec = spec_from_loader(extension.module, extension, origin=extension.path)
    spec.has_location = True
    module = sys.modules[extension.module] = module_from_spec(spec)
    try:
        extension.exec_module(module)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == extension.path]
        where = f"{extension.path}, line {lines[-1]}" if lines else extension.path
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    return module


def _problem(extension: Extension, kind: str, name: str, entry: Any, taken: bool) -> str:
    """Return what is wrong with an entry, or ""; taken: whether its name is already in use."""
    owner = _owners.get((kind, name))
    if taken and owner != extension.path:
        return f"is that of {owner or 'the library'}; choose another name"
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(name)):
        return "has a name that no file can have; choose letters, digits, _, - and ."
    wanted = {"method": Method, "data set": Source}.get(kind, FunctionType)
    if not isinstance(entry, wanted):
        return f"must be a {wanted.__name__}, got {entry!r}"
    functions = [(entry, 2)] if kind == "network" else []
    if kind == "method":
        if not issubclass(entry.parameters, Parameters):
            return f"needs parameters that are a subclass of Parameters, got {entry.parameters!r}"
        preparation = entry.preparation
        functions = [(entry.function, 6 if preparation else 5)]
        functions += [(preparation.jobs, 2), (preparation.make, 3)] if preparation else []
    for function, count in functions:
        if function.__module__ != extension.module:
            return (
                f"needs functions of its own file, not {function!r}, so that an edit changes the "
                "names of results"
            )
        try:
            inspect.signature(function).bind(*range(count))
        except TypeError:
            return f"needs {count} arguments in {function.__name__}; see docs/extend.md"
    try:
        options_of(entry) if kind == "network" else None
    except (KeyError, PydanticUserError):
        return "must annotate its options with int, float, bool, str or Literal[...] of words"
    return ""


def _packed(extension: Extension, parameters: Parameters) -> tuple:
    """Reduce parameters for pickle; the extension that defines their class is sent along."""
    return _unpacked, (extension, type(parameters).__qualname__, parameters.model_dump())


def _unpacked(extension: Extension, name: str, values: dict[str, Any]) -> Parameters:
    use([extension])
    return getattr(sys.modules[extension.module], name)(**values)
