"""What would fail in the end is refused before anything is computed, and what is there stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mimo_mobile import errors, ggml_library, manifest
from mimo_mobile.errors import (
    BadArgumentError,
    CheckpointError,
    DiskFullError,
    MimoMobileError,
    MissingDependencyError,
    OutputExistsError,
    QuantizationError,
)
from mimo_mobile.hub import Source
from mimo_mobile.quantize import disjoint, report_file
from mimo_mobile.quantize.pipeline import IMPORTANCE, NpuTarget, quantize_checkpoint
from mimo_mobile.socs import soc_named
from tests.tiny import write_json, write_tiny_checkpoint

COMPUTING = ("calibrate", "balance channels", "write", "answer", "evaluate")


def refused(
    kind: type[MimoMobileError], message: str, source: Source | Path, out: Path, recipes: list[str], **options: Any
) -> None:
    """See that quantizing is refused before anything is computed, and changes nothing in ``out``."""
    before = content(out)
    seen: list[str] = []
    with pytest.raises(kind, match=message):
        quantize_checkpoint(source, out, recipes, progress=lambda step: seen.append(step.stage), **options)
    assert [stage for stage in seen if stage.startswith(COMPUTING)] == []
    assert content(out) == before


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def test_a_single_file_wants_an_mtp_layer(tiny: Source, tmp_path: Path) -> None:
    bare = write_tiny_checkpoint(tmp_path / "bare", mtp_layers=0)
    refused(BadArgumentError, "--single-file: .*no MTP layer.*leave it out", bare, tmp_path / "out", ["q4_0"],
            problems=0, single_file=True)  # fmt: skip
    after = Path(shutil.copytree(tiny.path, tmp_path / "after"))
    config = json.loads((after / "config.json").read_text(encoding="utf-8"))
    write_json(after / "config.json", {**config, "mtp_hidden_state": "post_norm"})
    refused(CheckpointError, "MTP layers on post_norm states", after, tmp_path / "out", ["int4_b32", "q4_0"],
            problems=0, single_file=True)  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "recipe", "tensor"),
    [({"hidden": 192}, "int4_b128", "embed_tokens"), ({"ffn": 528}, "q4_0", "down_proj"),
     ({"ffn": 528}, "int8", "down_proj")],
)  # fmt: skip
def test_a_recipe_that_does_not_fit_the_shapes(sizes: dict[str, int], recipe: str, tensor: str, tmp_path: Path) -> None:
    odd = write_tiny_checkpoint(tmp_path / "odd", **sizes)
    refused(QuantizationError, f"{recipe}: tensor .*{tensor}.*: .* takes rows of a multiple of .*use another recipe",
            odd, tmp_path / "out", ["q8_0", recipe] if "hidden" in sizes else [recipe], problems=0)  # fmt: skip


def test_what_onnx_folders_hold_beside_the_graphs(tiny: Source, tmp_path: Path) -> None:
    for name, text in (("draft_vocabulary.json", "[1, 2, 99999]"), ("tokenizer_config.json", "[]")):
        damaged = Path(shutil.copytree(tiny.path, tmp_path / name))
        (damaged / name).write_text(text)
        refused(CheckpointError, name, damaged, tmp_path / "out", ["q4_0", "int4_b32"], problems=0)


@pytest.mark.parametrize(
    ("missing", "recipes", "problems"),
    [("gguf", ["q4_0"], 0), ("llama_cpp", ["q4_0"], 0), ("onnx_ir", ["q4_0", "int4_b32"], 0),
     ("onnxruntime", ["int4_b32"], 4)],
)  # fmt: skip
def test_a_package_that_is_missing(
    missing: str, recipes: list[str], problems: int, nano: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = errors.importlib.import_module  # type: ignore[attr-defined]

    def imported(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *rest)

    monkeypatch.setattr(errors.importlib, "import_module", imported)  # type: ignore[attr-defined]
    monkeypatch.setattr(ggml_library, "find_spec", lambda name: None if name == missing else util.find_spec(name))
    ggml_library.load.cache_clear()
    package = missing.replace("llama_cpp", "llama-cpp-python")
    refused(MissingDependencyError, f"{package} is not installed", nano, tmp_path / "out", recipes, problems=problems)


def occupy(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "thesis.txt").write_text("mine")


@pytest.mark.parametrize(
    "name", ["tiny-q4_0.gguf", "tiny-q4_0-mtp.gguf", "tiny-int4_b32-onnx", IMPORTANCE, report_file.PAGE, disjoint.NAME]
)
def test_what_is_never_replaced_and_lies_in_an_output_s_place(name: str, tiny: Source, tmp_path: Path) -> None:
    manifest.start(tmp_path, tiny, force=False)
    occupy(tmp_path / name)
    refused(OutputExistsError, f"{name}: a folder found", tiny, tmp_path, ["q4_0", "int4_b32"], problems=0)


def test_a_damaged_list_of_what_others_were_calibrated_on(tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path, ["q8_0"], problems=0)
    (tmp_path / disjoint.NAME).write_text("{")
    refused(QuantizationError, disjoint.NAME, tiny, tmp_path, ["q4_0"], problems=0)
    quantize_checkpoint(tiny, tmp_path, ["q8_0"], problems=0, force=True)  # nothing else is to be remembered


def disk(free: int) -> Callable[[Path], SimpleNamespace]:
    return lambda path: SimpleNamespace(free=free)


def test_a_disk_without_room_for_all_files_together(
    tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quantize_checkpoint(tiny, tmp_path / "whole", ["q8_0", "int4_b32"], problems=0)
    sizes = [entry.size_bytes for entry in made.entries]
    weights = sum(sizes) - 150_000  # vocabularies and graphs are not counted

    monkeypatch.setattr("shutil.disk_usage", disk(max(sizes) + 100_000))
    out = tmp_path / "out"
    refused(DiskFullError, "GB needed, .* GB free; make room", tiny, out, ["q8_0", "int4_b32"], problems=0)
    monkeypatch.setattr("shutil.disk_usage", disk(weights))
    refused(DiskFullError, "GB needed", tiny, out, ["q8_0", "int4_b32"], problems=0, effort="high")  # for the states
    monkeypatch.setattr("shutil.disk_usage", disk(sum(sizes)))
    quantize_checkpoint(tiny, out, ["q8_0", "int4_b32"], problems=0)
    monkeypatch.setattr("shutil.disk_usage", disk(max(sizes)))  # one at a time takes the place of an old one
    quantize_checkpoint(tiny, out, ["q8_0", "int4_b32"], problems=0, force=True)
    monkeypatch.setattr("shutil.disk_usage", disk(0))
    quantize_checkpoint(tiny, out, ["q8_0", "int4_b32"], problems=0)  # nothing is to be written


@pytest.mark.needs("onnxruntime_qnn")
def test_a_disk_without_room_for_what_is_compiled_is_refused_before_anything_is_quantized(
    tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = quantize_checkpoint(tiny, tmp_path / "whole", ["int4_b32"], problems=0).entries[0].size_bytes
    monkeypatch.setattr("shutil.disk_usage", disk(size + 1_000_000))
    npu = NpuTarget((soc_named("SM8750"), soc_named("SM8650")), 128)
    refused(
        DiskFullError, "GB needed, .* GB free; make room", tiny, tmp_path / "out", ["int4_b32"], problems=0, npu=npu
    )


def test_another_checkpoint_s_files_stay_when_a_run_with_force_is_refused(tiny: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize_checkpoint(tiny, out, ["q8_0"], problems=0)
    bare = write_tiny_checkpoint(tmp_path / "bare", mtp_layers=0)
    refused(BadArgumentError, "--single-file", bare, out, ["q4_0"], problems=0, single_file=True, force=True)
