"""Runs our package on WebGPU over a real Vulkan driver in software, in the Debian that tools/gpu.sh set up."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from tests.arm.inside import Done, Report, Task

ENTER = Path(__file__).parents[2] / "tools" / "gpu_enter.sh"

FOLDER = PurePosixPath("/mnt/folder")
"""Where the folder that is given is seen there."""


def run(folder: Path, tasks: Mapping[str, Task]) -> Report:
    """Do a job there, whose models are below ``folder`` and are named by their paths in it."""
    inside = {name: asdict(task) | {"model": str(FOLDER / task.model)} for name, task in tasks.items()}
    (folder / "job.json").write_text(json.dumps({"tasks": inside, "prepack_all": False}), encoding="utf-8")
    report = json.loads(output(folder, "-m", "tests.arm.inside", str(FOLDER / "job.json")).splitlines()[-1])
    return Report(**(report | {"done": {name: Done(**done) for name, done in report["done"].items()}}))


def output(folder: Path, *arguments: str) -> str:
    """What Python prints there when it is given ``arguments``."""
    ended = python(folder, *arguments)
    assert ended.returncode == 0, f"status {ended.returncode}: {ended.stderr[-4000:]}"
    return ended.stdout


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python's end there; caches are kept in ``folder``."""
    command = ["bash", str(ENTER), os.environ["MIMO_GPU_ROOT"], str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)
