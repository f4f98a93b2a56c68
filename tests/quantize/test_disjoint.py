"""What a model was calibrated on is known again, and nobody can measure on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_mobile.cli import main
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.hub import Source
from mimo_mobile.quantize import disjoint, texts
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.quantize.texts import Window
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.commands import runner
from tests.schemas import check


@pytest.fixture(scope="module")
def tokenizer(nano: Source) -> TextTokenizer:
    return TextTokenizer.from_file(nano.path / "tokenizer.json")


def test_what_was_calibrated_on_cannot_be_measured_on(tokenizer: TextTokenizer) -> None:
    shared = tokenizer.encode("Subtract 3x from both sides: 4x + 12 = 52. Subtract 12: 4x = 40. Divide by 4.")
    assert len(shared) > disjoint.NGRAM
    known = disjoint.hashes([[5, 6, 7, *shared, 8]])
    disjoint.check([Window(tuple(shared[1 : disjoint.NGRAM]) + tuple(range(40)), 0)], known, tokenizer)  # one too few
    disjoint.check([Window(tuple(shared), 0)], set(), tokenizer)
    with pytest.raises(BadArgumentError, match=r"was calibrated on a part of this text, '.*ubtract 3x from"):
        disjoint.check([Window((9, 9, *shared, 9), 0)], known, tokenizer)


def test_short_texts_are_known_again_too(tokenizer: TextTokenizer) -> None:
    short = tokenizer.encode("12 + 30 = 42")
    with pytest.raises(BadArgumentError, match="12 \\+ 30"):
        disjoint.check([Window(tuple(short), 0)], disjoint.hashes([short]), tokenizer)


def test_what_earlier_runs_calibrated_on_stays_known(tmp_path: Path) -> None:
    assert disjoint.read(tmp_path) == set()
    disjoint.remember(tmp_path, [[1, 2, 3], list(range(100))], others=False)
    disjoint.remember(tmp_path, [[4, 5]], others=True)
    check("calibrated_on", tmp_path / disjoint.NAME)
    assert disjoint.read(tmp_path) == disjoint.hashes([[4, 5], [1, 2, 3], list(range(100))])
    assert len(disjoint.read(tmp_path)) == 2 + 100 - disjoint.NGRAM + 1
    disjoint.remember(tmp_path, [[6]], others=False)
    assert disjoint.read(tmp_path) == disjoint.hashes([[6]])


def test_a_text_that_a_file_was_calibrated_on_is_refused_by_the_command(nano: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize_checkpoint(nano, out, ["int4_b32"], problems=0)
    other = tmp_path / "other.txt"
    other.write_text("Something else altogether, in words that no calibration has. " * 3, encoding="utf-8")
    for place in ("", "mimo-nano-int4_b32-onnx", "mimo-nano-int4_b32-onnx/model.onnx"):
        refused, read = (
            runner().invoke(main, ["eval", str(out / place), "--text", str(text), "--problems", "0"])
            for text in (texts.TEXT, other)
        )
        assert refused.exit_code == 2 and "was calibrated on a part of this text" in refused.stderr
        assert read.exit_code == 0, read.output
