"""JSON files of ours as strangers may write them: each wrong value is a named error, each accepted one is sane."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimo_mobile.errors import MimoMobileError, ModelLoadError
from mimo_mobile.layout import read_npu_settings
from mimo_mobile.runtime.onnx.loading import read_config
from tests.test_formats import READERS
from tools import format_documents
from tools.format_cases import GONE, changed

Reader = tuple[Callable[[Path], object], str, type[MimoMobileError]]

CONFIG = {"max_position_embeddings": 32768, "mtp_hidden_state": "pre_norm", "mimo_mobile_synthetic": True}
ALL: dict[str, Reader] = READERS | {"config": (read_config, "config.json", ModelLoadError)}
DOCUMENTS: dict[str, Any] = format_documents.DOCUMENTS | {"config": CONFIG}

DEEP: Any = []
for _ in range(50):
    DEEP = [DEEP]

EVIL = (
    GONE, None, True, False, 0, 1, -1, 1.5, -0.0, 1e308, -1e308, 2**31, 2**53, 10**18, -(10**18), 10**400, "", "x", "1",
    "\x00", "\x1b[31m\n", "../x", "/etc/passwd", "x" * 5000, "计算", [], [[]], [None], ["x"], [-1], [1e308], [10**18],
    [0] * 2000, [[0, 1]] * 1200, {}, {"a": 1}, {"": {}}, {"\x1b\n" * 40: "x"}, {str(n): 0 for n in range(1200)}, DEEP,
)  # fmt: skip


def places(value: Any, place: str = "") -> Iterator[str]:
    """Every place in a document, its root first."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield from places(each, f"{place}.{name}" if place else str(name))


def is_sane(value: object) -> bool:
    """Whether what a reader gave holds numbers that memory can be made for, and texts of bounded length."""
    if dataclasses.is_dataclass(value):
        return all(is_sane(getattr(value, each.name)) for each in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return all(is_sane(each) for each in (*value, *value.values()))
    if isinstance(value, (tuple, list, set)):
        return len(value) <= 1_000_000 and all(is_sane(each) for each in value)
    if isinstance(value, np.ndarray):
        return is_sane(value.tolist())
    if isinstance(value, int):
        return abs(value) < 2**53
    if isinstance(value, str):
        return len(value) <= 4096
    return value is None or isinstance(value, float)  # finite, as JSON has no others


def refused(read: Callable[[Path], object], path: Path, error: type[MimoMobileError]) -> str:
    """The message with which a reader refuses a file, and empty when it takes it."""
    try:
        found = read(path)
    except MimoMobileError as caught:
        message = str(caught)
        assert isinstance(caught, error), message
        assert message.startswith(f"{path}: ") and message.isprintable() and len(message) < 1000, message
        return message
    assert is_sane(found), found
    return ""


@pytest.mark.parametrize("name", ALL)
def test_each_wrong_value_in_each_place_is_a_named_error_or_sane(name: str, tmp_path: Path) -> None:
    read, file, error = ALL[name]
    path, messages = tmp_path / file, []
    for place in places(DOCUMENTS[name]):
        for value in EVIL:
            if place or value is not GONE:
                path.write_text(json.dumps(changed(DOCUMENTS[name], (place, value))), encoding="utf-8")
                messages.append(refused(read, path, error))
    assert len(messages) > 35 and messages.count("") < 0.45 * len(messages)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 << 30)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "circle": lambda path: path.symlink_to(path.name),
    "sparse": sparse,
    "empty": lambda path: path.write_bytes(b""),
    "NUL": lambda path: path.write_bytes(b"\0" * 100),
    "UTF-16": lambda path: path.write_bytes('{"a": 1}'.encode("utf-16")),
    "deep": lambda path: path.write_bytes(b"[" * 1_000_000),
    "deep objects": lambda path: path.write_bytes(b'{"a":' * 1_000_000),
    "many": lambda path: path.write_bytes(b"[" + b"[]," * 5_000_000 + b"0]"),
    "twice": lambda path: path.write_bytes(b'{"a": 1, "a": 2}'),
    "half a pair": lambda path: path.write_bytes(rb'{"a": "\ud800"}'),
    "long number": lambda path: path.write_bytes(b"9" * 1_000_000),
    "large number": lambda path: path.write_bytes(b"[1e400, -1e400]"),
    "NaN": lambda path: path.write_bytes(b"[NaN]"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_files_that_are_no_document_are_named_errors_at_once(kind: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, (read, file, error) in ALL.items():
        path = tmp_path / name / file
        path.parent.mkdir()
        SPECIAL[kind](path)
        assert refused(read, path, error), name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


def test_what_npu_json_says_of_compiling_may_be_missing(tmp_path: Path) -> None:
    graphs = [{"name": "head.1", "size_bytes": 5, "seconds": 0.5, "peak_rss_bytes": 7}, {"name": "a", "size_bytes": 1}]
    (tmp_path / "npu.json").write_text(json.dumps(format_documents.NPU | {"graphs": graphs}))
    found = read_npu_settings(tmp_path)
    assert [(each.seconds, each.peak_rss_bytes) for each in found.graphs] == [(0.5, 7), (None, None)]
    assert found.sizes == {"head.1": 5, "a": 1, "embedding.onnx": 1000}
