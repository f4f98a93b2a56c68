"""llama.cpp's own server, which `make test-slow` builds unpatched from its sources."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(model: Path, log: Path, *options: str) -> Iterator[str]:
    """The address of a llama-server on ``model``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        f"{os.environ['MIMO_LLAMA_PROGRAMS']}/llama-server",
        "-m",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with log.open("w") as out:
        process = subprocess.Popen([*command, "-c", "1024", "-np", "1", *options], stdout=out, stderr=out)
        try:
            for _ in range(300):
                time.sleep(0.2)
                assert process.poll() is None, log.read_text()[-2000:]
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except OSError:
                    continue
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)
