"""Methods, networks and data sets from Python files of one's own: `extensions: [my_method.py]`.

A file registers what it brings as the library does: `METHODS["mine"] = Method(...)`,
`NETWORKS["mine"] = ...`, `DATASETS["mine"] = Source(...)`. It travels to worker processes as text:
all run what the study read. It stands alone, and imports nothing beside it.
"""

import ast
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.abc import ExecutionLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from threading import RLock
from typing import Any

from pydantic import PydanticUserError

from ddlib.data.sources import DATASETS, Source
from ddlib.files import from_root
from ddlib.fingerprints import code_digest, fingerprint
from ddlib.methods import METHODS, Method
from ddlib.networks.zoo import NETWORKS
from ddlib.parameters import Parameters, options_of

REGISTRIES: dict[str, dict[str, Any]] = {
    "method": METHODS,
    "network": NETWORKS,
    "data set": DATASETS,
}
Entry = tuple[str, str, Any]  # kind, name, what is registered


@dataclass(frozen=True)
class Extension(ExecutionLoader):
    """A file of one's own: its path as the study names it, and its text.

    It loads its own module, so that tracebacks and `inspect` show the text where there is no file.
    """

    path: str
    text: str

    @property
    def module(self) -> str:
        """The name of its module, with a digest of the text: what is pickled finds its own code."""
        return f"{Path(self.path).stem}_{fingerprint([self.path, self.text])}"

    def get_source(self, fullname: str) -> str:
        return self.text

    def get_filename(self, fullname: str) -> str:
        return self.path


_in_use: tuple[Extension, ...] = ()
_lock = RLock()  # a study's jobs are planned in Dask's thread, a notebook's cells run in another


def read_extensions(paths: Sequence[str] | None) -> tuple[Extension, ...]:
    """Return the files at `paths`, which count from the project's root, and `use` them.

    Raises ValueError with the file, and the line if there is one, FileNotFoundError for no file.
    """
    given = [] if paths is None else paths
    if not isinstance(given, list | tuple) or not all(isinstance(path, str) for path in given):
        raise ValueError(
            f"extensions={paths!r} must be a list of Python files, such as [my_method.py]"
        )
    extensions = tuple(_read(path) for path in dict.fromkeys(given))
    use(extensions)
    return extensions


def use(extensions: Sequence[Extension]) -> None:
    """Let the registries hold what these files bring, and no longer what others brought.

    Every file is run once a process. Raises ValueError for a file that raises or registers what it
    should not, and then leaves the registries as they were.
    """
    global _in_use
    with _lock:
        if tuple(extensions) == _in_use:
            return
        before = _copies()
        try:
            for kind, name, _ in [entry for each in _in_use for entry in _brought(each)]:
                del REGISTRIES[kind][name]
            _register([(each, entry) for each in extensions for entry in _brought(each)])
        except BaseException:
            _restore(before)
            raise
        _in_use = tuple(extensions)


def network_code(extensions: Sequence[Extension], text: str) -> list[str]:
    """Return a digest of every file whose network plain data, as JSON, names; it names results.

    A method's code is that of its module, and a data set is known by its images.
    """
    return [
        code_digest(extension.module)
        for extension in extensions
        if any(kind == "network" and f'"{name}"' in text for kind, name, _ in _brought(extension))
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
    for node, name in _imports(tree):
        module = name.partition(".")[0]
        if file.with_name(f"{module}.py").is_file():
            raise ValueError(
                f"{path}, line {node.lineno}: {module}.py beside it would be missing where workers "
                "run; put all of it into one file"
            )
    return Extension(path, text)


def _imports(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield what a tree imports, by full name of the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.module


@cache
def _brought(extension: Extension) -> tuple[Entry, ...]:
    """Run a file and return what it registers; the registries stay as they are."""
    before = _copies()
    try:
        _run(extension)
        after = _copies()
    finally:
        _restore(before)
    entries = []
    for kind, registry in after.items():
        for name in {**registry, **before[kind]}:
            entry, known = registry.get(name), before[kind].get(name)
            if entry is not known:
                problem = (
                    f"is {TAKEN}" if known is not None else _problem(kind, name, entry, extension)
                )
                if problem:
                    raise ValueError(_sentence(extension, kind, name, problem))
                entries.append((kind, name, entry))
    if not entries:
        raise ValueError(
            f"{extension.path} registers nothing; let it set an entry of METHODS, NETWORKS or "
            "DATASETS"
        )
    return tuple(entries)


TAKEN = "the library's own; choose another name"


def _run(extension: Extension) -> None:
    spec = spec_from_loader(extension.module, extension, origin=extension.path)
    spec.has_location = True
    module = sys.modules[extension.module] = module_from_spec(spec)
    try:
        extension.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[extension.module]
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == extension.path
        ]
        where = f"{extension.path}, line {lines[-1]}" if lines else extension.path
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error


def _register(brought: Sequence[tuple[Extension, Entry]]) -> None:
    """Enter what files bring into the registries; ValueError for a name that two of them take."""
    for extension, (kind, name, entry) in brought:
        if name in REGISTRIES[kind]:
            first = next(each.path for each, (*key, _) in brought if key == [kind, name])
            other = TAKEN if first == extension.path else f"that of {first} too; rename one"
            raise ValueError(_sentence(extension, kind, name, f"is {other}"))
        REGISTRIES[kind][name] = entry


def _problem(kind: str, name: str, entry: Any, extension: Extension) -> str:
    """Return what is wrong with an entry, or nothing."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(name)):
        return "has a name that no file can have; choose letters, digits, _, - and ."
    if kind == "data set":
        return "" if isinstance(entry, Source) else "must be a ddlib.data.sources.Source"
    if kind == "network":
        return _call_problem(entry, 2, extension) or _option_problem(entry)
    if not isinstance(entry, Method) or not issubclass(entry.parameters, Parameters):
        return "must be a ddlib.methods.Method, with a subclass of Parameters"
    made = entry.preparation
    called = {"distil": (entry.distil, 6 if made else 5)}
    called |= {"jobs": (made.jobs, 2), "make": (made.make, 3)} if made else {}
    problems = {key: _call_problem(*call, extension) for key, call in called.items()}
    return next((f"has a {key} that {problem}" for key, problem in problems.items() if problem), "")


def _call_problem(function: Any, count: int, extension: Extension) -> str:
    if not inspect.isfunction(function) or function.__module__ != extension.module:
        return "must be a function of this file, whose code then names the results"
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return f"must be a function of {count} arguments, see ddlib/methods and ddlib/zoo.py"
    return ""


def _option_problem(network: Any) -> str:
    try:
        options_of(network)
    except (KeyError, PydanticUserError) as error:
        kinds = "int, float, bool, str, or Literal[...] of words"
        return f"must say of {error.args[0]}: {kinds}"
    return ""


def _sentence(extension: Extension, kind: str, name: str, problem: str) -> str:
    """Say what is wrong with an entry, and where the file sets it."""
    nodes = list(ast.walk(ast.parse(extension.text)))
    keys = [node.slice for node in nodes if isinstance(node, ast.Subscript)]
    lines = [
        node.lineno for node in [*keys, *nodes] if getattr(node, "value", None) == name
    ]  # METHODS["mine"] before any other "mine"
    where = f"{extension.path}, line {lines[0]}" if lines else extension.path
    return f"{where}: the {kind} {name!r} {problem}"


def _copies() -> dict[str, dict[str, Any]]:
    return {kind: dict(registry) for kind, registry in REGISTRIES.items()}


def _restore(copies: dict[str, dict[str, Any]]) -> None:
    for kind, registry in REGISTRIES.items():
        registry.clear()
        registry.update(copies[kind])
