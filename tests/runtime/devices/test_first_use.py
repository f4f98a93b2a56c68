"""The CPU's self-test: a model whose numbers are wrong here is not used, and a way that is right is remembered."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile import doctor, graph_file, onnxruntime_library
from mimo_mobile.errors import ModelLoadError, NumericsError
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.hub import resolve
from mimo_mobile.layout import Reference
from mimo_mobile.quantize import answering, evaluate
from mimo_mobile.runtime import load
from mimo_mobile.runtime.devices import first_use, selftest
from mimo_mobile.runtime.devices.first_use import Known, Way
from mimo_mobile.runtime.llama.checked import checked, reference_in
from mimo_mobile.runtime.load_config import LoadConfig
from mimo_mobile.runtime.onnx.ep_choice import IN_FLOAT32, KERNELS, known_numbers
from mimo_mobile.runtime.onnx.needs import OnnxNeeds
from mimo_mobile.runtime.onnx.opening import OnnxOpening

pytestmark = [pytest.mark.needs("llama_cpp"), pytest.mark.needs("onnxruntime")]

WRONG = r"computes wrong numbers on this CPU .*logits differ by [\d.,]+% of the largest \(20% allowed\).*take another"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing was tested before, neither by this process nor by an earlier one."""
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(first_use, "_passed", set())
    return tmp_path / "cache"


@pytest.fixture(params=["gguf", "onnx"])
def copied(request: pytest.FixtureRequest, nano_q4: dict[str, Path], tmp_path: Path) -> Path:
    model = nano_q4[request.param]
    if model.is_dir():
        return Path(shutil.copytree(model, tmp_path / model.name))
    return Path(shutil.copy(model, tmp_path))  # alone, without its MTP layer beside it


def reference_of(model: Path) -> Reference:
    if model.is_dir():
        known = known_numbers(model, model / "model.onnx")
        found = known.reference if known else None
    else:
        header = GgufHeader(model)
        found = reference_in(header, checked(header))
    assert found is not None
    return found


def tamper(model: Path) -> None:
    """Let the model say that the other half of the logits belongs to each token."""
    found = reference_of(model)
    if model.is_dir():
        document = json.loads((model / "reference.json").read_text())
        (model / "reference.json").write_text(json.dumps(document | {"logits": document["logits"][::-1]}))
    else:
        logits = np.array(found.logits, "<f4")
        model.write_bytes(model.read_bytes().replace(logits.tobytes(), logits[::-1].tobytes(), 1))


def flip(model: Path) -> None:
    """Change the highest byte of one number: a weight of the last norm, as a bad disk or a bad download does."""
    if model.is_dir():
        norm = next(
            each for name, each in graph_file.read(model / "model.onnx").tensors.items()
            if each.type == "FLOAT" and each.shape == (256,) and "norm" in name and "layers" not in name
        )  # fmt: skip
        file, offset = model / "model.onnx.data", norm.offset
    else:
        file, offset = model, GgufHeader(model).tensors["output_norm.weight"].offset
    with file.open("r+b") as opened:
        opened.seek(offset + 3)
        opened.write(b"\x43")  # 128 to 512


def self_tests(log: pytest.LogCaptureFixture) -> int:
    """How many self-tests the log tells of."""
    return sum("self-test:" in message for message in log.messages)


def test_a_lone_file_says_what_its_model_computes(copied: Path) -> None:
    found = reference_of(copied)
    assert len(found.ids) == 48 and len(found.top_ids) == len(found.logits) == 64
    assert list(found.logits) == sorted(found.logits, reverse=True)
    with load(copied, speculate="off", kv_dtype="f32" if copied.suffix == ".gguf" else None) as model:
        logits = model.turns.opened().all_logits(found.ids)[-1]
    assert int(logits.argmax()) == found.top_ids[0]
    assert np.abs(logits[list(found.top_ids)] - found.logits).max() < 0.05 * found.logits[0]


def test_a_first_use_is_tested_and_the_verdict_remembered(
    copied: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, first_use.__name__)
    for count, changes in ((1, {}), (1, {}), (1, {"threads": 1, "spin": False}), (2, {"kv_dtype": "int8"})):
        first_use._passed.clear()  # as another process would begin
        load(copied, **changes).close()
        assert self_tests(caplog) == count
    kept = [selftest.read_verdict(file) for file in own_cache.glob("selftest/*.json")]
    assert len(kept) == 2 and all(each.difference and each.difference < 0.06 and each.tolerance == 0.2 for each in kept)
    weights = copied / "model.onnx.data" if copied.is_dir() else copied
    weights.write_bytes(weights.read_bytes())
    load(copied).close()
    assert self_tests(caplog) == 3  # what was written anew is another model


def test_the_doctor_tells_what_the_self_test_found(nano_q4: dict[str, Path], nano_onnx: Path) -> None:
    def told(folder: Path) -> str:
        return next(each.model for each in doctor.states(folder) if each.ep == "cpu")

    assert told(nano_q4["onnx"]) == "all of it (not self-tested yet)"
    load(nano_q4["onnx"]).close()
    assert told(nano_q4["onnx"]).startswith("all of it (as usual, self-tested: logits differ by ")
    assert told(nano_onnx) == "all of it (no self-test in the folder)"


def test_without_the_cache_each_process_tests_once(
    copied: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, first_use.__name__)
    for _ in range(2):
        load(copied, cache=False).close()
    assert self_tests(caplog) == 1 and not list(own_cache.glob("selftest/*"))


@pytest.mark.parametrize("harm", [tamper, flip])
def test_wrong_numbers_are_an_error_each_time(copied: Path, harm: Any, own_cache: Path) -> None:
    load(copied).close()
    harm(copied)
    for _ in range(2):
        with pytest.raises(NumericsError, match=WRONG) as caught:
            load(copied)
        assert str(copied) in str(caught.value)
        assert ("ONNX Runtime" if copied.is_dir() else "llama.cpp") in str(caught.value)
    assert len(list(own_cache.glob("selftest/*.json"))) == 1  # of the whole file


def test_processes_that_answer_problems_say_what_is_wrong(copied: Path, own_cache: Path) -> None:
    problems = evaluate.read_problems(resolve("nano").path)[: 2 * answering.TASK_PROBLEMS]
    assert len(answering.answer_all(copied, problems, processes=2)) == len(problems)
    assert len(list(own_cache.glob("selftest/*.json"))) == 1
    tamper(copied)
    with pytest.raises(NumericsError, match=WRONG):
        answering.answer_all(copied, problems, processes=2)


def test_a_file_that_says_nothing_is_not_tested(
    nano_gguf: Path, nano_onnx: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, first_use.__name__)
    for model in (nano_gguf, nano_onnx):
        load(model).close()
    assert not caplog.messages and not list(own_cache.glob("selftest/*"))


def test_a_context_shorter_than_the_prompt_is_not_tested(copied: Path, own_cache: Path) -> None:
    tamper(copied)
    with load(copied, context_length=40) as model:
        assert model.context_length == 40
    assert not list(own_cache.glob("selftest/*"))


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("ids", 2**31 - 1, "token 2147483647"),
        ("ids", -1, "a whole number from 0"),
        ("top_ids", 99_999, "token 99999"),
        ("logits", float("nan"), "a number"),
        ("logits", 0.0, "only zeros"),
    ],
)
def test_a_damaged_known_prompt_is_refused(
    name: str, value: float, found: str, nano_q4: dict[str, Path], tmp_path: Path
) -> None:
    model = Path(shutil.copy(nano_q4["gguf"], tmp_path))
    kind = "<f4" if name == "logits" else "<i4"
    old = np.array(getattr(reference_of(model), name), kind)
    model.write_bytes(model.read_bytes().replace(old.tobytes(), np.full(len(old), value, kind).tobytes(), 1))
    with pytest.raises(ModelLoadError, match=f"the known prompt: .*{found}.* found.*convert it again"):
        load(model)


def test_float32_kernels_are_nearer_to_the_right_numbers(nano_q4: dict[str, Path]) -> None:
    ort, folder = onnxruntime_library.load(), nano_q4["onnx"]
    found = []
    for name in ("", IN_FLOAT32):
        config = LoadConfig(cache=False)
        ways = OnnxNeeds.of(folder, config).ways
        opening = OnnxOpening(ort, folder, folder / "model.onnx", config, 64, 1, ways, kernels=KERNELS[name])
        backend = opening.backend()[0]
        found.append(selftest.difference_of(backend, reference_of(folder), folder))
        backend.close()
        opening.files.close()
    usual, in_float32 = found
    assert usual and in_float32 and in_float32 < 8e-3 < 1e-2 < usual < 5e-2  # 0.5 % and 2 %: the head has 8 bits


class Engine:
    """An engine by hand, whose logits are ``reference``'s times a factor."""

    context_length = 100

    def __init__(self, reference: Reference, factor: float) -> None:
        self.reference, self.factor, self.closed = reference, factor, 0

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        logits = np.zeros((rows, 100), np.float32)
        logits[:, list(self.reference.top_ids)] = np.array(self.reference.logits) * self.factor
        return logits

    def close(self) -> None:
        self.closed += 1


def test_the_first_right_way_is_taken_and_remembered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, first_use.__name__)
    reference = Reference((1, 2, 3, 4), (7, 8), (2.0, 1.0))
    weights = tmp_path / "weights"
    weights.write_bytes(b"1")
    known = Known(reference, weights, weights, weights)
    engines = [Engine(reference, factor) for factor in (float("nan"), -1, 1.1, 1)]
    started: list[str] = []

    def way(name: str, engine: Engine) -> Way[str]:
        def start() -> Any:
            started.append(name)
            return engine, name

        return Way(name, start)

    ways = [way(name, engine) for name, engine in zip(("", "slow", "slower", "slowest"), engines, strict=True)]
    for first in (True, False):
        first_use._passed.clear()
        started.clear()
        backend, made = first_use.opened(known, "engine 1", [], ways, keep=True)
        assert backend is engines[2] and made == "slower"
        assert started == (["", "slow", "slower"] if first else ["slower"])
        assert [engine.closed for engine in engines] == [1, 1, 0, 0]
    told = "\n".join(caplog.messages)
    assert "engine 1 computes wrong numbers as usual: logits are NaN or infinite" in told
    assert "slow: logits differ by 200.0% of the largest (20% allowed)" in told
    assert told.count("slower, since the usual kernels compute wrong numbers on this CPU") == 2
    first_use.opened(known, "engine 2", [], ways, keep=True)
    assert started[1:] == ["", "slow", "slower"]  # another version is another engine
    with pytest.raises(NumericsError, match=r"engine 1 .*\(as usual: logits are NaN.*; slow: logits differ"):
        first_use.opened(known, "engine 1", ["int8"], ways[:2], keep=True)
