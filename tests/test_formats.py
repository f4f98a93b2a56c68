"""What we write is what docs/formats.md and the schemas say, and readers refuse what is not, in a way that helps."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mimo_mobile import cache, manifest
from mimo_mobile.convert.draft_vocabulary import draft_ids
from mimo_mobile.convert.npu.ranges_file import RANGES_FORMAT, read_form
from mimo_mobile.convert.vocabulary import read_vocabulary
from mimo_mobile.documents import FileFormat
from mimo_mobile.errors import CheckpointError, MimoMobileError, ModelLoadError, QuantizationError
from mimo_mobile.hub import Source
from mimo_mobile.layout import NPU_FORMAT, REFERENCE_FORMAT, read_npu_settings, read_reference
from mimo_mobile.quantize import disjoint, evaluate, report_file
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.runtime import load
from mimo_mobile.runtime.decode import pace
from mimo_mobile.runtime.devices import selftest
from mimo_mobile.runtime.onnx import prepacked
from tests.schemas import SCHEMAS, check, schema
from tools import format_cases, format_documents, golden, npu_fixture

FORMATS = {
    each.name: each
    for each in (
        manifest.MANIFEST_FORMAT,
        NPU_FORMAT,
        RANGES_FORMAT,
        REFERENCE_FORMAT,
        pace.COSTS_FORMAT,
        selftest.SELFTEST_FORMAT,
        evaluate.REPLIES_FORMAT,
        disjoint.FORMAT,
        report_file.REPORT_FORMAT,
        cache.PREPACKED_FORMAT,
    )
}
CASES = format_cases.cases()


@pytest.fixture(scope="module")
def out(nano: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats") / "out"
    quantize_checkpoint(nano, folder, ["int4_b32", "q4_0"], problems=4, tokens=256)
    return folder


def test_schemas_are_valid_and_each_has_a_reader() -> None:
    for name in SCHEMAS:
        Draft202012Validator.check_schema(schema(name))
    assert set(SCHEMAS) == set(format_documents.DOCUMENTS)


@pytest.mark.parametrize("name", FORMATS)
def test_schemas_and_writers_agree_on_the_version(name: str) -> None:
    each = FORMATS[name]
    assert schema(name)["properties"][each.field]["const"] == each.version
    assert json.loads(each.to_text({}))[each.field] == each.version


def test_the_docs_list_every_format_with_its_version() -> None:
    text = (Path(__file__).parents[1] / "docs/formats.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"\| `(\w+)`, (\w+) \|$", text, re.MULTILINE))
    assert listed == {name: str(FORMATS[name].version) if name in FORMATS else "none" for name in SCHEMAS}


def test_what_quantize_writes_is_valid(out: Path) -> None:
    check("manifest", out / "manifest.json")
    assert manifest.read(out) is not None
    check("reference", out / "mimo-nano-int4_b32-onnx/reference.json")
    check("replies", out / "bf16-replies.json")
    check("calibrated_on", out / disjoint.NAME)
    check("report", out / "report.json")


def test_what_the_npu_fixture_writes_is_valid(out: Path, tmp_path: Path) -> None:
    folder = npu_fixture.write(out, tmp_path / "npu", 2048)
    check("manifest", tmp_path / "npu/manifest.json")
    check("npu", folder / "qnn-SM8750/npu.json")


def test_what_the_cache_keeps_is_valid(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path))
    monkeypatch.setattr(pace, "WORTH_KEEPING_S", 0.0)
    monkeypatch.setattr(prepacked, "LEAST_BYTES", 0)
    model = out / "mimo-nano-int4_b32-onnx"
    with load(model, ep="cpu", threads=1, speculate="off") as loaded, loaded.exclusive() as backend:
        measured = pace.remembered(backend, pace.costs_file(model / "model.onnx"))
        verdict = selftest.judge(backend, backend, model)
    (of_first_use,) = tmp_path.glob("selftest/*.json")
    check("selftest", of_first_use)
    assert (found := selftest.recall(of_first_use)) and found.tested and not found.wrong and found.speed is None
    kept = selftest.place(model, "cpu")
    assert kept is not None
    selftest.keep(kept, verdict)
    (costs,) = tmp_path.glob("costs/*.json")
    check("costs", costs)
    (record,) = tmp_path.glob("prepacked/*/*/entry.json")
    check("prepacked", record)
    copy = record.with_name("model.onnx")
    told = cache.Record(str(model / "model.onnx"), cache.Sums.of(model / "model.onnx"), cache.Sums.of(copy))
    assert cache.read_record(record) == told
    check("selftest", kept)
    assert pace.read_costs(costs) == measured
    assert selftest.recall(kept) == verdict and verdict.tested and not verdict.wrong


def test_a_verdict_on_numbers_that_are_none_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        context_length = 2048

        def decode(self, ids: Any, position: int, cancel: Any, rows: int = 1) -> Any:
            import numpy as np

            return np.full((rows, 20), np.nan, np.float32)

    (tmp_path / "reference.json").write_text(json.dumps(format_documents.REFERENCE))
    verdict = selftest.judge(Broken(), None, tmp_path)  # type: ignore[arg-type]
    assert verdict.wrong and verdict.tested
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path))
    selftest.keep(tmp_path / "selftest/kept.json", verdict)
    check("selftest", tmp_path / "selftest/kept.json")
    assert selftest.recall(tmp_path / "selftest/kept.json") == verdict


def test_a_score_without_numbers_is_valid_and_read_again(out: Path, tmp_path: Path) -> None:
    found = manifest.read(out)
    assert found is not None and found.baseline is not None
    nothing = dataclasses.replace(found.baseline, perplexity=math.inf, same_top=math.nan)
    dataclasses.replace(found, baseline=nothing).write(tmp_path)
    check("manifest", tmp_path / "manifest.json")
    again = manifest.read(tmp_path)
    assert again is not None and again.baseline is not None
    assert math.isnan(again.baseline.perplexity) and math.isnan(again.baseline.same_top)


def test_a_reference_of_another_vocabulary_fails_the_self_test(out: Path, tmp_path: Path) -> None:
    beyond = format_documents.REFERENCE | {"top_ids": [9, 1_000_000]}
    (tmp_path / "reference.json").write_text(json.dumps(beyond))
    with load(out / "mimo-nano-int4_b32-onnx", ep="cpu", threads=1) as session, session.exclusive() as backend:
        verdict = selftest.judge(backend, None, tmp_path)
    assert re.search(r"reference\.json: token 1000000 found, the model has \d+; quantize again", str(verdict))


def test_the_table_for_kotlin_is_what_is_stored() -> None:
    assert golden.to_text(CASES) == (golden.FOLDER / "formats.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_accept_and_refuse_what_the_table_says(name: str) -> None:
    validator = Draft202012Validator(schema(name))
    for case in CASES:
        if case["format"] == name and case["schema"] is not None:
            assert validator.is_valid(json.loads(case["text"])) == case["schema"], case["text"]


def read_manifest(path: Path) -> object:
    return manifest.read(path.parent)


def read_npu(path: Path) -> object:
    return read_npu_settings(path.parent)


def read_replies(path: Path) -> object:
    return evaluate.read_replies(path, {"fingerprint": "f", "problem_set": "p"}, 2)


def read_drafts(path: Path) -> object:
    nano = Path(manifest.__file__).parent / "nano"
    return draft_ids(path.parent, read_vocabulary(nano, 1088))


READERS: dict[str, tuple[Callable[[Path], object], str, type[MimoMobileError]]] = {
    "manifest": (read_manifest, "manifest.json", MimoMobileError),
    "npu": (read_npu, "npu.json", ModelLoadError),
    "ranges": (lambda path: read_form(path.parent), "ranges.json", ModelLoadError),
    "reference": (read_reference, "reference.json", ModelLoadError),
    "costs": (pace.read_costs, "costs.json", ModelLoadError),
    "selftest": (selftest.read_verdict, "selftest.json", ModelLoadError),
    "prepacked": (cache.read_record, "entry.json", ModelLoadError),
    "replies": (read_replies, "bf16-replies.json", QuantizationError),
    "calibrated_on": (lambda path: disjoint.read(path.parent), disjoint.NAME, QuantizationError),
    "report": (report_file.read, "report.json", QuantizationError),
    "draft_vocabulary": (read_drafts, "draft_vocabulary.json", CheckpointError),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_readers_accept_and_refuse_what_the_table_says(name: str, tmp_path: Path) -> None:
    read, file, error = READERS[name]
    path = tmp_path / file
    for case in CASES:
        if case["format"] != name:
            continue
        path.write_text(case["text"], encoding="utf-8")
        if case["python"]:
            read(path)
            continue
        with pytest.raises(error) as caught:
            read(path)
            pytest.fail(f"accepted: {case['text']}")
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1, message


@pytest.mark.parametrize("name", FORMATS)
def test_a_newer_version_is_named_and_the_reader_says_what_to_do(name: str, tmp_path: Path) -> None:
    read, file, error = READERS[name]
    newer = format_documents.DOCUMENTS[name] | {f"{name}_version": 7}
    (tmp_path / file).write_text(json.dumps(newer))
    with pytest.raises(error, match=rf"a newer MiMo Mobile wrote it: {name}_version is 7, \d is the newest known here"):
        read(tmp_path / file)


def test_an_unreadable_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    some = FileFormat("some", 1)
    with pytest.raises(ModelLoadError, match=r"nothing\.json: cannot be read: No such file or directory; look again"):
        some.read(tmp_path / "nothing.json", lambda found: found, ModelLoadError, "look again")
    (tmp_path / "bytes.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ModelLoadError, match=r"bytes\.json: not what mimo writes: not UTF-8"):
        some.read(tmp_path / "bytes.json", lambda found: found, ModelLoadError, "look again")
    (tmp_path / "large.json").write_text('{"a": 1' + "0" * 400 + "}")
    for read in ("integer", "number"):
        with pytest.raises(ModelLoadError, match=r"large\.json: not what mimo writes: a: a .*number.* expected, 1000"):
            some.read(tmp_path / "large.json", lambda found, read=read: getattr(found["a"], read)(), ModelLoadError, "")
