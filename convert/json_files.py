"""Text and JSON files of a checkpoint, read strictly: a damaged or hostile file is a CheckpointError."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from mimo_mobile.errors import CheckpointError


def read_text(path: Path) -> str:
    """The text in a file.

    Raises:
        CheckpointError: It cannot be read or is not UTF-8.
    """
    try:
        return _decoded(path.read_bytes(), path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: It cannot be read, is no JSON object, is not UTF-8, or has a key twice.
    """
    try:
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in bytes that came from ``path``.

    Raises:
        CheckpointError: No JSON object in UTF-8, one with a key twice, or one with half a surrogate pair in a text.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise CheckpointError(f"{path}: the key {twice!r} is there twice; a damaged or hostile file")
        return made

    def no_constant(text: str) -> Any:
        raise CheckpointError(f"{path}: {text} found, which is no JSON")

    text = _decoded(data, path)
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
        if "\\u" in text:  # only an escape can stand for half a surrogate pair, which no file can be written with
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{path}: half a surrogate pair found, which is no text; download it again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON {type(value).__name__} found, an object expected")
    return value


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 (byte {error.start}); download it again") from error
