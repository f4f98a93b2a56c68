"""ONNX folders that are damaged or lie: an error, never the end of the process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.errors import ModelLoadError
from mimo_mobile.layout import mtp_file
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


@pytest.mark.parametrize("kind", ["trunk", "nonsense", "folder", "pipe", "dangling"])
def test_what_is_called_like_an_mtp_layer_and_is_none_is_an_error(kind: str, nano_gguf: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(nano_gguf, tmp_path / "x.gguf"))
    beside = mtp_file(model)
    if kind == "trunk":
        shutil.copy(nano_gguf, beside)
    elif kind == "nonsense":
        beside.write_bytes(b"nonsense")
    elif kind == "folder":
        beside.mkdir()
    elif kind == "pipe":
        os.mkfifo(beside)
    else:
        beside.symlink_to(tmp_path / "gone")
    found = r"architecture qwen2 found, step35 expected .* move the file away" if kind == "trunk" else ".+"
    with pytest.raises(ModelLoadError, match=rf"x-mtp\.gguf: {found}"):
        load(model, cache=False)
    load(model, speculate="ngram", cache=False).close()


def test_names_that_are_not_utf8_work_with_llama_cpp_and_say_what_to_do_with_onnx(
    nano_q4: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    onnx = Path(shutil.copytree(nano_q4["onnx"], folder))
    load(shutil.copy(nano_q4["gguf"], folder), cache=False).close()
    with pytest.raises(ModelLoadError, match=r"not UTF-8 found, in which ONNX Runtime opens no file; rename"):
        load(onnx, cache=False)
