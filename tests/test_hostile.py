"""Hostile and damaged files given to the command, as a user would: nothing dies, hangs or fills the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def outcomes(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    file = tmp_path / "outcomes.json"
    command = [sys.executable, "-m", "tools.hostile", *options, "--json", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    made: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return made


def test_a_sample_of_hostile_files_ends_in_an_error_or_an_answer(tmp_path: Path) -> None:
    assert {each["status"] for each in outcomes(tmp_path, "--every", "97", "--flips", "1")} <= {0, 1, 2}


@pytest.mark.slow
def test_all_hostile_files_and_500_flips_of_each_format_do(tmp_path: Path) -> None:
    made = outcomes(tmp_path)
    flips = Counter(each["kind"] for each in made if each["name"].startswith("bit "))
    assert set(flips.values()) == {500} and len(flips) >= 15
    assert len({(each["kind"], each["name"]) for each in made if each["kind"] not in flips}) >= 300
