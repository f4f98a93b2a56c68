"""A checkpoint's folder: a JSON object of file names, each with its JSON, or as a text with its bytes in Latin-1.

A safetensors file is given as its header; the bytes that it promises follow as zeros, which cost nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from mimo_mobile import inspection
from mimo_mobile.convert.checkpoint import Checkpoint
from tests.fuzz.mutations import json_mutator
from tests.fuzz.scratch import scratch
from tests.tiny import write_tiny_checkpoint

WEIGHTS = ".safetensors"
FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.json",
    "chat_template.jinja", "model.safetensors.index.json", "model.safetensors", "adapter_config.json",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "draft_vocabulary.json", "heldout.jsonl",
)  # fmt: skip


def check(data: bytes) -> None:
    """Open the folder as `mimo convert` and `mimo inspect` do."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    folder = scratch() / "checkpoint"
    folder.mkdir()
    try:
        for name, content in found.items() if isinstance(found, dict) else ():
            if name in FILES:
                _write(folder / name, content)
        inspection.inspect(folder, tensors=True)
        Checkpoint.open(folder)
    finally:
        shutil.rmtree(folder)


def mutate(data: bytes, random: Random) -> bytes | None:
    """The same folder with values changed."""
    return json_mutator(data, random)


def seeds() -> Iterator[bytes]:
    """A tiny checkpoint in one file and in two, its tokenizer cut down to what each input can carry."""
    for shards in (1, 2):
        with tempfile.TemporaryDirectory() as name:
            folder = write_tiny_checkpoint(Path(name), layers=1, shards=shards)
            yield json.dumps({file: _read(folder / file) for file in FILES if (folder / file).is_file()}).encode()


def _write(file: Path, content: Any) -> None:
    text = content.encode("latin-1", "replace") if isinstance(content, str) else json.dumps(content).encode()
    if not file.name.endswith(WEIGHTS):
        file.write_bytes(text)
        return
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    ends = [each["data_offsets"][-1] for each in content.values() if _has_offsets(each)] if _is_object(content) else []
    ends = [each for each in ends if isinstance(each, int) and 0 <= each < 1 << 34]
    os.truncate(file, 8 + len(text) + max(ends, default=0))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _has_offsets(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("data_offsets"), list) and value["data_offsets"] != []


def _read(file: Path) -> Any:
    if file.name.endswith(WEIGHTS):
        data = file.read_bytes()
        return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else file.read_text(encoding="utf-8")
