"""Sets a file aside that lost too much, and takes it back when the limits change: it is renamed, never removed.

A run may be killed at any point: what the manifest calls rejected is renamed by the next one, and what it lists as
an entry lies under its own name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mimo_mobile import files
from mimo_mobile.entries import Entry, Rejected
from mimo_mobile.layout import ONNX_FOLDER
from mimo_mobile.manifest import Manifest
from mimo_mobile.quantize.gate import Limits, judge
from mimo_mobile.quantize.tensor_errors import TensorError

logger = logging.getLogger(__name__)


def judged(
    folder: Path,
    state: Manifest,
    recipes: Sequence[str],
    limits: Mapping[str, Limits],
    errors: Mapping[str, Sequence[TensorError]],
) -> Manifest:
    """The manifest after the files of some recipes were judged; those that lost too much are set aside.

    ``errors`` are what matrices lost, by recipe; each reason names those to blame.
    """
    for name in recipes:
        entry, gone = state.entry(name), state.rejection(name)
        if entry is not None:
            if reasons := _reasons(entry, state, limits, errors.get(name, ())):
                state = _set_aside(folder, state, entry, reasons)
        elif gone is not None:
            reasons = _reasons(gone.entry, state, limits, errors.get(name, ()))
            if reasons:
                state = state.with_rejected(gone.entry, reasons)
                state.write(folder)
            elif _comparable(gone.entry, state):
                state = _taken_back(folder, state, gone)
    return state


def is_set_aside(folder: Path, gone: Rejected | None, path: Path) -> bool:
    """Whether what would be made at a path is there already, under the name of what was rejected."""
    if gone is None or gone.entry.path != path.name:
        return False
    places = [(folder / part.path, part.size_bytes) for part in gone.aside.parts]
    return all(place.is_file() and place.stat().st_size == size for place, size in places)


def settle(folder: Path, state: Manifest) -> None:
    """Rename what a killed run did not: files that were rejected and lie under their own names."""
    for each in state.rejected:
        for old, new in _moves(each):
            if (folder / old).exists() and not (folder / new).exists():
                os.replace(folder / old, folder / new)


def _reasons(entry: Entry, state: Manifest, limits: Mapping[str, Limits], errors: Sequence[TensorError]) -> list[str]:
    made = [str(check) for check in judge(entry, state.baseline, limits[entry.recipe], errors) if not check.passed]
    if form := entry.npu_form:
        checks = judge(form, state.baseline, limits[form.recipe])
        made += [f"with quantized activations for NPUs {check}" for check in checks if not check.passed]
    return made


def _comparable(entry: Entry, state: Manifest) -> bool:
    """Whether an entry's score is on the problems of bf16's: by one on others nothing is taken back."""
    score, baseline = entry.score, state.baseline
    return score is None or (baseline is not None and score.problem_set == baseline.problem_set)


def _set_aside(folder: Path, state: Manifest, entry: Entry, reasons: Sequence[str]) -> Manifest:
    for _, new in _moves(Rejected(entry, ())):  # of an earlier one, which is replaced
        kind = ONNX_FOLDER if entry.format == "onnx" else None
        files.remove(files.replaceable(folder / new, force=True, kind=kind))
    state = state.with_rejected(entry, reasons)
    state.write(folder)
    settle(folder, state)
    return state


def _taken_back(folder: Path, state: Manifest, gone: Rejected) -> Manifest:
    for old, new in _moves(gone):
        if (folder / old).exists():
            logger.warning("%s: kept aside as %s, as another file has its name", old, new)
            return state
    for old, new in _moves(gone):
        os.replace(folder / new, folder / old)
    state = state.with_entry(gone.entry)
    state.write(folder)
    return state


def _moves(gone: Rejected) -> Iterator[tuple[str, str]]:
    """The names of what is renamed, without the ending and with it."""
    if gone.entry.format == "onnx":
        yield gone.entry.path, gone.aside.path
        return
    for part, aside in zip(gone.entry.parts, gone.aside.parts, strict=True):
        yield part.path, aside.path
