"""Names for results: short digests of all that decides them: settings, images, code, weights."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ddlib.data import DataSet

PACKAGE = Path(__file__).parent
BESIDE_THE_NUMBERS = {"ddlib.files", "ddlib.fingerprints"}
"""Modules whose code decides no number."""
LIBRARIES = ("torch", "torchvision", "diffusers", "scikit-learn")


def plain_text(plain: Any) -> str:
    """Return plain data as JSON with sorted names, one text for equal data."""
    return json.dumps(plain, sort_keys=True)


def fingerprint(identity: Any) -> str:
    """Return 12 hexadecimal digits that name plain data."""
    return _digest(plain_text(identity).encode())


def images_digest(dataset: DataSet) -> str:
    """Return a fingerprint of a data set, so that other data never passes for these.

    It holds every image and label, their shape, the class names and the normalisation.
    """
    content = hashlib.sha256(repr((dataset.image_shape, dataset.classes)).encode())
    for declared in fields(dataset.normalisation):
        value = getattr(dataset.normalisation, declared.name)
        is_tensor = isinstance(value, torch.Tensor)
        content.update(value.numpy().tobytes() if is_tensor else repr(value).encode())
    for split in (dataset.train, dataset.test):
        content.update(split.images.numpy().data)
        content.update(split.labels.numpy().data)
    return content.hexdigest()


def files_digest(folder: Path, suffixes: Iterable[str]) -> str:
    """Return a fingerprint of the files below `folder` whose names end in one of `suffixes`.

    It holds their content and where they are in the folder. A process reads a file once, and again
    only if its size or its time of change differs.
    """
    found: dict[str, str] = {}
    for path in [path for suffix in suffixes for path in folder.rglob(f"*{suffix}")]:
        now = path.stat()
        digest = _file_digest(path, now.st_size, now.st_mtime_ns)
        found[path.relative_to(folder).as_posix()] = digest
    return fingerprint(found)


@cache
def _file_digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_digest(module: str) -> str:
    """Return a fingerprint of the code of `module` and of all of ddlib that it imports.

    Comments, docstrings and layout do not count; the versions of LIBRARIES do. Results kept under
    another digest are those of another program, so a study computes them again.
    """
    if module.startswith("ddlib.") and _source(module) is None:
        raise ValueError(f"there is no module {module}; name one of ddlib")
    found: dict[str, str] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        source = _source(name)
        if source is None or name in found or name in BESIDE_THE_NUMBERS:
            continue
        tree = _without_docstrings(ast.parse(source))
        # An extension's own name holds a digest of its comments, too.
        found[name if name.startswith("ddlib.") else ""] = ast.dump(tree)
        pending += [name for _, name in imports(tree) if name.startswith("ddlib.")]
    versions = [version(library) for library in LIBRARIES]
    return _digest(plain_text([versions, sorted(found.items())]).encode())


def library_digest() -> str:
    """Return a fingerprint of all of ddlib, its templates and example too, and of LIBRARIES."""
    versions = [version(library) for library in LIBRARIES]
    suffixes = (".py", ".csv", ".j2", ".json", ".parquet")
    return fingerprint([versions, files_digest(PACKAGE, suffixes)])


def _source(name: str) -> str | None:
    """Return the text of a module that decides numbers; None for a package or other libraries."""
    if name.startswith("ddlib."):
        path = PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")
        return path.read_text() if path.exists() else None
    loader = getattr(sys.modules.get(name), "__loader__", None)  # an extension has no file
    return loader.get_source(name) if hasattr(loader, "get_source") else None


def imports(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield what a tree imports, by full name: modules, and names inside modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.module
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    def is_text(line: ast.stmt) -> bool:
        return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)

    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not is_text(line)]
    return tree


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
