"""The header of a GGUF file. Behind it lie as many zeros as the weights of the seeds take, which cost nothing."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from mimo_mobile import inspection
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.hub import Source
from mimo_mobile.runtime.llama.checked import checked
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tests.fuzz.mutations import NUMBERS
from tests.fuzz.scratch import scratch
from tests.tiny import write_tiny_checkpoint

WEIGHTS_BYTES = 1 << 22
KEYS = (
    b"block_count", b"context_length", b"embedding_length", b"feed_forward_length", b"head_count", b"head_count_kv",
    b"layer_norm_rms_epsilon", b"freq_base", b"key_length", b"value_length", b"dimension_count", b"alignment",
    b"nextn_predict_layers", b"sliding_window", b"tokens", b"token_type", b"merges", b"eos_token_id", b"architecture",
    b"model", b"weight", b"bias",
)  # fmt: skip


def check(data: bytes) -> None:
    """Let all that reads a header before llama.cpp does read it."""
    file = scratch() / "x.gguf"
    file.write_bytes(data)
    os.truncate(file, len(data) + WEIGHTS_BYTES)
    try:
        inspection.inspect(file, tensors=True)
        header = GgufHeader(file)
        checked(header)
        TextTokenizer.from_gguf(header).encode("1 + 1 <|im_end|>")
    finally:
        file.unlink()


def mutate(data: bytes, random: Random) -> bytes | None:
    """Another number, or another type, behind the name of a key or a tensor."""
    places = [place + len(key) for key in KEYS if (place := data.find(key, random.randrange(len(data) or 1))) >= 0]
    if not places:
        return None
    changed = bytearray(data)
    place = random.choice(places) + random.choice((0, 0, 4, 4, 8, 12))
    number = int(random.choice(NUMBERS)) % 2**64
    changed[place : place + 4] = random.choice((
        struct.pack("<I", number % 2**32), struct.pack("<I", random.randrange(40)), struct.pack("<f", random.choice(
            (0.0, -1.0, float("nan"), float("inf"), 1e-45))), random.randbytes(4),
    ))  # fmt: skip
    if random.random() < 0.2:
        changed[place : place + 8] = struct.pack("<Q", number)
    return bytes(changed)


def seeds() -> Iterator[bytes]:
    """The headers of a tiny model: trunk, MTP layer, and both in one file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = Source(write_tiny_checkpoint(folder / "tiny", layers=1), "tiny")
        made = convert_checkpoint(tiny, folder / "tiny.gguf", to="gguf", dtype="f16")
        made += convert_checkpoint(tiny, folder / "single.gguf", to="gguf", dtype="f16", single_file=True)
        for path in made:
            data = path.read_bytes()
            yield data[: max(data.rfind(b".weight"), data.rfind(b".bias")) + 64]
