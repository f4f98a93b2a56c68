"""ONNX models as this machine's kernels want them, kept on disk and mapped into memory.

ONNX Runtime rearranges ("prepacks") int4 weights for the CPU at every load, into memory of its own: more than the
file's size that the system cannot take back, once for each process. Here the first load saves the rearranged model,
and every load maps it. An entry holds for one version of ONNX Runtime, one CPU and the content of the model's files;
its own files are used only while their content is what was saved.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimo_mobile import cache, cache_folder, checksums, files, graph_file, untrusted
from mimo_mobile.cache import PREPACKED, RECORD, Record, Sum, Sums, cpu
from mimo_mobile.errors import BadArgumentError, DiskFullError, ModelLoadError, OutputExistsError
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

MOST_GRAPH_BYTES = 100_000_000
"""A graph with more holds its weights itself; MiMo-7B's has 1 MB."""

_LOCATION = b"\n\x08location\x12"
"""How a protobuf message begins that names a file with a tensor's data; the length of the name and the name follow."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model's entry belongs.

    Attributes:
        model: The .onnx file, with its data beside it.
        source: What both are.
        folder: The entry's folder, whose name is a hash of that and of this machine.
    """

    model: Path
    source: Sums
    folder: Path


def weight_bytes(model: Path) -> int:
    """How many bytes of the data file a model's graph uses."""
    return graph_file.read(model).external_bytes if model.with_name(DATA).is_file() else 0


def place(ort: Any, model: Path, kernels: Mapping[str, str] | None = None) -> Place | None:
    """Where a model's entry belongs; None when nothing can be kept of it.

    The first time, this reads the model's data whole; afterwards their hash is remembered.

    Args:
        ort: The module onnxruntime.
        model: The .onnx file, with its data beside it.
        kernels: Settings of the session that choose kernels other than the usual ones.
    """
    root = cache_folder.root()
    if root is None:
        return None
    named = hashlib.sha256(os.fsencode(model.resolve())).hexdigest()[:16]
    parent = root / PREPACKED / f"{cache_folder.short(model.parent.name)}-{named}"
    try:
        cache_folder.make(parent)
        for each in (root, model.resolve()):
            os.fsencode(each).decode()  # ONNX Runtime and records take UTF-8 only
        graph = untrusted.read_bytes(model, most=MOST_GRAPH_BYTES)
        if model.with_name(DATA).stat().st_size > cache.limit_bytes():
            raise OSError(f"{model.with_name(DATA)}: larger than MIMO_CACHE_LIMIT")
        if graph.count(_LOCATION) != graph.count(_LOCATION + bytes([len(DATA)]) + DATA.encode()):
            logger.info("%s: its weights are not in %s alone, so that no entry could be bound to them", model, DATA)
            return None
        source = Sums.of(model)
    except (OSError, UnicodeDecodeError, BadArgumentError) as error:
        cache_folder.tell(f"{parent}: cannot keep prepacked weights: {error}")
        return None
    parts = ort.__version__, cpu(), source.graph.sha256, source.data.sha256, *sorted((kernels or {}).items())
    return Place(model, source, parent / hashlib.sha256(repr(parts).encode()).hexdigest()[:16])


def ready(place: Place) -> Path | None:
    """The folder of a model's entry; None when there is no whole one whose content is what was saved."""
    folder = place.folder
    if not all(cache_folder.is_ours(folder / name) for name in (RECORD, MODEL, DATA)):
        return None
    try:
        record = cache.read_record(folder / RECORD)
        if record.source != place.source:
            raise ModelLoadError(f"{folder}: of another model")
        if not record.files.fit(folder / MODEL):
            raise ModelLoadError(f"{folder}: not what was saved")
    except (ModelLoadError, OSError) as error:
        logger.warning("%s; it is made anew", untrusted.printable(str(error)))
        return None
    cache.touch(folder)
    return folder


def make(ort: Any, place: Place, needed_bytes: int, options: Any) -> Path | None:
    """The folder of a model's new entry; None when that is not possible.

    This is safe against being killed, and against other processes that do the same at the same time: they load without
    an entry.

    Args:
        ort: The module onnxruntime.
        place: Where it belongs.
        needed_bytes: How much room it takes.
        options: The ``SessionOptions`` that the entry is made with; they are changed.
    """
    folder, model = place.folder, place.model
    try:
        with files.locked(folder.parent):
            if found := ready(place):  # another process has made it meanwhile
                return found
            cache.remove_unfinished(folder.parent)
            for old in cache.goes_for(needed_bytes, folder.parent):
                logger.info("%s: removed, for a new entry", old.path)
                cache.remove(old.path)
            if os.path.lexists(folder):
                raise OutputExistsError(f"{folder}: holds what is not ours; remove it")
            room = f"{needed_bytes / 1e9:.1f} GB in {folder}"
            logger.info("%s: prepacking for this CPU, once (%s)", model.parent.name, room)
            with files.whole(folder, force=True) as temporary:
                sums = _save(ort, model, temporary, options)
                cache.write_record(temporary, Record(str(model.resolve()), place.source, sums))
                (temporary / RECORD).chmod(0o600)
            checksums.remember(folder / MODEL, sums.graph.sha256)
            checksums.remember(folder / DATA, sums.data.sha256)
    except (OutputExistsError, DiskFullError) as error:
        told = f"{model.parent.name}: cannot keep prepacked weights: {error}; loading without"
        logger.warning("%s", untrusted.printable(told))
        return None
    except Exception as error:  # a full disk, or what ONNX Runtime calls it: its exceptions share no public base
        told = f"{folder.parent}: cannot keep prepacked weights: {first_line(error)}; loading without"
        logger.warning("%s", untrusted.printable(told))
        return None
    return folder


def discard(place: Place) -> None:
    """Remove a model's entry that cannot be loaded; an entry that cannot be removed stays."""
    cache.remove(place.folder)


def _save(ort: Any, model: Path, folder: Path, options: Any) -> Sums:
    """Have a session save what it makes of a model, into a folder that it makes."""
    folder.mkdir(0o700)
    options.optimized_model_filepath = str(folder / MODEL)
    for key, value in _SAVE.items():
        options.add_session_config_entry(key, value)
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for name in (MODEL, DATA):
        (folder / name).chmod(0o600)
    return Sums(*(Sum(path.stat().st_size, files.sha256(path)) for path in (folder / MODEL, folder / DATA)))
