"""What a command and all processes that it starts do to files and sockets, as the kernel sees it: ``strace`` tells."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STRACE = shutil.which("strace")

_LOOKS_ONLY = {
    "access", "chdir", "execve", "faccessat", "faccessat2", "getcwd", "getxattr", "lgetxattr", "listxattr", "lstat",
    "newfstatat", "readlink", "readlinkat", "recvfrom", "recvmsg", "sendmsg", "sendto", "stat", "statfs", "statx",
}  # fmt: skip
"""Calls with a file's name, or with a message, that change no file. Any other counts as writing."""

_NAME = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Deeds:
    """What was done.

    Attributes:
        sockets: The calls that opened a socket to more than this machine's own processes.
        addresses: The calls that gave such a socket an address, of its own or of another machine.
        written: What was made, changed, renamed or removed, devices and /proc left out.
        processes: How many there were, threads included.
    """

    sockets: list[str]
    addresses: list[str]
    written: set[Path]
    processes: int

    def written_outside(self, *folders: Path) -> set[Path]:
        """What was written that is in none of the folders."""
        return {path for path in self.written if not any(path.is_relative_to(folder) for folder in folders)}


def watch(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], traces: Path, text: str = "") -> Deeds:
    """Run a command to its good end and tell what it did.

    Args:
        command: What to run.
        cwd: Where.
        environment: All of its environment.
        traces: A folder for strace's own files, made here.
        text: What the command reads on stdin.
    """
    assert STRACE is not None
    traces.mkdir()
    # With --seccomp-bpf only the calls that are watched are slower than without strace.
    options = ["-ff", "-y", "--seccomp-bpf", "-e", "trace=%file,%network", "-e", "signal=none", "-o", f"{traces}/trace"]
    done = subprocess.run(
        [STRACE, *options, *command], cwd=cwd, env=environment, input=text, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    sockets, addresses, written = [], [], set()
    files = list(traces.iterdir())
    for file in files:
        for line in file.read_text(encoding="ascii").splitlines():
            name = line.split("(", 1)[0]
            if name == "socket" and not line.startswith(("socket(AF_UNIX,", "socket(AF_LOCAL,")):
                sockets.append(line)
            elif "sa_family=AF_INET" in line:
                addresses.append(line)
            elif " = " in line and " = -1 " not in line:
                written |= {cwd / path for path in _written(name, line)}
    return Deeds(sockets, addresses, {path for path in written if path.parts[1] not in ("dev", "proc")}, len(files))


def _written(name: str, line: str) -> set[Path]:
    if name in ("open", "openat", "openat2"):
        if not re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC)", line):
            return set()
    elif name in _LOOKS_ONLY or not _NAME.search(line):
        return set()
    return {Path(folder, path) for folder, path in _NAME.findall(line)}
