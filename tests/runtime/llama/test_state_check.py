"""Copies of KV caches that no llama.cpp wrote: they are refused, and cost no memory."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.errors import ConversationError
from mimo_mobile.runtime import load
from mimo_mobile.runtime.llama.state_check import arranged, has_positions
from tests.runtime.decode.test_conversation import GREEDY, SUM
from tests.runtime.decode.test_conversation_file import forged, shaped

HEAD, EMPTY = struct.pack("<II", 0, 0), struct.pack("<II", 1, 0)
CELL = struct.pack("<II", 1, 1) + struct.pack("<iIi", 0, 1, 0)


def copy_of(*parts: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join((HEAD, *parts)), np.uint8)


@pytest.mark.parametrize("size", [1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_no_size_of_a_layer_leads_behind_the_copy(size: int) -> None:
    layer = struct.pack("<II", 0, 2) + struct.pack("<iQ", 1, size)
    assert not has_positions(copy_of(CELL, layer, bytes(100)), 1, gaps=False)


def test_a_copy_has_no_more_parts_than_llama_has_caches() -> None:
    assert has_positions(copy_of(EMPTY, EMPTY), 1, gaps=True)
    assert not has_positions(copy_of(EMPTY, EMPTY, EMPTY), 1, gaps=True)


def test_a_copy_without_parts_has_no_layers_to_arrange() -> None:
    with pytest.raises(ValueError, match="do not go together"):
        arranged(copy_of(), [], [[]])


def test_an_order_of_layers_is_a_row_of_numbers(nano_q4: dict[str, Path], tmp_path: Path) -> None:
    def one_number(header: dict[str, Any], arrays: dict[str, bytes]) -> None:
        shaped("trunk.layers", [])(header, arrays)
        arrays["trunk.layers"] = arrays["trunk.layers"][:4]

    file = tmp_path / "good"
    with load(nano_q4["gguf"], threads=1, speculate="mtp") as model:
        talk = model.conversation(config=GREEDY)
        list(talk.send(SUM))
        talk.save(file)
        with pytest.raises(ConversationError, match=r"does not take the state.*an order of layers that is none"):
            model.load_conversation(forged(file, tmp_path / "forged", one_number))


def test_a_copy_is_of_bytes(nano_q4: dict[str, Path], tmp_path: Path) -> None:
    def numbers(header: dict[str, Any], arrays: dict[str, bytes]) -> None:
        told = next(each for each in header["arrays"] if each["name"] == "mtp")
        told |= {"dtype": "f32", "shape": [len(arrays["mtp"]) // 4]}
        arrays["mtp"] = struct.pack("<f", 1e30) * (len(arrays["mtp"]) // 4)

    file = tmp_path / "good"
    with load(nano_q4["gguf"], threads=1, speculate="mtp") as model:
        talk = model.conversation(config=GREEDY)
        list(talk.send(SUM))
        talk.save(file)
        with pytest.raises(ConversationError, match="does not take the state"):
            model.load_conversation(forged(file, tmp_path / "forged", numbers))
