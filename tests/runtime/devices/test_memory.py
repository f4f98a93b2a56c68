"""What does not fit is refused before it is loaded, and what fits is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_mobile.errors import BackendUnavailableError, MemoryFullError, ModelLoadError
from mimo_mobile.runtime import load
from mimo_mobile.runtime.devices import memory
from mimo_mobile.runtime.devices.memory import MemoryNeed

LARGE = MemoryNeed(way="repacked", copied_bytes=7_000_000_000, mapped_bytes=400_000_000)
SMALL = MemoryNeed(way="not repacked", kv_bytes=700_000_000, mapped_bytes=4_500_000_000)


def with_room(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: available)


@pytest.mark.parametrize(("available", "expected"), [(8_000_000_000, LARGE), (6_000_000_000, SMALL)])
def test_the_first_way_that_fits_is_chosen(
    monkeypatch: pytest.MonkeyPatch, available: int, expected: MemoryNeed
) -> None:
    with_room(monkeypatch, available)
    assert memory.choose(Path("m.gguf"), [LARGE, SMALL]) is expected


def test_what_fits_in_no_way_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, 3_000_000_000)
    with pytest.raises(ModelLoadError, match=r"needs 5\.20 GB .*3\.00 GB is available"):
        memory.choose(Path("m.gguf"), [LARGE, SMALL])


@pytest.mark.parametrize(("context", "shorter"), [(2_200_000_000, False), (2_300_000_000, True)])
def test_a_shorter_context_is_advised_where_it_would_help(
    monkeypatch: pytest.MonkeyPatch, context: int, shorter: bool
) -> None:
    with_room(monkeypatch, 3_000_000_000)
    need = MemoryNeed(way="not repacked", kv_bytes=context, mapped_bytes=5_200_000_000 - context)
    with pytest.raises(MemoryFullError) as refused:
        memory.choose(Path("m.gguf"), [need])
    assert ("; take a shorter --context-length, take a smaller recipe" in str(refused.value)) == shorter
    assert ("; take a smaller recipe, or close other programs" in str(refused.value)) != shorter


def test_weights_alone_are_not_made_smaller_by_a_shorter_context(
    monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path, tiny_onnx: Path
) -> None:
    with_room(monkeypatch, 1000)
    for model in tiny_gguf, tiny_onnx:
        with pytest.raises(MemoryFullError) as refused:
            load(model)
        assert "--context-length" not in str(refused.value)


def test_available_memory_is_what_the_system_and_the_control_group_leave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_bytes() == 50 * 1024
    for name, text in {
        "memory.max": "40960\n", "memory.current": "30720\n", "memory.stat": "active_file 1024\ninactive_file 2048\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    assert memory.available_bytes() == 40960 - 30720 + 3072
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert memory.available_bytes() is None


def test_both_backends_ask_before_they_load(monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path, tiny_onnx: Path) -> None:
    with_room(monkeypatch, 1000)
    for model in tiny_gguf, tiny_onnx:
        with pytest.raises(ModelLoadError, match="of memory"):
            load(model)


def test_repacking_changes_no_token(nano_gguf: Path, tmp_path: Path) -> None:
    from mimo_mobile.hub import resolve
    from mimo_mobile.quantize.pipeline import quantize_checkpoint
    from mimo_mobile.runtime import GenerationConfig

    quantize_checkpoint(resolve("nano"), tmp_path, ["q4_0"], problems=0)
    config, texts = GenerationConfig(temperature=0, max_tokens=40), []
    for repack in True, False:
        with load(tmp_path, repack=repack) as session:
            texts.append("".join(token.text for token in session.generate("What is 12 + 30?", config)))
    assert texts[0] == texts[1] and texts[0]


def test_repack_is_refused_for_onnx(tiny_onnx: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"llama\.cpp"):
        load(tiny_onnx, repack=True)
