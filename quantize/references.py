"""What a reference predicts for a text: computed layer by layer from a checkpoint, or by the runtime, and kept.

A checkpoint larger than the memory is read once for all windows. What comes out is kept in the cache by the
checkpoint's fingerprint and the text, together with the text, so that all files of a checkpoint are measured on the
same one.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import cache, cache_folder, untrusted
from mimo_mobile.errors import DiskFullError
from mimo_mobile.layout import MOST_TOKENS
from mimo_mobile.progress import Progress, ProgressCallback, ignore
from mimo_mobile.quantize import forward
from mimo_mobile.quantize.measures import MOST_KEPT, UNCOVERED, TopRows, top_rows
from mimo_mobile.quantize.texts import Window

if TYPE_CHECKING:
    from mimo_mobile.convert.checkpoint import Checkpoint
    from mimo_mobile.runtime import Model

VERSION = 1
"""Of the files; what another version wrote is computed anew."""

_ARRAYS = ("starts", "ids", "log_probs", "rest", "targets", "target_log_probs")


def of_checkpoint(checkpoint: Checkpoint, windows: Sequence[Window], progress: ProgressCallback = ignore) -> TopRows:
    """What a checkpoint predicts in float32; each of its weights is read once, a layer at a time.

    Raises:
        NumericsError: It computes NaN or infinity.
    """
    config, tensors = checkpoint.config, checkpoint.tensors
    states = forward.run(config, tensors, [each.ids for each in windows], stage="reference", progress=progress)
    rows = np.concatenate([state[each.first : -1] for state, each in zip(states, windows, strict=True)])
    normed = forward.rms_norm(rows, tensors["model.norm.weight"].float32(), config.rms_norm_eps)

    def told() -> Iterator[tuple[int, NDArray[np.float32]]]:
        for first, logits in forward.logits(tensors, normed):
            yield first, logits
            done = first + logits.shape[1]
            progress(Progress("reference, head", done, config.vocab_size, unit="tokens of the vocabulary"))

    return top_rows(told(), [target for each in windows for target in each.targets])


def of_model(model: Model, windows: Sequence[Window], progress: ProgressCallback = ignore) -> TopRows:
    """What a loaded model predicts.

    Raises:
        NumericsError: It computes NaN or infinity.
        SessionError: It cannot be run.
    """
    parts = []
    for done, window in enumerate(windows, 1):
        parts.append(top_rows([(0, model.logits(window.ids)[window.first : -1])], window.targets))
        progress(Progress("reference", done, len(windows), unit="windows"))
    return TopRows.joined(parts)


def place(name: str, fingerprint: str, request: object) -> Path | None:
    """Where the reference of a checkpoint belongs; None when nothing can be kept.

    ``request`` tells the text from others by its ``repr``: its tokens, or what was asked for to make it.
    """
    key = hashlib.sha256(repr((VERSION, UNCOVERED, MOST_KEPT, fingerprint, request)).encode()).hexdigest()[:16]
    return cache_folder.place(cache.REFERENCES, f"{cache_folder.short(name)}-{key}.npz")


def keep(path: Path | None, windows: Sequence[Window], rows: TopRows) -> None:
    """Keep a reference, and remove what was unused for longest if there is no room; the log says when it cannot be."""
    if path is None:
        return
    content = io.BytesIO()
    np.savez(
        content,
        vocabulary=np.int64(rows.vocabulary),
        window_lengths=np.array([len(each.ids) for each in windows], np.int64),
        window_firsts=np.array([each.first for each in windows], np.int64),
        window_ids=np.concatenate([np.array(each.ids, np.uint32) for each in windows]),
        **{name: getattr(rows, name) for name in _ARRAYS},
    )
    data = content.getvalue()
    try:
        cache_folder.make(path.parent)
        for old in cache.goes_for(len(data), path.parent):
            cache.remove(old.path)
    except (OSError, DiskFullError) as error:
        cache_folder.tell(f"{path}: cannot be kept: {error}")
        return
    cache_folder.keep(path, data)


def kept(path: Path | None) -> tuple[list[Window], TopRows] | None:
    """A reference that was kept, with its text; None when there is none, or none that can be used."""
    if path is None or not cache_folder.is_ours(path):
        return None
    try:
        with untrusted.opened(path) as handle, np.load(handle, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        windows, rows = _checked(found)
        os.utime(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        cache_folder.tell(f"{path}: not used, and made anew: {error}")
        return None
    return windows, rows


def _checked(found: dict[str, NDArray[np.generic]]) -> tuple[list[Window], TopRows]:
    """The windows and rows in a file's arrays, which fit each other; else a ValueError or KeyError."""
    lengths, firsts = (found[f"window_{name}"].astype(np.int64) for name in ("lengths", "firsts"))
    ids, vocabulary = found["window_ids"].astype(np.int64), int(found["vocabulary"].astype(np.int64))
    types = (np.int64, np.uint32, np.float32, np.float64, np.int64, np.float64)
    starts, kept_ids, log_probs, rest, targets, target_log_probs = (
        found[name].astype(kind) for name, kind in zip(_ARRAYS, types, strict=True)
    )
    count = len(targets)
    good = (
        lengths.ndim == ids.ndim == 1
        and len(lengths) == len(firsts) > 0
        and (0 <= firsts).all()
        and (firsts < lengths - 1).all()
        and lengths.sum() == len(ids)
        and (lengths - 1 - firsts).sum() == count == len(rest) == len(target_log_probs) == len(starts) - 1
        and starts[0] == 0
        and (np.diff(starts) >= 1).all()
        and starts[-1] == len(kept_ids) == len(log_probs)
        and 0 < vocabulary <= MOST_TOKENS
        and max(ids.max(), kept_ids.max(), targets.max()) < vocabulary
        and targets.min() >= 0
    )
    if not good:
        raise ValueError("its arrays do not fit each other")
    ends = np.cumsum(lengths)
    windows = [
        Window(tuple(ids[end - length : end].tolist()), int(first))
        for end, length, first in zip(ends, lengths, firsts, strict=True)
    ]
    return windows, TopRows(vocabulary, starts, kept_ids, log_probs, rest, targets, target_log_probs)
