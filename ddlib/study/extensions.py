"""Your own methods, networks and data sets, from Python files: `extensions: [my_method.py]`.

A file registers them as the library does: `METHODS["mine"] = Method(...)`,
`NETWORKS["mine"] = ...`, `DATASETS["mine"] = Source(...)`. A process runs each version of a file
once, and the entries stay registered. The study sends the text to its workers, so all run the same.
"""

import ast
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from types import FunctionType, ModuleType
from typing import Any

from pydantic import PydanticUserError

from ddlib.data.sources import DATASETS, Source
from ddlib.files import from_root
from ddlib.fingerprints import fingerprint
from ddlib.methods import METHODS, Method
from ddlib.networks.zoo import NETWORKS
from ddlib.parameters import options_of

REGISTRIES = {"method": METHODS, "network": NETWORKS, "data set": DATASETS}


@dataclass(frozen=True)
class Extension:
    """A Python file: its path as the study names it, and its text."""

    path: str
    text: str

    @property
    def module(self) -> str:
        """The name of its module, with a digest of the text."""
        return f"{Path(self.path).stem}_{fingerprint([self.path, self.text])}"

    def get_source(self, _: str) -> str:
        """Return the text: as a module's `__loader__`, it shows tracebacks the text that ran."""
        return self.text


_loaded: dict[Extension, dict[tuple[str, str], Any]] = {}  # entries by (kind, name)
_lock = RLock()  # the threads of a process share the registries


def read_extensions(paths: Sequence[str] | None) -> tuple[Extension, ...]:
    """Read the files at `paths`, which start at the project's root, and `use` them.

    Raises FileNotFoundError for a missing file; ValueError, with the file, for one that does not
    run on its own or registers something invalid.
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
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in imports:
        for alias in node.names:
            name = (getattr(node, "module", None) or alias.name).partition(".")[0]
            beside = [file.with_name(f"{name}.py"), *file.with_name(name).rglob("*.py")]
            if name != "ddlib" and beside[-1].is_file():
                raise ValueError(
                    f"{path}, line {node.lineno}: an edit of {beside[-1].relative_to(file.parent)} "
                    "would not change the names of results; put all code into one file"
                )
    return Extension(path, text)


def _load(extension: Extension) -> dict[tuple[str, str], Any]:
    """Run a file and return its checked entries; the registries do not change."""
    before = {kind: dict(registry) for kind, registry in REGISTRIES.items()}
    try:
        _run(extension)
        entries = {
            (kind, name): entry
            for kind, registry in REGISTRIES.items()
            for name, entry in registry.items()
            if entry is not before[kind].get(name)
        }
    finally:
        for kind, registry in REGISTRIES.items():
            registry.clear()
            registry.update(before[kind])
    if not entries:
        raise ValueError(
            f"{extension.path} registers nothing; let it set an entry of METHODS, NETWORKS or "
            "DATASETS"
        )
    for (kind, name), entry in entries.items():
        if problem := _problem(extension, kind, name, entry):
            raise ValueError(f"{extension.path}: the {kind} {name!r} {problem}")
    return entries


def _run(extension: Extension) -> None:
    module = sys.modules[extension.module] = ModuleType(extension.module)
    module.__file__, module.__loader__ = extension.path, extension
    try:
        exec(compile(extension.text, extension.path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == extension.path]
        where = f"{extension.path}, line {lines[-1]}" if lines else extension.path
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error


def _problem(extension: Extension, kind: str, name: str, entry: Any) -> str:
    """Return what is wrong with an entry, or ""."""
    earlier = [entries for loaded, entries in _loaded.items() if loaded.path == extension.path]
    if name in REGISTRIES[kind] and not any((kind, name) in entries for entries in earlier):
        return "exists already, in the library or in another file; choose another name"
    wanted = {"method": Method, "data set": Source}.get(kind, FunctionType)
    if not isinstance(entry, wanted):
        return f"must be a {wanted.__name__}, got {entry!r}"
    function = getattr(entry, "function", entry)
    if kind != "data set" and function.__module__ != extension.module:
        return f"needs a function of its own file, not {function!r}: its edits must name results"
    try:
        options_of(entry) if kind == "network" else None
    except (KeyError, PydanticUserError):
        return "must annotate its options with int, float, bool, str or Literal[...] of words"
    return ""
