"""Runs our package on an ARM CPU that QEMU emulates, in the folder that tools/arm.sh set up, or natively."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.arm.inside import Done, Report, Task

REPOSITORY = Path(__file__).parents[2]

CPUS = {
    "a53": "cortex-a53",
    "a76": "cortex-a76",
    "i8mm": "max,sve=off,sme=off",
    "sve2": "max,sme=off",
}
"""QEMU's name of each CPU: without int8 instructions; with dot products; with matrix products, too; with SVE2, too.
SME is off because QEMU 7 computes wrongly with it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a job runs.

    Attributes:
        cpu: A key of ``CPUS``, or None: this machine.
    """

    cpu: str | None = None

    def run(self, folder: Path, tasks: Mapping[str, Task], *, prepack_all: bool = False) -> Report:
        """Do a job there; its files go to ``folder``."""
        file = folder / f"{self.cpu or 'native'}.json"
        job = {"tasks": {name: asdict(task) for name, task in tasks.items()}, "prepack_all": prepack_all}
        file.write_text(json.dumps(job), encoding="utf-8")
        report = json.loads(self.output(folder, "-m", "tests.arm.inside", str(file)).splitlines()[-1])
        return Report(**(report | {"done": {name: Done(**done) for name, done in report["done"].items()}}))

    def output(self, folder: Path, *arguments: str) -> str:
        """What Python prints there when it is given ``arguments``."""
        ended = self.python(folder, *arguments)
        if ended.returncode in (-signal.SIGILL, 128 + signal.SIGILL):
            raise AssertionError(f"illegal instruction on {self.cpu}: {ended.stderr[-2000:]}")
        assert ended.returncode == 0, f"status {ended.returncode} on {self.cpu}: {ended.stderr[-4000:]}"
        return ended.stdout

    def python(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Python's end there; caches are kept in ``folder``."""
        command, paths = [sys.executable], [REPOSITORY / "src", REPOSITORY]
        if self.cpu is not None:
            arm = Path(os.environ["MIMO_ARM_ROOT"])
            qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or "qemu-aarch64"
            command = [
                qemu,
                "-L",
                str(arm / "cpu" / self.cpu),
                "-cpu",
                CPUS[self.cpu],
                str(arm / "root/usr/bin/python3"),
            ]
            paths = [arm / "wheels", arm / "llama", *paths]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "MIMO_CACHE": str(folder / f"cache-{self.cpu}"),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )
