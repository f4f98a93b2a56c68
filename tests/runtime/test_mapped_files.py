"""A model's files that others change, replace or delete while the model is loaded."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mimo_mobile.errors import SessionError
from mimo_mobile.runtime import GenerationConfig, Model, load
from mimo_mobile.runtime.mapped_files import MappedFiles
from mimo_mobile.runtime.onnx import prepacked

GREEDY = GenerationConfig(temperature=0, max_tokens=8)
IDS = [3, 50, 99, 200, 17, 41, 8, 301]


def truncated(file: Path) -> None:
    os.truncate(file, 4096)


def zeroed(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))


def grown(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"x")


def replaced(file: Path) -> None:
    file.with_name("new").write_bytes(b"another")
    file.with_name("new").replace(file)


def deleted(file: Path) -> None:
    file.unlink()


def linked_and_read(file: Path) -> None:
    file.with_name("hard").hardlink_to(file)
    file.chmod(0o600)
    file.read_bytes()


@pytest.fixture(params=["gguf", "mtp", "onnx", "prepacked"])
def mapped(
    request: pytest.FixtureRequest, tmp_path: Path, nano_q4: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Callable[[], Path]]:
    """A model of the test's own, and its file that is mapped, which may be there only after loading."""
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "cache"))
    if request.param in ("gguf", "mtp"):
        for file in (nano_q4["gguf"], nano_q4["gguf"].with_name("mimo-nano-q4_0-mtp.gguf")):
            shutil.copy(file, tmp_path)
        model = tmp_path / nano_q4["gguf"].name
        return model, lambda: model if request.param == "gguf" else model.with_name("mimo-nano-q4_0-mtp.gguf")
    model = Path(shutil.copytree(nano_q4["onnx"], tmp_path / nano_q4["onnx"].name))
    if request.param == "onnx":
        return model, lambda: model / "model.onnx.data"
    monkeypatch.setattr(prepacked, "LEAST_BYTES", 0)
    return model, lambda: next((tmp_path / "cache").rglob("model.onnx.data"))


def text(model: Model) -> list[int | None]:
    return [token.token_id for token in model.session().generate(IDS, GREEDY)]


@pytest.mark.parametrize("change", [truncated, zeroed, grown])
def test_a_file_that_is_changed_in_place_is_an_error_and_no_sigbus(
    mapped: tuple[Path, Callable[[], Path]], change: Callable[[Path], None]
) -> None:
    path, file = mapped
    with load(path, threads=1, speculate="mtp") as model:
        before = text(model)
        started = model.generate(IDS, GREEDY)
        next(started)
        time.sleep(0.01)  # a clock that files are stamped with ticks some hundred times a second
        change(file())
        with pytest.raises(SessionError, match=r"was changed while it was loaded \(.*\); load it again"):
            list(started)
        with pytest.raises(SessionError, match="was changed while it was loaded"):
            text(model)
        with pytest.raises(SessionError, match="was changed while it was loaded"):
            model.logits(IDS)
    assert len(before) > 1


@pytest.mark.parametrize("change", [replaced, deleted, linked_and_read])
def test_a_file_that_is_replaced_or_deleted_does_no_harm(
    mapped: tuple[Path, Callable[[], Path]], change: Callable[[Path], None]
) -> None:
    path, file = mapped
    with load(path, threads=1, speculate="mtp") as model:
        before = text(model)
        change(file())
        assert text(model) == before


def test_a_closed_model_and_a_failed_load_keep_no_file_open(nano_q4: dict[str, Path], tmp_path: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(nano_q4["gguf"].read_bytes()[:200_000])
    for path in nano_q4.values():
        load(path, threads=1).close()
    before = opened()
    for path in nano_q4.values():
        load(path, threads=1).close()
        with pytest.raises(SessionError):
            load(broken)
    assert opened() == before


def test_looking_at_a_file_costs_a_hundredth_of_the_smallest_models_token(nano_q4: dict[str, Path]) -> None:
    files = MappedFiles()
    files.add(nano_q4["gguf"])
    took = []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(100):
            files.check()
        took.append((time.perf_counter() - started) / 100)
    files.close()
    assert min(took) < 5e-6  # 1 % of a token is 2.4 µs on the machine where this takes 0.8 µs
