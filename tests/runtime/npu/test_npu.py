"""NPUs, on the simulator of a Hexagon that onnxruntime-qnn brings: slow, and right to a float16."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mimo_mobile import inspection, manifest
from mimo_mobile.convert.npu import pieces
from mimo_mobile.convert.npu.file import compile_for_npu
from mimo_mobile.convert.synthetic import write_synthetic
from mimo_mobile.errors import (
    BackendUnavailableError,
    BadArgumentError,
    ContextFullError,
    ModelLoadError,
    NumericsError,
    OutputExistsError,
    QuantizationError,
)
from mimo_mobile.hub import Source, resolve
from mimo_mobile.providers import QnnOptions
from mimo_mobile.quantize import report_file
from mimo_mobile.quantize.evaluate import read_problems
from mimo_mobile.quantize.npu_ranges import activation_ranges
from mimo_mobile.quantize.pipeline import NpuTarget, quantize_checkpoint
from mimo_mobile.quantize.quality import Job, measure_quality
from mimo_mobile.runtime import GenerationConfig, LoadConfig, Message, load
from mimo_mobile.runtime.devices.selftest import Speed, Verdict
from mimo_mobile.runtime.npu import backend as npu_backend
from mimo_mobile.runtime.npu import model as npu_model
from mimo_mobile.runtime.onnx import ep_choice
from mimo_mobile.runtime.onnx.backend import OrtBackend
from mimo_mobile.socs import SOCS
from tests import schemas
from tests.runtime.npu.answers import CONTEXT, GREEDY, expected, ids_of, verdicts

pytestmark = pytest.mark.needs("onnxruntime_qnn")


def test_the_binaries_are_in_the_manifest_and_are_not_compiled_twice(out: Path, model: Path) -> None:
    entry = manifest.read(out).entries[0]  # type: ignore[union-attr]
    names = {part.path.split("/", 1)[1] for part in entry.parts}
    assert {"embedding.onnx", "reference.json", "qnn-SM8750/npu.json", "qnn-SM8750/layers-0.64_qnn.bin"} <= names
    assert inspection.verify(out) == len(entry.parts)
    schemas.check("npu", model / "qnn-SM8750/npu.json")
    before = (model / "qnn-SM8750/npu.json").stat().st_mtime_ns
    quantize_checkpoint(resolve("nano"), out, ["int4_b32"], problems=0, npu=NpuTarget((SOCS["SM8750"],), CONTEXT))
    assert (model / "qnn-SM8750/npu.json").stat().st_mtime_ns == before
    assert not list(model.glob(".*"))


@pytest.mark.slow
def test_the_whole_decoder_runs_on_the_npu_and_says_what_the_cpu_says(model: Path) -> None:
    question = "What is 12 + 30?"
    with load(model, ep="qnn", strict=True, speculate="off") as session:
        assert ids_of(session, question) == expected(model, question)
        assert session.context_length == CONTEXT
        placed = session.placement
    assert placed is not None
    assert {share.provider: share.operators for share in placed.shares} == {
        "qnn": {"EPContext": 2},
        "cpu": {"GatherBlockQuantized": 1},  # rows of the embedding
    }
    assert {share.provider: share.weight_share > 0 for share in placed.shares} == {"qnn": True, "cpu": True}


@pytest.mark.slow
def test_prompts_beyond_the_chunk_and_up_to_the_contexts_end(model: Path) -> None:
    """Windows of 64, then of 2 and 1 where 64 no longer fit."""
    ids = [int(each) for each in np.random.Generator(np.random.PCG64(0)).integers(0, 1000, CONTEXT - 1)]
    with load(model, ep="cpu", context_length=CONTEXT, speculate="off") as cpu:
        right = cpu.logits(ids)[-1]
    with load(model, ep="qnn", strict=True, speculate="off") as session, session.exclusive() as backend:
        never = threading.Event()
        backend.decode(ids[:300], 0, never)
        found = backend.decode(ids[300:], 300, never, rows=3)
        assert np.abs(found[-1] - right).max() < 0.05 * np.abs(right).max()
    with load(model, ep="qnn", strict=True, speculate="off") as session, pytest.raises(ContextFullError):
        session.generate([1] * CONTEXT, GREEDY)


def test_a_cancelled_prompt_ends_between_two_windows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    with load(model, ep="qnn", strict=True, speculate="off") as session:
        whole = npu_model.Piece.run

        def run(piece: npu_model.Piece, window: int) -> None:
            runs.append(window)
            if len(runs) == 2:
                session.cancel()
            whole(piece, window)

        monkeypatch.setattr(npu_model.Piece, "run", run)
        assert [each.finish_reason for each in session.generate([5] * 200, GREEDY)] == ["cancelled"]
    assert runs == [64, 64]


@pytest.mark.slow
def test_parts_in_turns_leave_nothing_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as MiMo-7B has: what one gives is what the first read; padded rows must not come round again."""
    monkeypatch.setattr(pieces, "SESSION_BYTES", 3_000_000)
    quantize_checkpoint(resolve("nano"), tmp_path, ["int4_b32"], problems=0, npu=NpuTarget((SOCS["SM8750"],), CONTEXT))
    model = tmp_path / "mimo-nano-int4_b32-onnx"
    parts = json.loads((model / "qnn-SM8750/npu.json").read_text())["layers"]
    assert len(parts) > 1 and len(parts) % 2 == 0
    with load(model, ep="qnn", strict=True, speculate="off") as session, session.exclusive() as backend:
        never, ids = threading.Event(), [5, 9, 300, 12, 7, 44]
        first = backend.decode(ids, 0, never).copy()
        for _ in range(4):
            backend.decode([801] * 40, 6, never)  # padded, with other rows each time
        assert np.abs(backend.decode(ids, 0, never) - first).max() == 0
        assert isinstance(backend, npu_backend.NpuBackend)
        given, whole = [], npu_model.Piece.run

        def run(piece: npu_model.Piece, window: int) -> None:
            given.append(backend.model._states[window][0][0].copy())
            whole(piece, window)

        monkeypatch.setattr(npu_model.Piece, "run", run)
        backend.decode(ids, 0, never)
        assert given[0][: len(ids)].any() and not given[0][len(ids) :].any()
        with load(model, ep="cpu", speculate="off") as cpu:
            right = cpu.logits(ids)[-1]
        assert np.abs(first[0] - right).max() < 0.05 * np.abs(right).max()


@pytest.mark.slow
def test_an_npu_that_is_slower_is_stepped_around(
    model: Path, remembering: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mimo_mobile")
    with load(model, ep="qnn") as session:
        placed = session.placement
        assert placed is not None and placed.asked == "qnn" and placed.shares[0].provider == "cpu"
        assert "all on the CPU" in placed.reasons["all of it"]
        with session.exclusive() as backend:
            assert isinstance(backend, OrtBackend)
    assert "going on with the CPU" in caplog.text
    (file,) = verdicts(remembering)
    found = json.loads(file.read_text())
    assert found["difference"] < 0.05 and found["speed"]["token_s"] > found["cpu"]["token_s"]
    with load(model, ep="qnn", threads=2) as session:  # other circumstances: asked anew
        assert session.placement is not None
    assert len(verdicts(remembering)) == 2

    # The same, had the NPU been faster with prompts only: it computes them, and the CPU goes on in its caches.
    found["speed"]["prompt_s"] = 0.0
    file.write_text(json.dumps(found))
    question = " ".join(["What is 12 + 30?"] * 6)  # longer than a window; each token scores well above the second best
    with load(model, ep="qnn") as session:
        assert "prompts on the NPU, tokens on the CPU" in caplog.text
        assert ids_of(session, question) == expected(model, question)
        with session.exclusive() as backend:
            assert isinstance(backend, npu_backend.SplitBackend)
            assert backend.all_logits([1, 2, 3]).shape == (3, 1088)

    found["speed"]["token_s"] = 0.0
    file.write_text(json.dumps(found))
    with load(model, ep="qnn", speculate="off") as session, session.exclusive() as backend:
        assert isinstance(backend, npu_backend.NpuBackend)

    file.write_text(json.dumps(found | {"difference": 2.0}))
    with load(model, ep="qnn", speculate="off") as session, session.exclusive() as backend:
        assert isinstance(backend, OrtBackend)
    assert "logits differ by 200.0% of the largest (8% allowed); going on with the CPU" in caplog.text


@pytest.mark.slow
def test_wrong_numbers_are_found_and_refused(copied: Path, remembering: Path) -> None:
    reference = json.loads((copied / "reference.json").read_text())
    reference["logits"] = reference["logits"][::-1]
    (copied / "reference.json").write_text(json.dumps(reference))
    with pytest.raises(BackendUnavailableError, match=r"wrong numbers on this device, or untested: logits differ by"):
        load(copied, ep="qnn", strict=True)
    with pytest.raises(NumericsError, match=r"ONNX Runtime .* computes wrong numbers on this CPU"):
        load(copied, ep="qnn")  # it is the model that is wrong
    (copied / "reference.json").unlink()
    with pytest.raises(BackendUnavailableError, match="nothing to compare with"):
        load(copied, ep="qnn", strict=True)
    (copied / "reference.json").write_text("{}")  # a failure is not remembered
    with pytest.raises(BackendUnavailableError, match=r"the self-test failed: .*reference\.json: .*ids is missing"):
        load(copied, ep="qnn", strict=True)
    assert len(verdicts(remembering)) == 1


def test_a_verdict_is_right_only_when_the_numbers_are() -> None:
    speed = Speed(1, 1)
    assert not Verdict(0.02, "", speed=speed).wrong and Verdict(0.02, "", speed=speed).tested
    assert Verdict(0.2, "", speed=speed).wrong and Verdict(float("inf"), "", 0.2, speed).wrong
    assert Verdict(float("nan"), "").wrong and Verdict(None, "the self-test failed: no").wrong
    assert not Verdict(None, "", speed=speed).tested


def test_files_that_are_missing_are_an_error_or_the_cpus_work(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copied / "qnn-SM8750/head.1.onnx").unlink()
    with pytest.raises(ModelLoadError, match=r"head.1.onnx: missing; compile again"):
        load(copied, ep="qnn", strict=True)
    with load(copied, ep="qnn") as session:
        assert session.placement is not None and session.placement.shares[0].provider == "cpu"
    assert "head.1.onnx: missing" in caplog.text
    (copied / "qnn-SM8750/npu.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"npu.json: not what mimo writes"):
        load(copied, ep="qnn", strict=True)


def test_auto_takes_the_cpu_where_the_npu_cannot_do_what_is_asked(
    copied: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = SimpleNamespace(device=SimpleNamespace(type=SimpleNamespace(name="NPU")))
    monkeypatch.setattr(ep_choice.providers, "register", lambda *_: [device])
    monkeypatch.setattr(ep_choice, "_on_npu", lambda *_: pytest.fail("the NPU was taken"))
    caplog.set_level(logging.INFO, "mimo_mobile")
    for options, reason in (
        ({"kv_dtype": "int8"}, "its KV cache is float16"),
        ({"mtp_drafts": 2}, "one token at a time"),
        ({"context_length": 100}, "compiled for a context"),
    ):
        with load(copied, **options) as session:
            assert session.placement is not None and session.placement.asked == "cpu"
        assert reason in caplog.text
    with pytest.raises(pytest.fail.Exception, match="the NPU was taken"):
        load(copied)


def test_what_was_not_compiled_for_is_an_error(copied: Path, nano_onnx: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"nothing compiled for it; run mimo quantize"):
        load(nano_onnx, ep="qnn")
    with pytest.raises(BackendUnavailableError, match=r"nothing compiled for SM8650"):
        load(copied, ep="qnn", ep_options=QnnOptions(soc="sm8650"))
    with pytest.raises(BackendUnavailableError, match=r"no SoC 'SM1'; there are SM8450 \(Snapdragon 8 Gen 1\)"):
        load(copied, ep="qnn", ep_options=QnnOptions(soc="SM1"))
    shutil.copytree(copied / "qnn-SM8750", copied / "qnn-SM8650")
    with pytest.raises(BackendUnavailableError, match=r"compiled for SM8650, SM8750; say which"):
        load(copied, ep="qnn")
    for options, message in (
        ({"context_length": 100}, f"compiled for a context of {CONTEXT}, 100 was asked for"),
        ({"mtp_drafts": 2}, "drafts one token at a time"),
        ({"kv_dtype": "int8"}, "its KV cache is float16"),
    ):
        with pytest.raises(BackendUnavailableError, match=message):
            load(copied, ep="qnn", ep_options=QnnOptions(soc="SM8750"), **options)


def test_auto_takes_no_simulator(model: Path) -> None:
    with load(model) as session:
        assert session.placement is not None and session.placement.asked == "cpu"


def test_what_cannot_be_compiled_is_an_error(copied: Path, out: Path) -> None:
    with pytest.raises(QuantizationError, match=r"--context 8 with windows of 64"):
        compile_for_npu(copied, SOCS["SM8750"], context_length=8)
    with pytest.raises(OutputExistsError):
        compile_for_npu(copied, SOCS["SM8750"], context_length=CONTEXT)
    with pytest.raises(BadArgumentError, match="none of which was asked for"):
        quantize_checkpoint(resolve("nano"), out, ["q4_0"], npu=NpuTarget((SOCS["SM8750"],)))


@pytest.mark.slow
def test_quantized_activations_say_nearly_what_the_cpu_says(tmp_path: Path) -> None:
    npu = NpuTarget((SOCS["SM8450"],), CONTEXT, quantized=True)
    made = quantize_checkpoint(resolve("nano"), tmp_path, ["int4_b32"], problems=4, tokens=512, npu=npu)
    assert inspection.verify(tmp_path) == len(made.entries[0].parts)
    model = tmp_path / "mimo-nano-int4_b32-onnx"
    form = made.entries[0].npu_form
    assert form is not None and form.score is not None and form.divergence is not None
    assert form.score.exact_match == 1 and 0 < form.divergence.mean_kld < 0.001
    report = report_file.read(tmp_path / report_file.NAME)
    assert [each.recipe for each in report.recipes] == ["int4_b32", "int4_b32_qdq"]
    assert report.recipes[1].divergence == form.divergence and report.recipes[1].histogram
    assert all(each.passed for each in report.recipes[1].checks) and "int4_b32_qdq" in report.shown[0].answers
    job = Job(LoadConfig(), against="nano", tokens=512, problems=2, seeds=0)
    found = measure_quality(tmp_path / form.path, job)
    assert found.greedy is not None and found.greedy.share == 1 and found.divergence is not None
    assert 0 < found.divergence.mean_kld < 0.001
    options, question = QnnOptions(activations="uint16"), "What is 12 + 30?"
    with load(model, ep="qnn", ep_options=options, strict=True, speculate="mtp") as session:
        assert ids_of(session, question) == expected(model, question)
    with pytest.raises(BackendUnavailableError, match="--target qnn"):
        load(model, ep="qnn")
    halves = tmp_path / "f16"
    with pytest.raises(BadArgumentError, match="which int4_b32_f16 does not have"):
        quantize_checkpoint(resolve("nano"), halves, ["int4_b32_f16"], problems=0, npu=npu)
    assert not halves.exists(), "it is refused before work"
    quantize_checkpoint(resolve("nano"), halves, ["int4_b32_f16"], problems=0)
    with pytest.raises(QuantizationError, match="float32 activations expected"):
        activation_ranges(halves / "mimo-nano-int4_b32_f16-onnx")


@pytest.mark.slow
@pytest.mark.parametrize(("speculate", "asked", "most"), [("off", 2, 24), ("mtp", 4, 36)])
def test_answers_on_the_npu_are_the_cpus(model: Path, speculate: str, asked: int, most: int) -> None:
    """Prompts shorter and longer than the chunk; the simulator takes a second for each token."""
    problems = [each.question for each in read_problems(resolve("nano").path)][::67]
    prompts = [problems[0], " ".join(problems[:5]), problems[1], " ".join(["What is 12 + 30?"] * 9)][:asked]
    config = GenerationConfig(temperature=0, max_tokens=most)
    with load(model, ep="qnn", strict=True, speculate=speculate) as session:  # type: ignore[arg-type]
        drafted = accepted = 0
        for prompt in prompts:
            tokens = list(session.generate([Message("user", prompt)], config))
            found = [token.token_id for token in tokens if token.token_id is not None]
            assert found == expected(model, prompt, config), prompt
            assert tokens[-1].stats is not None
            drafted += tokens[-1].stats.drafted_tokens
            accepted += tokens[-1].stats.accepted_tokens
    assert speculate == "off" or accepted > 0.8 * drafted > 50


@pytest.mark.slow
def test_two_layers_of_mimo_7bs_shapes_compile(tmp_path: Path) -> None:
    checkpoint = write_synthetic(tmp_path / "7b", layers=2)
    npu = NpuTarget((SOCS["SM8750"],), 4096)
    quantize_checkpoint(Source(checkpoint, "7b"), tmp_path / "out", ["int4_b32"], problems=0, npu=npu)
    settings = json.loads((tmp_path / "out/7b-int4_b32-onnx/qnn-SM8750/npu.json").read_text())
    graphs = {each["name"]: each for each in settings["graphs"]}
    assert {"layers-0.64", "layers-0.2", "layers-0.1", "head.1", "mtp.64", "draft_head.1"} <= set(graphs)
    for name, least in (("layers-0.1", 190e6), ("head.1", 300e6)):
        assert graphs[name]["size_bytes"] > least and graphs[name]["seconds"] > 0
    assert all(each["peak_rss_bytes"] < 6e9 for each in settings["graphs"])


@pytest.mark.slow
@pytest.mark.parametrize("soc", list(SOCS))
def test_every_chip_is_compiled_for(copied: Path, soc: str) -> None:
    made, graphs = compile_for_npu(copied, SOCS[soc], context_length=CONTEXT, force=True)
    assert made.name == f"qnn-{soc}" and len(graphs) == 9
