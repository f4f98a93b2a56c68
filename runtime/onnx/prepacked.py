"""ONNX models as this machine's kernels want them, kept on disk and mapped into memory.

ONNX Runtime rearranges ("prepacks") int4 weights for the CPU at every load, into memory of its own: more than the
file's size that the system cannot take back, once for each process. Here the first load saves the rearranged model,
and every load maps it. An entry holds for one version of ONNX Runtime, one CPU and one state of the model's files.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mimo_mobile import files
from mimo_mobile.cache import PREPACKED, cache_folder, cpu, limit_bytes, make_room, touch, write_record
from mimo_mobile.errors import OutputExistsError
from mimo_mobile.layout import DATA, MODEL
from mimo_mobile.onnxruntime_library import first_line

logger = logging.getLogger(__name__)

LEAST_BYTES = 64_000_000
"""Models with fewer bytes of weights get no entry, as they load in no time without one."""

GROWTH = 2.4
"""How many times its model's size an entry is reckoned to take; 2.2 was measured. It holds the original weights,
too: each load rearranges them once more, one by one, and takes the file's copy when the hash is the same."""

_SAVE = {
    "session.save_external_prepacked_constant_initializers": "1",
    "session.optimized_model_external_initializers_file_name": DATA,
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}


def entry(ort: Any, model: Path) -> Path | None:
    """The folder of a model's entry; None when there is no whole one.

    Args:
        ort: The module onnxruntime.
        model: The .onnx file, with its data beside it.
    """
    try:
        folder = _folder(ort, model)
        return folder if (folder / MODEL).is_file() and (folder / DATA).is_file() else None
    except OSError as error:
        logger.warning("%s: cannot be read: %s", cache_folder(), error)
        return None


def weight_bytes(model: Path) -> int:
    """How many bytes of the data file a model's graph uses; the size of the file when onnx is not installed."""
    data = model.with_name(DATA)
    if not data.is_file():
        return 0
    if find_spec("onnx") is None:
        return data.stat().st_size
    import onnx

    tensors = onnx.load(str(model), load_external_data=False).graph.initializer
    return sum(int(each.value) for tensor in tensors for each in tensor.external_data if each.key == "length")


def prepare(ort: Any, model: Path, options: Any) -> Path | None:
    """The folder of a model's entry, made when it is not there; None when that is not worth it or not possible.

    This is safe against being killed, and against other processes that do the same at the same time: they load without
    an entry.

    Args:
        ort: The module onnxruntime.
        model: The .onnx file, with its data beside it.
        options: The ``SessionOptions`` that the entry is made with; they are changed.
    """
    size = weight_bytes(model)
    if size < LEAST_BYTES:
        return None
    if found := entry(ort, model):
        touch(found)
        return found
    folder, needed = _folder(ort, model), int(GROWTH * size)
    try:
        with files.locked(folder.parent):
            files.remove_partials(folder.parent)
            for old in folder.parent.iterdir():  # of an earlier version of ONNX Runtime or of the model
                if old.is_dir():
                    files.remove(old)
            if fits := needed <= limit_bytes():
                make_room(needed)
            if (free := shutil.disk_usage(folder.parent).free) < needed:
                logger.warning(
                    "%s: %.1f GB free, %.1f GB needed to keep prepacked weights; loading will take memory instead"
                    " (MIMO_CACHE chooses another folder)", folder.parent, free / 1e9, needed / 1e9,
                )  # fmt: skip
                return None
            if not fits:
                logger.warning("%s: larger than MIMO_CACHE_LIMIT; loading will take memory instead", folder.parent)
                return None
            logger.info("%s: prepacking for this CPU, once (%.1f GB in %s)", model.parent.name, needed / 1e9, folder)
            with files.whole(folder, force=True) as temporary:
                temporary.mkdir()
                options.optimized_model_filepath = str(temporary / MODEL)
                for key, value in _SAVE.items():
                    options.add_session_config_entry(key, value)
                ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
                write_record(temporary, model)
    except OutputExistsError:
        logger.info("%s: another process is prepacking; loading without", model.parent.name)
        return None
    except Exception as error:  # a full disk, or what ONNX Runtime calls it: its exceptions share no public base
        logger.warning("%s: cannot keep prepacked weights: %s; loading without", folder.parent, first_line(error))
        return None
    return entry(ort, model)


def discard(ort: Any, model: Path) -> None:
    """Remove a model's entry that cannot be loaded; an entry that cannot be removed stays."""
    try:
        files.remove(_folder(ort, model))
    except OSError as error:
        logger.warning("%s: cannot be removed: %s", _folder(ort, model), error)


def _folder(ort: Any, model: Path) -> Path:
    """Where a model's entry belongs.

    The graph is hashed. Its data of some gigabytes are told apart by size and time of change, as hashing them would
    take as long as the entry saves.
    """
    state = model.with_name(DATA).stat()
    parts = ort.__version__, cpu(), hashlib.sha256(model.read_bytes()).hexdigest(), state.st_size, state.st_mtime_ns
    place = hashlib.sha256(str(model.resolve()).encode()).hexdigest()[:16]
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return cache_folder() / PREPACKED / f"{model.parent.name}-{place}" / key
