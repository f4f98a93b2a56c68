"""Safetensors files that lie or are none: what is done to a good one, for ``hostile_checkpoints``."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any


def _first(header: dict[str, Any]) -> dict[str, Any]:
    """The first tensor's entry."""
    return next(entry for name, entry in header.items() if name != "__metadata__")


def _entry(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: _first(header).update(fields)


def _offsets(begin: int, end: int) -> Callable[[dict[str, Any]], None]:
    """Move the ends of the first tensor's data by so many bytes."""

    def change(header: dict[str, Any]) -> None:
        offsets = _first(header)["data_offsets"]
        _first(header)["data_offsets"] = [offsets[0] + begin, offsets[1] + end]

    return change


def _renamed(name: str) -> Callable[[dict[str, Any]], Any]:
    def change(header: dict[str, Any]) -> dict[str, Any]:
        old = next(each for each in header if each != "__metadata__")
        return {name if each == old else each: entry for each, entry in header.items()}

    return change


def _swapped(header: dict[str, Any]) -> None:
    one, two = [entry for name, entry in header.items() if name != "__metadata__"][:2]
    one["data_offsets"], two["data_offsets"] = two["data_offsets"], one["data_offsets"]


def _same(header: dict[str, Any]) -> None:
    one, two = [entry for name, entry in header.items() if name != "__metadata__"][:2]
    two["data_offsets"] = one["data_offsets"]


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "empty object": lambda _: {},
    "a list": lambda _: [],
    "no JSON": lambda _: b"{",
    "no object first": lambda _: b" {}",
    "no UTF-8": lambda _: b'{"\xff": 1}',
    "deep": lambda _: b'{"a":' * 100_000,
    "many values": lambda _: b'{"a": [' + b"0," * 3_000_000 + b"0]}",
    "large": lambda header: json.dumps(header).encode().ljust(33_000_000),
    "a tensor twice": lambda header: (
        json.dumps(header).encode()[:-1] + b', "lm_head.weight": {}, "lm_head.weight": {}}'
    ),
    "metadata a list": lambda header: header.update(__metadata__=[1]),
    "metadata of numbers": lambda header: header.update(__metadata__={"a": 1}),
    "metadata of objects": lambda header: header.update(__metadata__={"a": {"b": "c"}}),
    "an entry a number": lambda header: header.update(x=5),
    "an entry a list": lambda header: header.update(x=[1, 2]),
    "no dtype": lambda header: _first(header).pop("dtype"),
    "no shape": lambda header: _first(header).pop("shape"),
    "no offsets": lambda header: _first(header).pop("data_offsets"),
    "dtype unknown": _entry(dtype="Q4"),
    "dtype a list": _entry(dtype=["BF16"]),
    "dtype controls": _entry(dtype="\x1b[31mBF16"),
    "dtype of other size": _entry(dtype="F32"),
    "shape a number": _entry(shape=5),
    "shape of texts": _entry(shape=["352", "64"]),
    "shape of fractions": _entry(shape=[352.0, 64.0]),
    "shape of booleans": _entry(shape=[True, True]),
    "shape negative": _entry(shape=[-352, -64]),
    "shape empty": _entry(shape=[]),
    "shape with zero": _entry(shape=[10**15, 0]),
    "shape that overflows": _entry(shape=[2**33, 2**33]),
    "shape of 10**400": _entry(shape=[10**400, 64]),
    "shape of many": _entry(shape=[1] * 100_000),
    "shape transposed": lambda header: _first(header)["shape"].reverse(),
    "offsets a text": _entry(data_offsets="0"),
    "offsets three": _entry(data_offsets=[0, 1, 2]),
    "offsets negative": _entry(data_offsets=[-8, 0]),
    "offsets backwards": _entry(data_offsets=[100, 0]),
    "offsets of fractions": _entry(data_offsets=[0.0, 1.0]),
    "offsets huge": _entry(data_offsets=[2**63, 2**63 + 1]),
    "offsets beyond the file": _entry(data_offsets=[2**40, 2**40 + 45056]),
    "a hole": _offsets(8, 8),
    "one byte less": _offsets(0, -1),
    "overlapping": _offsets(0, 8),
    "swapped offsets": _swapped,
    "shared offsets": _same,
    "a name with controls": _renamed("\x1b[2J\x1b]0;title\x07.weight"),
    "a name with markup": _renamed("[red]model[/red][link=file:///etc/passwd].weight[/x]"),
    "a name turned around": _renamed("model.\u202ethgiew"),
    "a name with NUL": _renamed("model\0.weight"),
    "a name with braces": _renamed("{0}{more}{}%s"),
    "a name of a path": _renamed("../../etc/passwd"),
    "an empty name": _renamed(""),
    "a long name": _renamed("x" * 100_000),
    "layer 10**30": _renamed(f"model.layers.{10**30}.input_layernorm.weight"),
    "layer in other digits": _renamed("model.layers.\u0661.input_layernorm.weight"),
}
"""What becomes of a header: it is altered in place, or what comes back is written instead of it."""

SHARDS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "seven bytes": lambda content: content[:7],
    "length alone": lambda content: content[:8],
    "length 0": lambda content: bytes(8) + content[8:],
    "length 2**63": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "length 2**64 - 1": lambda content: b"\xff" * 8 + content[8:],
    "length of the file": lambda content: struct.pack("<Q", len(content) - 8) + content[8:],
    "length one less": lambda content: struct.pack("<Q", struct.unpack("<Q", content[:8])[0] - 1) + content[8:],
    "truncated in the header": lambda content: content[:100],
    "truncated in the data": lambda content: content[:-2],
    "trailing bytes": lambda content: content + b"\0" * 8,
    "no data": lambda content: content[: 8 + struct.unpack("<Q", content[:8])[0]],
    "pickled": lambda _: b"\x80\x04cos\nsystem\n.",
    "a page of HTML": lambda _: b"<html><body>404</body></html>",
    "a pointer of git": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}
"""What becomes of a whole file."""
