"""An importance matrix, in GGUF or in the old form."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from mimo_mobile.quantize.importance import matrices, positive, read_importance, write_importance
from tests.fuzz.mutations import NUMBERS
from tests.fuzz.scratch import scratch
from tests.tiny import tiny_config

CONFIG = tiny_config(layers=1, hidden=64, ffn=64)


def check(data: bytes) -> None:
    """Read it, and make of every matrix what blocks are weighed by."""
    file = scratch() / "x"
    file.write_bytes(data)
    try:
        for means in read_importance(file, CONFIG).values():
            weights = positive(means, means.size)
            assert np.isfinite(weights).all() and weights.min() > 0
    finally:
        file.unlink()


def mutate(data: bytes, random: Random) -> bytes | None:
    """Another number somewhere, or an end too early."""
    if len(data) < 8:
        return None
    changed, place = bytearray(data), random.randrange(len(data) - 7)
    number = int(random.choice(NUMBERS)) % 2**64
    changed[place : place + 4] = random.choice((
        struct.pack("<I", number % 2**32), struct.pack("<f", random.choice(
            (0.0, -1.0, float("nan"), float("inf"), 1e-45, 3e38))), random.randbytes(4),
    ))  # fmt: skip
    if random.random() < 0.1:
        changed[place : place + 8] = struct.pack("<Q", number)
    return bytes(changed[:place] if random.random() < 0.05 else changed)


def seeds() -> Iterator[bytes]:
    """All matrices of a tiny model, in both forms."""
    draw = np.random.Generator(np.random.PCG64(0))
    means = {name: draw.random(columns, np.float32) for name, (_, columns) in matrices(CONFIG).items()}
    with tempfile.TemporaryDirectory() as name:
        yield write_importance(Path(name) / "x.gguf", means, CONFIG, tokens=600, datasets=["text"]).read_bytes()
    old = struct.pack("<i", len(means))
    for name, (target, columns) in matrices(CONFIG).items():
        tensor = target.name.encode()
        old += struct.pack("<i", len(tensor)) + tensor + struct.pack("<ii", 3, columns) + means[name].tobytes()
    yield old + struct.pack("<ii", 3, 4) + b"text"
