"""Model files that are damaged or lie: an error, never the end of the process."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.hub import Source
from mimo_mobile.runtime import load


def header_value(path: Path, key: str, value: int) -> None:
    """Overwrite a 32-bit number in a GGUF header."""
    data = bytearray(path.read_bytes())
    place = data.index(key.encode()) + len(key) + 4
    data[place : place + 4] = struct.pack("<I", value)
    path.write_bytes(data)


def text_value(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new, 1))


FOUR, FIVE = struct.pack("<Q", 4), struct.pack("<Q", 5)

GGUF: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "no valid GGUF file"),
    "bad magic": (lambda p: text_value(p, b"GGUF", b"GGML"), "no valid GGUF file"),
    "header only": (lambda p: p.write_bytes(p.read_bytes()[:24]), "no valid GGUF file"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-4096]), "no valid GGUF file|llama.cpp cannot load it"),
    "no layers": (lambda p: header_value(p, "qwen2.block_count", 0), r"block_count 0 found, 1…512"),
    "600 layers": (lambda p: header_value(p, "qwen2.block_count", 600), r"block_count 600 found"),
    "no heads": (lambda p: header_value(p, "qwen2.attention.head_count", 0), "head_count 0 found"),
    "other heads": (lambda p: header_value(p, "qwen2.attention.head_count_kv", 3), "llama.cpp cannot load it"),
    "no width": (lambda p: header_value(p, "qwen2.embedding_length", 0), "embedding_length 0 found"),
    "more layers": (lambda p: header_value(p, "qwen2.block_count", 5), "llama.cpp cannot load it"),
    "another model": (lambda p: text_value(p, FIVE + b"qwen2", FIVE + b"llama"), "'llama' found"),
    "another tokenizer": (lambda p: text_value(p, FOUR + b"gpt2", FOUR + b"bert"), "not a MiMo-7B"),
    "wrong type": (lambda p: text_value(p, b"ggml.merges", b"ggml.mergez"), "ggml.merges is missing"),
}  # fmt: skip


SINGLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no layers": (lambda p: header_value(p, "step35.block_count", 0), r"block_count 0 found, 1…512"),
    "600 layers": (lambda p: header_value(p, "step35.block_count", 600), r"block_count 600 found"),
    "more MTP layers than layers": (lambda p: header_value(p, "step35.nextn_predict_layers", 9), "9 MTP layers among"),
    "no MTP layers": (lambda p: header_value(p, "step35.nextn_predict_layers", 0), "0 MTP layers among"),
    "no window": (lambda p: no_window(p), "a sliding window for 3 layers expected"),
    "another norm": (lambda p: text_value(p, b"output_norm", b"output_morn"), "output_norm.weight in float32 expected"),
}  # fmt: skip


def no_window(path: Path) -> None:
    """All false, on which llama.cpp aborts."""
    data = bytearray(path.read_bytes())
    key = b"attention.sliding_window_pattern"
    start = data.index(key) + len(key) + 4 + 4 + 8
    data[start : start + 3] = bytes(3)
    path.write_bytes(data)


@pytest.mark.parametrize("case", SINGLE)
def test_a_bad_single_file_is_an_error(case: str, tiny: Source, tmp_path: Path) -> None:
    change, message = SINGLE[case]
    path = convert_checkpoint(tiny, tmp_path / "x.gguf", to="gguf", dtype="f32", single_file=True)[0]
    change(path)
    code = f"from mimo_mobile.runtime import load; load({str(path)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1, result
    last = result.stderr.strip().splitlines()[-1]
    assert "ModelLoadError" in last and re.search(message, last), last


@pytest.mark.parametrize("case", GGUF)
def test_a_bad_gguf_is_an_error(case: str, tiny_gguf: Path, tmp_path: Path) -> None:
    change, message = GGUF[case]
    path = Path(shutil.copyfile(tiny_gguf, tmp_path / "x.gguf"))
    change(path)
    # In a process of its own: what this guards against would take the tests with it.
    code = f"from mimo_mobile.runtime import load; load({str(path)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1, result
    assert "ModelLoadError" in result.stderr.strip().splitlines()[-1]
    with pytest.raises(ModelLoadError, match=message):
        load(path)


def drop_chat_files(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


ONNX: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty graph": (lambda f: (f / "model.onnx").write_bytes(b""), "ONNX Runtime cannot load it"),
    "no graph": (lambda f: (f / "model.onnx").write_bytes(b"\xff" * 100), "ONNX Runtime cannot load it"),
    "data missing": (lambda f: (f / "model.onnx.data").unlink(), "ONNX Runtime cannot load it"),
    "data cut": (lambda f: (f / "model.onnx.data").write_bytes(b"\0" * 4096), "ONNX Runtime cannot load it"),
    "template no UTF-8": (lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"), "chat_template.jinja: not UTF-8"),
    "no tokenizer": (drop_chat_files, "tokenizer.json: cannot be read"),
    "no config": (lambda f: (f / "config.json").unlink(), "max_position_embeddings expected"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "max_position_embeddings expected"),
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
