"""ONNX folders that are damaged or lie: an error, never the end of the process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.errors import ModelLoadError
from mimo_mobile.runtime import load


def drop_chat_files(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


ONNX: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty graph": (lambda f: (f / "model.onnx").write_bytes(b""), "inputs none found; attention_mask, input_ids"),
    "no graph": (lambda f: (f / "model.onnx").write_bytes(b"\xff" * 100), "model.onnx: not a readable ONNX file"),
    "data missing": (lambda f: (f / "model.onnx.data").unlink(), "model.onnx.data is missing"),
    "data cut": (lambda f: (f / "model.onnx.data").write_bytes(b"\0" * 4096), "of model.onnx.data, which has 4096"),
    "template no UTF-8": (lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"), "chat_template.jinja: not UTF-8"),
    "no tokenizer": (drop_chat_files, "tokenizer.json: cannot be read"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: cannot be read: No such file"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "the document: an object expected"),
    "the MTP graph": (lambda f: (f / "mtp.onnx").replace(f / "model.onnx"), "input_ids, logits_start and a KV cache"),
}  # fmt: skip


@pytest.mark.parametrize("case", ONNX)
def test_a_bad_onnx_folder_is_an_error(case: str, tiny_onnx: Path, tmp_path: Path) -> None:
    change, message = ONNX[case]
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "x"))
    change(folder)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_model_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no such file; a \.gguf file, an ONNX folder"):
        load(tmp_path / "nothing.gguf")
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(ModelLoadError, match="another file"):
        load(tmp_path / "model.bin")
    (tmp_path / "manifest.json").write_text(json.dumps({"manifest_version": 9}))
    with pytest.raises(
        Exception, match="a newer MiMo Mobile wrote it: manifest_version is 9, 2 is the newest known here"
    ):
        load(tmp_path)
    with pytest.raises(ValueError, match="threads 0 is out of range"):
        load(tmp_path, threads=0)
