"""A saved conversation: a header, and arrays that llama.cpp and the MTP layer would be given."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import ConversationError, SessionError
from mimo_mobile.runtime.backend import BackendState
from mimo_mobile.runtime.decode import conversation_file
from mimo_mobile.runtime.decode.conversation import Conversation
from mimo_mobile.runtime.decode.mtp_head import MtpHead
from mimo_mobile.runtime.decode.session import Session
from mimo_mobile.runtime.llama.backend import LlamaBackend, LlamaMtp
from mimo_mobile.runtime.llama.context import NOT_TAKEN, LlamaContext
from mimo_mobile.runtime.llama.state_check import has_positions
from tests.fuzz.mutations import json_mutator
from tests.fuzz.scratch import scratch
from tools.hostile_conversations import sealed

WIDTH, COUNT, CONTEXT = 4, 3, 64
FINGERPRINT = "0" * 64


class _Context:
    """What llama.cpp would be asked to take."""

    hidden_size = WIDTH

    def forget(self, position: int) -> None:
        """There is nothing."""

    def restore(self, state: NDArray[Any], tokens: int, *, gaps: bool = False) -> None:
        """Check a copy as ``LlamaContext`` does."""
        if not has_positions(state, tokens, gaps=gaps):
            raise SessionError(NOT_TAKEN)


class _Session:
    """A session on a backend without a model."""

    def __init__(self) -> None:
        context = cast(LlamaContext, _Context())
        self.backend = LlamaBackend(Path(), cast(Any, None), context, cast(Any, None), CONTEXT)
        self.backend.windows, self.backend.kv_bytes_per_token = (True, False), 4 * WIDTH
        self.backend.mtp = MtpHead(LlamaMtp(context, 100))
        self.model = SimpleNamespace(
            has_chat_template=True, context_length=CONTEXT, fingerprint=lambda: FINGERPRINT,
            tokenizer=SimpleNamespace(size=100), turns=SimpleNamespace(opened=lambda: self.backend),
        )  # fmt: skip

    def conversation(self, *args: Any, **kwargs: Any) -> Conversation:
        """As ``Session.conversation``."""
        return Conversation(cast(Session, self), *args, **kwargs)

    def adopt(self, _: list[int], state: BackendState) -> None:
        """As ``Session.adopt``."""
        try:
            self.backend.restore(state)
        except SessionError as error:
            raise ConversationError(str(error)) from error


def check(data: bytes) -> None:
    """Load a file as it is, and its text alone; its length and its checksum are made right first."""
    length = int.from_bytes(data[:2], "little")
    file = scratch() / "talk.mimo"
    file.write_bytes(sealed(data[2 : 2 + length], data[2 + length :]))
    try:
        conversation_file.load(cast(Session, _Session()), file, None, text_only=True)
        conversation_file.load(cast(Session, _Session()), file, None, text_only=False)
    finally:
        file.unlink()


def mutate(data: bytes, random: Random) -> bytes | None:
    """The same with values of its header changed, or words of its arrays."""
    length = int.from_bytes(data[:2], "little")
    text, arrays = data[2 : 2 + length], bytearray(data[2 + length :])
    if random.random() < 0.5 or len(arrays) < 4:
        changed = json_mutator(text, random)
        return None if changed is None else joined(changed, bytes(arrays))
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(arrays) // 4) * 4
        struct.pack_into("<I", arrays, place, random.choice((0, 1, 2, 3, 2**31 - 1, 2**32 - 1, random.getrandbits(32))))
    return joined(text, bytes(arrays))


def joined(text: bytes, arrays: bytes) -> bytes:
    """An input: how long the header is, in two bytes, the header, the arrays."""
    return len(text).to_bytes(2, "little") + text + arrays if len(text) < 1 << 16 else b""


def seeds() -> Iterator[bytes]:
    """With drafts, whose trunk has two parts; without; and a text alone."""
    ids = np.array([5, 6, 7], np.int32)
    mtp = {
        "mtp": _copy([1], COUNT - 1), "head.ids": np.array([COUNT - 1, 7], np.int64),
        "head.hidden": np.zeros((1, WIDTH), np.float32),
    }  # fmt: skip
    yield _input({"tokens": ids, "trunk": _copy([1, 1], COUNT), "trunk.layers": np.array([1, 0], np.int32), **mtp})
    yield _input({"tokens": ids, "trunk": _copy([2], COUNT)})
    yield _input({"tokens": ids[:0]})


def _copy(layers: list[int], count: int) -> NDArray[np.uint8]:
    """A copy of a KV cache with so many layers in each part."""
    cells = b"".join(struct.pack("<iIi", position, 1, 0) for position in range(count))
    rows = struct.pack("<iQ", 1, WIDTH) + bytes(WIDTH * count)
    parts = [struct.pack("<II", 1, count) + cells + struct.pack("<II", 0, each) + rows * 2 * each for each in layers]
    return np.frombuffer(struct.pack("<II", 0, 0) + b"".join(parts), np.uint8)


def _input(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    types = {np.dtype(spelling): name for name, spelling in conversation_file.DTYPES.items()}
    told = [{"name": name, "dtype": types[each.dtype], "shape": each.shape} for name, each in arrays.items()]
    header = {
        "conversation_version": 1, "model": FINGERPRINT, "kv_bytes_per_token": 4 * WIDTH, "system": "",
        "turns": [{"question": "1 + 1?", "thinking": "", "answer": "2"}], "dropped": 0, "keep_thinking": False,
        "when_full": "error", "seed": "7", "draws": 1, "cut_thinks": True, "arrays": told,
    }  # fmt: skip
    return joined(json.dumps(header).encode(), b"".join(each.tobytes() for each in arrays.values()))
