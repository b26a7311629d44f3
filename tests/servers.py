"""Servers of this machine that a test starts and ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAKE = ["make", "-o", ".venv/installed", f"BIN={Path(sys.executable).parent}"]


@contextmanager
def serving(words: list[str], folder: Path, printed: str = "") -> Iterator[int]:
    """Run a server on a free port; yield the port once `printed` stands in `folder`/log."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folders = dict.fromkeys(("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"), str(folder))
    log, command = folder / "log", [word.format(port=port) for word in words]
    with log.open("w") as out:
        server = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | folders, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0 and printed in log.read_text():
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)
