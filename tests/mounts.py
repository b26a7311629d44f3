"""Mounts of a process's own, which hide, fill or lock a folder from it alone."""

import shutil
import subprocess

import pytest


def run_with(mount: str, command: list[str]) -> list[str]:
    """Return `command` for a process that mounts first, where no other sees it."""
    return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]


def _may_mount() -> bool:
    tried = run_with("mount -t tmpfs none /mnt", ["true"])
    return (
        bool(shutil.which("unshare")) and not subprocess.run(tried, capture_output=True).returncode
    )


needs_mounts = pytest.mark.skipif(
    not _may_mount(), reason="no mounts of one's own: needs Linux and its root"
)
