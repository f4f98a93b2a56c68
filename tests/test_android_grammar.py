"""What the Kotlin library's grammars have from llguidance is what llguidance has."""

from pathlib import Path

import pytest

from tools import unicode_classes

KOTLIN = Path(__file__).parents[1] / "android_demo/runtime/src/main/kotlin/io/github/mimomobile/runtime/grammar"


@pytest.mark.slow
def test_classes_of_regular_expressions_are_those_of_llguidance() -> None:
    assert (KOTLIN / "UnicodeClasses.kt").read_text(encoding="utf-8") == unicode_classes.kotlin()
