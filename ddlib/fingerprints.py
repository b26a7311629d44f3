"""Names for results: short digests of all that decides them: settings, images, code, weights."""

import hashlib
import inspect
import io
import json
import sys
import tokenize
from collections.abc import Iterable
from functools import cache
from importlib.abc import InspectLoader
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent


def _modules(*names: str) -> tuple[str, ...]:
    """Return the names of modules of the library, all those of a room for its name."""
    files = [
        file
        for name in names
        for file in sorted((PACKAGE / name).glob("*.py")) or [PACKAGE / f"{name}.py"]
    ]
    return tuple(
        ".".join(("ddlib", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for file in files
    )


DECIDING = _modules(
    *("seeds", "parameters", "devices"),
    *("data", "networks", "training", "configurations", "distilled"),
    *("methods/__init__", "methods/common", "study/jobs", "study/worker"),
)
"""The modules whose code can decide any result; each method adds its own, `Method.modules`."""
METHOD_MODULES = _modules(
    *("methods/selection", "methods/distribution", "methods/gradient", "methods/trajectory"),
    *("methods/diffusion", "methods/generators"),
)
"""The modules of all methods of the library."""
LIBRARIES = ("torch", "torchvision", "diffusers", "scikit-learn")


def plain_text(plain: Any) -> str:
    """Return plain data as JSON with sorted names, one text for equal data."""
    return json.dumps(plain, sort_keys=True)


def fingerprint(identity: Any) -> str:
    """Return 12 hexadecimal digits that name plain data."""
    return _digest(plain_text(identity).encode())


def files_digest(folder: Path, suffixes: Iterable[str]) -> str:
    """Return a fingerprint of the files below `folder` whose names end in one of `suffixes`.

    It holds their content and where they are in the folder. A process reads a file once, and again
    only if its size or its time of change differs.
    """
    paths = [path for suffix in suffixes for path in folder.rglob(f"*{suffix}")]
    return fingerprint({path.relative_to(folder).as_posix(): file_digest(path) for path in paths})


def file_digest(path: Path) -> str:
    """Return a fingerprint of the content of a file, read as `files_digest` reads it."""
    now = path.stat()
    return _digest_at(path, now.st_size, now.st_mtime_ns)


@cache
def _digest_at(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_digest(*modules: str) -> str:
    """Return a fingerprint of the code of modules, and of the versions of LIBRARIES.

    Comments, docstrings and layout do not count, and every Python gives the same. Results kept
    under another digest are those of another program, so a study computes them again.
    """
    # The name of an extension's module holds a digest of its comments, too.
    code = sorted(
        (name if name in DECIDING + METHOD_MODULES else "", program(_source(name)))
        for name in modules
    )
    versions = [version(library) for library in LIBRARIES]
    return fingerprint([versions, code])


def library_digest() -> str:
    """Return a fingerprint of all of ddlib, its templates and example too, and of LIBRARIES."""
    versions = [version(library) for library in LIBRARIES]
    suffixes = (".py", ".csv", ".j2", ".json", ".parquet")
    return fingerprint([versions, files_digest(PACKAGE, suffixes)])


@cache
def _source(name: str) -> str:
    """Return the text of a module: a file of the library, or else what is loaded.

    A process reads each module once, so that all its names are of the same code: an edit between
    two studies would else name results of the old code, which runs on, by the new one.
    Raises ValueError for code in no file, such as a cell's, which no name could tell from another.
    """
    if name.startswith("ddlib."):
        path = PACKAGE.joinpath(*name.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return path.read_text(encoding="utf-8")
    module = sys.modules[name]
    try:
        if isinstance(module.__loader__, InspectLoader):  # an extension's file may have changed
            return module.__loader__.get_source(name)
        return inspect.getsource(module)
    except (ImportError, OSError, TypeError):
        raise ValueError(
            f"the code of the module {name!r} is in no file, and could not name results; put it "
            "into a Python file and give that as one of extensions"
        ) from None


def program(source: str) -> str:
    """Return the tokens of a module that decide what it does, the same in every Python.

    Python 3.12 splits an f-string into tokens; here it is one, as it is written.
    """
    lines = io.StringIO(source).readlines()
    kept: list[str] = []
    statement: list[str] = []
    open_strings, start = 0, (0, 0)
    for token in tokenize.generate_tokens(iter(lines).__next__):
        kind, text = tokenize.tok_name[token.type], token.string
        if kind.endswith("STRING_START"):
            start = start if open_strings else token.start
            open_strings += 1
        elif kind.endswith("STRING_END"):
            open_strings -= 1
            text = _between(lines, start, token.end)
        if open_strings or kind in ("COMMENT", "NL", "ENDMARKER"):
            continue
        if kind in ("INDENT", "DEDENT"):
            kept.append(f"<{kind}>")
        elif kind != "NEWLINE":
            statement.append(text)
        else:
            docstring = all(part.lstrip("rRbBuU").startswith(("'", '"')) for part in statement)
            kept += [] if docstring else [*statement, "<NEWLINE>"]
            statement = []
    return " ".join(kept)


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return the text from (line, column) to (line, column); lines count from 1."""
    part = lines[start[0] - 1 : end[0]]
    part[-1] = part[-1][: end[1]]
    part[0] = part[0][start[1] :]
    return "".join(part)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
