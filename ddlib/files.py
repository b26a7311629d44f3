"""Write files atomically, read them with clear errors, and find paths from the project's root."""

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

FINDINGS = Path(__file__).parent / "findings"
"""The folder of the finished studies that come with the library; see `ddlib.explore.findings`."""
PROVENANCE = "provenance.json"  # in a results folder: where and how its study ran
STOPPED = "stopped; what is finished is kept: the same command goes on from there"


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file and rename it to `path`, so no reader sees half a file.

    The content is flushed to the disk first, so a power failure leaves no empty file. Missing
    folders are made. Raises OSError, in one sentence: which folder, why, and what to do.
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
    """Turn errors of reading a damaged result file into a ValueError with its path."""
    try:
        yield
    except (ValueError, KeyError, TypeError, EOFError, SafetensorError) as error:
        raise ValueError(
            f"{path} is not whole ({error}); delete it, and run again to make it anew"
        ) from error


def read_json(path: Path, kind: type | tuple[type, ...] = dict, names: tuple[str, ...] = ()) -> Any:
    """Return the content of a JSON file; kind: its type, names: what a table must hold.

    Raises ValueError, with the path, if the file is truncated or holds something else.
    """
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, kind):
            raise ValueError(f"it holds {type(content).__name__}")
        if missing := set(names).difference(content if names else ()):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return content


@contextmanager
def exit_with_sentence(stopped: str = "stopped") -> Iterator[None]:
    """End a command with exit code 1 and the sentence of an OSError or a ValueError.

    stopped: the sentence where Ctrl-C stops it.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(stopped)


def explained(error: OSError, folder: Path) -> OSError:
    """Return an error of writing as one sentence: what cannot be written, why, and what to do.

    An error without `errno` already is such a sentence and is returned unchanged.
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
    """Make `folder` if it is missing, and raise OSError if it cannot be written.

    The check writes 16 kB to a temporary file, because a full disk still accepts empty files.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(16_384))
            os.fsync(probe.fileno())
    except OSError as error:
        raise explained(error, folder) from error


def from_root(path: str) -> Path:
    """Return `path` below the project's root, the nearest folder above with a pyproject.toml.

    A path that starts with / or ~ stands for itself.

    Papermill runs a notebook in the current folder, JupyterLab in the notebook's folder. Both must
    find the same files.
    """
    here = Path.cwd()
    roots = [folder for folder in (here, *here.parents) if (folder / "pyproject.toml").exists()]
    return (roots[0] if roots else here) / Path(path).expanduser()
