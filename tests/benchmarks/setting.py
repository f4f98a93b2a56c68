"""A fake phone with everything that `make bench-phone` needs beside it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.phone.__main__ import main
from tests.benchmarks import fake_adb


@dataclass(frozen=True, slots=True)
class Setting:
    """A fake phone, its adb, and the programs and the model to be sent to it."""

    folder: Path
    adb: Path
    tools: Path
    model: Path
    out: Path

    def run(self, *options: str) -> Result:
        words = [str(self.model), "--tools", str(self.tools), "--adb", str(self.adb), "--out", str(self.out)]
        return CliRunner().invoke(main, [*words, *options])

    def record(self) -> Any:
        (file,) = self.out.iterdir()
        return json.loads(file.read_text(encoding="utf-8"))

    def calls(self) -> list[list[str]]:
        log = self.folder / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def pushed(self) -> list[str]:
        return [Path(call[4]).name for call in self.calls() if call[2:3] == ["push"]]


def make_setting(
    folder: Path, tools: Path, model: Path, runner: Sequence[str], patch: pytest.MonkeyPatch, scenario: str = "good"
) -> Setting:
    """A phone in ``folder`` that runs programs by ``runner``."""
    phone, adb = folder / "phone", folder / "adb"
    fake_adb.make_phone(phone, scenario)
    adb.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {shlex.quote(fake_adb.__file__)} "$@"\n')
    adb.chmod(0o755)
    patch.setenv("FAKE_PHONE", str(phone))
    patch.setenv("FAKE_SCENARIO", scenario)
    patch.setenv("FAKE_RUNNER", shlex.join(runner))
    patch.delenv("ANDROID_SERIAL", raising=False)
    return Setting(phone, adb, tools, model, folder / "out")
