"""Mounts that only one process sees: they hide, fill or lock a folder for it."""

import shutil
import subprocess

import pytest


def run_with(mount: str, command: list[str]) -> list[str]:
    """Return a command that runs `mount` in a namespace of its own, and then `command`."""
    return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]


def _may_mount() -> bool:
    command = run_with("mount -t tmpfs none /mnt", ["true"])
    return bool(
        shutil.which("unshare") and not subprocess.run(command, capture_output=True).returncode
    )


needs_mounts = pytest.mark.skipif(
    not _may_mount(), reason="no mounts of one's own: needs Linux and its root"
)
