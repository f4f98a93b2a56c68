"""Importance matrices: how much an error of each weight's column matters, in memory and in llama.cpp's files.

In memory they are mean squares by the checkpoint's tensor names (``Importance``); llama.cpp keeps sums of squares by
GGUF names, in a GGUF file or, until 2025, in a binary form of its own. Its tools read ours, and we read theirs.
This module knows nothing of how they are measured or weighed with.

Source: https://github.com/ggml-org/llama.cpp/blob/0c1e57098/common/imatrix-loader.cpp
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import files, untrusted
from mimo_mobile.convert.formats import Importance
from mimo_mobile.convert.tensors import EMBEDDING, HEAD, TRUNK_NAMES, Mapped, map_tensor
from mimo_mobile.errors import ModelLoadError, QuantizationError, require
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.mimo7b import MimoConfig

if TYPE_CHECKING:
    from gguf import GGUFWriter

logger = logging.getLogger(__name__)

CHUNK_TOKENS = 512
"""So many tokens llama.cpp computes at once when it measures, if not told otherwise."""

MOST_OLD_BYTES = 1 << 28
"""An old file of MiMo-7B has 5 MB."""

_SUMS, _COUNTS = ".in_sum2", ".counts"

_LARGEST, _LEAST = 2.0**60, 2.0**-80
"""Within these ggml's sums of weighted squares neither overflow nor vanish."""


def positive(importance: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """The importance [columns] as quantizers can weigh with it: positive, and with room for sums of squares.

    A column that was always zero gets a very small weight: with none, ggml stores a whole block of such columns as
    zeros, and a text that does need them would miss them. All other numbers stay as they are, but for a common power of
    two when they are far too large or small for float32, which decides nothing.

    Raises:
        QuantizationError: It has another length, or a number in it is negative, infinite or none at all.
    """
    if importance.shape != (columns,):
        raise QuantizationError(f"importance of {importance.size} columns found, of {columns} expected")
    largest = float(importance.max())
    if not (math.isfinite(largest) and importance.min() >= 0):  # neither holds for NaN
        raise QuantizationError("an importance that is negative, NaN or infinite found; measure it again")
    if largest == 0:
        return np.ones(columns, np.float32)
    if not 1 / _LARGEST <= largest <= _LARGEST:
        importance = np.ldexp(importance, -math.frexp(largest)[1])
    return np.ascontiguousarray(np.maximum(importance, np.float32(_LEAST)), np.float32)


def matrices(config: MimoConfig) -> dict[str, tuple[Mapped, int]]:
    """Every matrix that has an importance: its name in the checkpoint → what it becomes in GGUF, and its columns.

    The embedding has none: its rows are looked up, and multiplied with nothing.
    """
    found: dict[str, tuple[Mapped, int]] = {}
    for name, shape in config.tensor_shapes().items():
        target = map_tensor(name, config.num_hidden_layers)
        if len(shape) == 2 and name != EMBEDDING and isinstance(target, Mapped):
            found[name] = target, shape[1]
    return found


def write_importance(
    out: Path, importance: Importance, config: MimoConfig, *, tokens: int, datasets: Sequence[str], force: bool = False
) -> Path:
    """Write an importance matrix as llama.cpp's tools read it (``llama-quantize --imatrix``), and return its path.

    llama.cpp's form holds sums in float32: what is read again may differ from ``importance`` in the last bit, so that
    whoever wants llama-quantize's bytes quantizes by what was read.

    Args:
        out: The file, such as ``importance.imatrix``.
        importance: Mean squares by the checkpoint's tensor names.
        config: The checkpoint's configuration.
        tokens: How many tokens were measured.
        datasets: What was measured, in words.
        force: Replace ``out``.

    Raises:
        OutputExistsError: ``out`` is there and ``force`` is false.
        MissingDependencyError: gguf is not installed.
    """
    gguf = require("gguf", "gguf")
    known = matrices(config)
    with files.whole(out, force=force) as temporary:
        writer: GGUFWriter = gguf.GGUFWriter(temporary, "")
        try:
            writer.kv_data[0].pop("general.architecture", None)  # which the files of llama.cpp do not have
            writer.add_type(gguf.GGUFType.IMATRIX)
            writer.add_array("imatrix.datasets", list(datasets))
            writer.add_uint32("imatrix.chunk_count", -(-tokens // CHUNK_TOKENS))
            writer.add_uint32("imatrix.chunk_size", CHUNK_TOKENS)
            for name, means in sorted(importance.items(), key=lambda each: known[each[0]][0].name):
                target, _ = known[name]
                writer.add_tensor(target.name + _SUMS, _in_place(means, target) * np.float32(tokens))
                writer.add_tensor(target.name + _COUNTS, np.array([tokens], np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return out


def read_importance(path: Path, config: MimoConfig) -> dict[str, NDArray[np.float32]]:
    """The importance matrix in a file of llama.cpp's tools or ours, by the checkpoint's tensor names.

    A matrix that the file says nothing of is left out, and so it is quantized without, as llama-quantize does: of its
    own accord llama-imatrix measures neither the head nor an MTP layer. A matrix that no token reached matters evenly.

    Raises:
        QuantizationError: The file cannot be read, is damaged, or belongs to another model.
    """
    known = matrices(config)
    names = {target.name: name for name, (target, _) in known.items()}
    found: dict[str, NDArray[np.float32]] = {}
    try:
        for gguf_name, means in _entries(path):
            if gguf_name == TRUNK_NAMES[EMBEDDING]:
                continue
            if gguf_name not in names:
                shown = untrusted.printable(gguf_name)
                raise _error(path, f"it measures {shown:.80}, which this model does not have")
            name = names[gguf_name]
            target, columns = known[name]
            if means.shape != (columns,):
                raise _error(path, f"{gguf_name}: {means.size} columns found, {columns} expected")
            if not (np.isfinite(means).all() and means.min() >= 0):
                raise _error(path, f"{gguf_name}: a number that is negative, NaN or infinite found")
            found[name] = _in_place(means, target)
    except OSError as error:
        raise QuantizationError(f"{path}: cannot be read: {error.strerror}") from error
    except ModelLoadError as error:
        raise QuantizationError(str(error)) from error
    if not found:
        raise _error(path, "no tensor measured")
    missing = [name for name, (target, _) in known.items() if name not in found and target.part == "trunk"]
    if missing and missing != [HEAD]:
        logger.warning("%s: says nothing of %d matrices, %s among them", path, len(missing), missing[0])
    return found


def _in_place(means: NDArray[np.float32], target: Mapped) -> NDArray[np.float32]:
    """The columns in GGUF's order, or from it in the checkpoint's: where halves are swapped, both ways are one."""
    return np.roll(means, means.size // 2) if target.swap_halves else means


def _entries(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """GGUF names and mean squares, as a file has them."""
    with untrusted.opened(path) as file:
        beginning = file.read(4)
    return _new_entries(path) if beginning == b"GGUF" else _old_entries(path)


def _new_entries(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    header = GgufHeader(path)
    kind = header.value("general.type")
    if kind != "imatrix":
        raise _error(path, f"general.type {untrusted.printable(repr(kind)):.80} found, 'imatrix' expected")
    for sums_name, tensor in header.tensors.items():
        name, is_sums = sums_name.removesuffix(_SUMS), sums_name.endswith(_SUMS)
        if not is_sums:
            continue
        counts = header.tensors.get(name + _COUNTS)
        if counts is None or counts.type != "F32" or math.prod(counts.shape) != 1 or tensor.bytes > MOST_OLD_BYTES:
            raise _error(path, f"{untrusted.printable(name):.80}: one count in float32 beside its sums expected")
        (count,) = header.float32(name + _COUNTS)
        if not 0 <= count < 2**53:
            raise _error(path, f"{untrusted.printable(name):.80}: a count of {count} found")
        yield name, _means(header.float32(sums_name), round(float(count)))


def _old_entries(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """What a file of the old form holds; it ends with a count of chunks and a file's name, which may be missing."""
    data, place = untrusted.read_bytes(path, MOST_OLD_BYTES), 0

    def take(size: int) -> bytes:
        nonlocal place
        start, place = place, place + size
        if size < 0 or place > len(data):
            raise _error(path, f"it ends after {len(data):,} bytes, or is no importance matrix at all")
        return data[start:place]

    def number() -> int:
        return int(struct.unpack("<i", take(4))[0])

    for _ in range(number()):
        name = take(number()).decode("utf-8", "replace")
        calls, columns = number(), number()
        sums = np.frombuffer(take(4 * columns), np.dtype("<f4")).astype(np.float32)
        yield name, _means(sums, calls) if calls > 0 else sums


def _means(sums: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):  # NaN is found afterwards
        return sums / np.float32(count) if count else np.ones_like(sums)


def _error(path: Path, found: str) -> QuantizationError:
    return QuantizationError(f"{path}: {found}; no importance matrix of this model, or a damaged one: measure it again")
