"""Names of results: digests of everything that decides a result (settings, code, files)."""

import ast
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddlib.files import from_root

PACKAGE = Path(__file__).parent
LIBRARIES = ("torch", "torchvision", "diffusers", "scikit-learn")


def _modules(*places: str) -> tuple[str, ...]:
    """Return the names of the library's modules at these places; a folder gives all its modules."""
    names = []
    for place in places:
        files = sorted((PACKAGE / place).rglob("*.py")) or [PACKAGE / f"{place}.py"]
        names += [file.relative_to(PACKAGE.parent).with_suffix("") for file in files]
    return tuple(".".join(name.parts).removesuffix(".__init__") for name in names)


DECIDING = _modules(
    *("seeds", "parameters", "devices", "data", "networks", "training", "configurations"),
    *("distilled", "methods/__init__", "methods/common", "study/jobs", "study/worker"),
)
"""The modules that can change any result. Each method adds its own in `Method.modules`."""
METHOD_MODULES = tuple(name for name in _modules("methods") if name not in DECIDING)
"""The modules of all methods of the library."""


def plain_text(plain: Any) -> str:
    """Return plain data as JSON with sorted names: equal data give equal text."""
    return json.dumps(plain, sort_keys=True)


def fingerprint(identity: Any) -> str:
    """Return a digest of plain data: 12 hexadecimal digits."""
    return hashlib.sha256(plain_text(identity).encode()).hexdigest()[:12]


def files_digest(folder: Path) -> str:
    """Return a digest of the content and the relative paths of all files below `folder`."""
    places = os.walk(folder, followlinks=True)
    paths = [path for place, _, names in places for path in map(Path(place).joinpath, names)]
    paths = [path for path in paths if path.is_file()]
    return fingerprint({path.relative_to(folder).as_posix(): file_digest(path) for path in paths})


def file_digest(path: Path) -> str:
    """Return a digest of the content of a file.

    A process reads the file again only if its size or modification time has changed.
    """
    status = path.stat()
    return _digest_at(path, status.st_size, status.st_mtime_ns)


def named_files(plain: Any) -> tuple[Path, ...]:
    """Return the files and folders that texts in plain data name, such as weights.

    Only a text with a slash or an ending can name one: a folder `none` is no augmentation.
    """
    texts = (text for text in _texts(plain) if "/" in text or Path(text).suffix)
    return tuple(
        from_root(text) for text in dict.fromkeys(texts) if os.path.exists(from_root(text))
    )


def existing(text: str) -> Path:
    """Return the file or folder that `text` names, whose content counts in names of results.

    Raises FileNotFoundError if there is none, ValueError for a text without a slash or an ending.
    """
    path = from_root(text)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; check the path")
    if not named_files(text):
        raise ValueError(f"a path needs a slash or an ending; write ./{text} for {text}")
    return path


def digests(places: Iterable[Path]) -> list[str]:
    """Return a digest of each file, and of each folder with all its files."""
    return [files_digest(p) if p.is_dir() else file_digest(p) for p in places]


def _texts(plain: Any) -> Iterator[str]:
    """Yield every text in plain data, but not the names in tables."""
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, Mapping | list | tuple):
        for value in plain.values() if isinstance(plain, Mapping) else plain:
            yield from _texts(value)


@cache
def _digest_at(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_digest(*modules: str) -> str:
    """Return a digest of the code of modules and of the versions of LIBRARIES.

    Comments, docstrings and layout do not count, and every version of Python gives the same digest.
    A study recomputes results whose code digest has changed.
    """
    # The module name of an extension is left out: it is a digest that includes comments.
    code = sorted(
        (name if name.startswith("ddlib.") else "", program(_source(name))) for name in modules
    )
    return fingerprint([[version(library) for library in LIBRARIES], code])


@cache
def _source(name: str) -> str:
    """Return the source text of a module of the library, or of a loaded module.

    A process reads each module once: after an edit it still runs the old code, so results must keep
    the old digest. Raises ValueError for code that is in no file, such as a notebook cell's.
    """
    if name.partition(".")[0] == "ddlib":
        path = PACKAGE.joinpath(*name.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return path.read_text(encoding="utf-8")
    module = sys.modules[name]
    try:
        if hasattr(module.__loader__, "get_source"):  # the file may have changed since
            return module.__loader__.get_source(name)
        return inspect.getsource(module)
    except (AttributeError, ImportError, OSError, TypeError):
        raise ValueError(
            f"the code of the module {name!r} is in no file, and could not name results; put it "
            "into a Python file and give that as one of extensions"
        ) from None


def program(source: str) -> str:
    """Return the syntax tree of a module as text, without docstrings, equal in every Python."""
    return repr(_tree(ast.parse(source)))


def _tree(node: Any) -> Any:
    if isinstance(node, list):
        return [_tree(part) for part in node if not _is_docstring(part)]
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.JoinedStr):  # Python 3.12 adds empty strings
        fields["values"] = [part for part in node.values if getattr(part, "value", None) != ""]
    # Fields that only later versions of Python have are empty.
    kept = {name: _tree(value) for name, value in fields.items() if value not in (None, [])}
    return type(node).__name__, kept


def _is_docstring(node: Any) -> bool:
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)
