"""A folder of binaries for an NPU: which one is meant, and what it says of itself. This module loads nothing."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import npu_memory, untrusted
from mimo_mobile.errors import BackendUnavailableError, ModelLoadError
from mimo_mobile.layout import DRAFT_IDS, MOST_TOKENS, NPU_SETTINGS, NpuSettings
from mimo_mobile.providers import QnnOptions
from mimo_mobile.runtime.devices import memory
from mimo_mobile.runtime.devices.memory import MemoryNeed
from mimo_mobile.socs import soc_named

logger = logging.getLogger(__name__)

_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<i8', 'fortran_order': False, 'shape': \((\d{1,9}),\), \} *\n", re.DOTALL
)
"""How a file of 64-bit integers begins, see https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html."""


def find(folder: Path, options: QnnOptions) -> Path | None:
    """The binaries in an ONNX folder: those of ``options.soc``, else the only ones; None when there are none.

    Raises:
        ModelLoadError: They are not in the folder itself.
        BackendUnavailableError: There are none for that chip, or there are several and no chip was named.
    """
    prefix = "qnn" if options.activations == "float" else "qdq"
    found = sorted(path.parent for path in folder.glob(f"{prefix}-*/{NPU_SETTINGS}"))
    for path in found:
        try:
            untrusted.inside(folder, path.name)
        except ValueError as error:
            raise ModelLoadError(f"{folder}: {error}") from error
    if options.soc:
        name = soc_named(options.soc).name
        found = [path for path in found if path.name == f"{prefix}-{name}"]
        if not found:
            raise BackendUnavailableError(
                f"{folder}: nothing compiled for {name}; run mimo quantize … --target {prefix} --soc {name}"
            )
    if len(found) > 1:
        names = ", ".join(path.name.removeprefix(f"{prefix}-") for path in found)
        raise BackendUnavailableError(f"{folder}: compiled for {names}; say which with --ep-option soc=…")
    return found[0] if found else None


def compiled_for(folder: Path) -> list[str]:
    """The chips that an ONNX folder has binaries for."""
    names = [path.parent.name for path in folder.glob(f"q??-*/{NPU_SETTINGS}")]
    return sorted(name.replace("qnn-", "").replace("qdq-", "uint16 on ") for name in names)


def choose_memory(folder: Path, settings: NpuSettings) -> None:
    """Log what binaries will take of this device's memory, piece by piece, before any of them is loaded.

    Raises:
        ModelLoadError: A graph cannot be read.
        MemoryFullError: There is no room.
    """
    found = npu_memory.compiled(folder, settings)
    level = logging.INFO if found.npu_bytes >= memory.WORTH_SAYING_BYTES else logging.DEBUG
    logger.log(level, "%s: %s", folder, found)
    for piece in found.pieces:
        logger.log(level, "%s: %s", folder.name, piece)
    need = MemoryNeed(
        way=f"on the NPU, {found};",
        copied_bytes=found.npu_bytes,
        kv_bytes=found.npu_cache_bytes + found.cache_bytes,
        mapped_bytes=found.embedding_bytes,
    )
    memory.choose(folder, [need], f"compile again with a --context of less than {found.context_length}")


def draft_ids(folder: Path) -> NDArray[np.int64]:
    """The tokens [R] that the draft head in a folder of binaries scores.

    Raises:
        ModelLoadError: They cannot be read.
    """
    path = folder / DRAFT_IDS
    try:
        data = untrusted.read_bytes(path)
        begin = _NPY.match(data)
        if begin is None or begin.end() != 10 + int.from_bytes(begin[1], "little"):
            raise ValueError("no NumPy file of 64-bit integers")
        ids = np.frombuffer(data, "<i8", offset=begin.end()).astype(np.int64)
        if len(ids) != int(begin[2]) or not len(ids) or ids.min() < 0 or ids.max() > MOST_TOKENS:
            raise ValueError("other tokens than it promises")
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error.strerror}; compile again") from error
    except ValueError as error:
        raise ModelLoadError(f"{path}: {error}; compile again") from error
    return ids
