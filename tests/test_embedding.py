"""docs/embedding.md: its blocks run as a program, and print what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from mimo_mobile.hub import Source
from mimo_mobile.quantize.pipeline import quantize_checkpoint

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/embedding.md"


def test_the_blocks_are_a_program_that_prints_what_they_say(nano: Source, tmp_path: Path) -> None:
    blocks = re.findall(r"```(python|text)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    program = "".join(content for kind, content in blocks if kind == "python")
    expected = "".join(content for kind, content in blocks if kind == "text")
    quantize_checkpoint(nano, tmp_path / "out/mimo-nano", ["q4_0"], problems=0, effort="none")
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.stdout == expected, found.stderr
    assert found.returncode == 0 and len(blocks) > 15
