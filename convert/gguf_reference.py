"""A GGUF file's own known prompt: room for it in the header, which is filled in when the weights are written.

What a model computes is known only when its rounded weights are, and the header stands before them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_mobile.layout import REFERENCE_KEYS, REFERENCE_LOGITS, Reference

if TYPE_CHECKING:
    from gguf import GGUFWriter

NEAR_BYTES = 4096
"""The keys are the file's first but for its architecture."""


def add_room(writer: GGUFWriter, ids: Sequence[int], vocab_size: int) -> None:
    """Add the keys of a reference with the prompt ``ids``; this must come before all other keys."""
    count = min(REFERENCE_LOGITS, vocab_size)
    for name, values in asdict(Reference(tuple(ids), (0,) * count, (0.0,) * count)).items():
        writer.add_array(REFERENCE_KEYS[name], values)


def fill(file: Path, reference: Reference) -> None:
    """Put a reference of the size that ``add_room`` made room for into a file."""
    with file.open("r+b") as opened:
        head = opened.read(NEAR_BYTES)
        for name, values in asdict(reference).items():
            form = f"<{len(values)}{'f' if name == 'logits' else 'i'}"
            key = REFERENCE_KEYS[name].encode()
            # The key is followed by its type, its elements' type and how many there are.
            place = head.index(struct.pack("<Q", len(key)) + key) + 8 + len(key) + 16
            assert struct.unpack_from("<Q", head, place - 8) == (len(values),)
            opened.seek(place)
            opened.write(struct.pack(form, *values))
