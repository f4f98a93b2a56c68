"""One window: prompts on the NPU, tokens on the CPU, in the same caches; and what is told of memory before loading."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile import inspection, npu_memory
from mimo_mobile.cli import main
from mimo_mobile.convert.npu.file import compile_for_npu, is_compiled
from mimo_mobile.convert.npu.pieces import WINDOWS
from mimo_mobile.errors import BackendUnavailableError, MemoryFullError
from mimo_mobile.layout import read_npu_settings
from mimo_mobile.runtime import load
from mimo_mobile.runtime.npu.backend import SplitBackend
from mimo_mobile.socs import SOCS
from tests import schemas
from tests.commands import runner
from tests.runtime.npu.answers import CONTEXT, expected, ids_of, verdicts

pytestmark = pytest.mark.needs("onnxruntime_qnn")

SM8750 = SOCS["SM8750"]


@pytest.fixture(scope="session")
def prompts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX folder that was compiled for prompts alone, beside the data of ``model``."""
    folder = tmp_path_factory.mktemp("prompts") / "model"
    folder.mkdir()
    for file in model.iterdir():
        if file.is_file():
            (folder / file.name).hardlink_to(file)
    compile_for_npu(folder, SM8750, context_length=CONTEXT, windows=(64,))
    return folder


def test_one_window_is_compiled_of_the_trunk_and_nothing_else(model: Path, prompts: Path) -> None:
    made = prompts / "qnn-SM8750"
    assert {file.name for file in made.iterdir()} == {"layers-0.64.onnx", "layers-0.64_qnn.bin", "npu.json"}
    (size,) = {(each / "qnn-SM8750/layers-0.64_qnn.bin").stat().st_size for each in (model, prompts)}
    assert size < 0.4 * sum(file.stat().st_size for file in (model / "qnn-SM8750").glob("*.bin"))
    schemas.check("npu", made / "npu.json")
    found = read_npu_settings(made)
    assert (found.windows, found.mtp, found.computes_tokens) == ((64,), False, False)
    assert is_compiled(prompts, SM8750, CONTEXT, (64,)) and not is_compiled(prompts, SM8750, CONTEXT, WINDOWS)
    assert not is_compiled(model, SM8750, CONTEXT, (64,))


def test_nothing_is_left_to_the_cpu_with_strict(prompts: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"qnn-SM8750: compiled for prompts alone, .*--windows 64,2,1"):
        load(prompts, ep="qnn", strict=True)


def test_the_pieces_are_inspected_and_told_before_they_are_loaded(
    model: Path, prompts: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = inspection.inspect(model).facts
    assert facts["qnn-SM8750"].startswith(f"mode npu, 9 binaries for {CONTEXT} tokens of context: 0.01 GB on the NPU")
    assert facts["qnn-SM8750 layers-0"].startswith("4 layers, windows of 64, 2, 1; 0.00 GB of weights and")
    assert "fits phone-8gb, phone-12gb, phone-16gb (assumed)" in facts["qnn-SM8750 memory"]
    assert inspection.inspect(prompts).facts["qnn-SM8750"].startswith("mode split, 1 binaries for")
    assert "qnn-SM8750 head" in runner().invoke(main, ["inspect", str(model)]).output
    caplog.set_level(logging.DEBUG, "mimo_mobile")
    monkeypatch.setattr("mimo_mobile.runtime.devices.memory.available_bytes", lambda: 1_000_000)
    with pytest.raises(MemoryFullError) as refused:
        load(model, ep="qnn", strict=True)
    said = str(refused.value)
    assert "qnn-SM8750: needs 0.0" in said and f"(on the NPU, 9 binaries for {CONTEXT} tokens of context:" in said
    assert said.endswith("; take a smaller recipe, or close other programs"), "the context is compiled in"
    plan = npu_memory.compiled(model / "qnn-SM8750", read_npu_settings(model / "qnn-SM8750"))
    room = plan.npu_bytes + plan.embedding_bytes + 1
    monkeypatch.setattr("mimo_mobile.runtime.devices.memory.available_bytes", lambda: room)
    with pytest.raises(
        MemoryFullError, match=f"; compile again with a --context of less than {CONTEXT}, take a smaller"
    ):
        load(model, ep="qnn", strict=True)
    assert "layers-0: 4 layers, windows of 64, 2, 1;" in caplog.text and "9 binaries for" in caplog.text


@pytest.mark.slow
def test_prompts_go_to_the_npu_and_tokens_to_the_cpu_with_its_answers(
    prompts: Path, remembering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(prompts, ep="qnn") as session:  # the simulator is slower: the CPU computes
        assert session.placement is not None and "all on the CPU" in session.placement.reasons["all of it"]
    (file,) = verdicts(remembering)
    found = json.loads(file.read_text())
    assert found["difference"] < 0.05, "the CPU read what the NPU wrote to the caches"
    found["speed"]["prompt_s"] = 0.0
    file.write_text(json.dumps(found))
    runs = []
    question = " ".join(["What is 12 + 30?"] * 6)  # longer than a window; each token scores well above the second best
    with load(prompts, ep="qnn") as session:
        with session.exclusive() as backend:
            assert isinstance(backend, SplitBackend)
            whole = backend._npu.model.hidden
            monkeypatch.setattr(
                backend._npu.model, "hidden", lambda ids, *where: runs.append(len(ids)) or whole(ids, *where)
            )
        assert ids_of(session, question) == expected(prompts, question)
        assert runs and max(runs) == 64, "the prompt went through windows"
        ids = [int(each) for each in np.random.Generator(np.random.PCG64(0)).integers(0, 1000, CONTEXT - 30)]
        with session.exclusive() as backend, load(prompts, ep="cpu", speculate="off") as cpu:
            never, right = threading.Event(), cpu.logits(ids)[-1]
            backend.decode(ids[:20], 0, never)  # so that the context's last window does not fit
            found_logits = backend.decode(ids[20:], 20, never)
            assert np.abs(found_logits[-1] - right).max() < 0.05 * np.abs(right).max()
