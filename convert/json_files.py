"""Text and JSON files of a checkpoint, read strictly: a damaged or hostile file is a CheckpointError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimo_mobile import untrusted
from mimo_mobile.errors import CheckpointError


def present(path: Path) -> bool:
    """Whether there is a file at a path.

    Raises:
        CheckpointError: There is something else, such as a pipe, a device, a folder or a link that leads nowhere.
    """
    if path.is_file():
        return True
    try:
        found = untrusted.kind(path)
    except OSError as error:
        if path.is_symlink():
            raise CheckpointError(f"{path}: a link that leads nowhere found, a file expected") from error
        if isinstance(error, FileNotFoundError):
            return False
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    raise CheckpointError(f"{path}: {found} found, a file expected")


def read_text(path: Path) -> str:
    """The text in a file.

    Raises:
        CheckpointError: It cannot be read or is not UTF-8.
    """
    try:
        return untrusted.decoded(read_bytes(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; download it again") from error


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that is no larger than a checkpoint's text files are.

    Raises:
        CheckpointError: It cannot be read, or is larger.
    """
    try:
        return untrusted.read_bytes(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: It cannot be read, is no JSON object, is not UTF-8, or has a key twice.
    """
    return _object(read_text(path), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in bytes that came from ``path``.

    Raises:
        CheckpointError: No JSON object in UTF-8, one with a key twice, or one with half a surrogate pair in a text.
    """
    try:
        return _object(untrusted.decoded(data), path)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; download it again") from error


def _object(text: str, path: Path) -> dict[str, Any]:
    try:
        value = untrusted.parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: no valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON {type(value).__name__} found, an object expected")
    return value
