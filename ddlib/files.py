"""Files that are either whole or absent, and where a project's paths count from."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`, through a temporary file beside it, so no reader sees half.

    The content is on the disk before it has its name, so a loss of power leaves no empty file.
    Missing folders are made. Raises OSError with one sentence: which folder cannot be written, why,
    and what to do.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise explained(error, path.parent) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise ValueError, with the path, where the content of a result's file is not as written."""
    try:
        yield
    except (ValueError, KeyError, TypeError, EOFError, SafetensorError) as error:
        raise ValueError(
            f"{path} is not whole ({error}); delete it, and run again to make it anew"
        ) from error


def read_json(path: Path, kind: type | tuple[type, ...] = dict, names: tuple[str, ...] = ()) -> Any:
    """Return the content of a JSON file: of that kind, and with these names if it is a table.

    Raises ValueError, with the path, for what is empty, cut short or something else.
    """
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, kind):
            raise ValueError(f"it holds {type(content).__name__}")
        if missing := set(names).difference(content if names else ()):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return content


def explained(error: OSError, folder: Path) -> OSError:
    """Return the error of a write as one sentence: what cannot be written, why, and what to do.

    An error without a number is returned as it is: it is such a sentence already.
    """
    if error.errno is None:
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OSError(
            f"the disk that holds {folder} is full; make room and run again: what is finished is "
            "kept"
        )
    return OSError(
        f"cannot write to the folder {folder} ({error.strerror or error}); choose another folder "
        "or make this one writable"
    )


def check_writable(folder: Path) -> None:
    """Make `folder` if it is missing; raise OSError as `write_atomically` would if it cannot.

    16 kB are written to its disk, and leave no file: a full disk still takes empty files.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(16_384))
            os.fsync(probe.fileno())
    except OSError as error:
        raise explained(error, folder) from error


def from_root(path: str) -> Path:
    """Return `path` from the project's root, which is the nearest folder with a pyproject.toml.

    Papermill runs a notebook where it is called, JupyterLab beside the notebook; both must find
    the same folder.
    """
    here = Path.cwd()
    roots = [folder for folder in (here, *here.parents) if (folder / "pyproject.toml").exists()]
    return (roots[0] if roots else here) / path
