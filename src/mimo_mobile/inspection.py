"""Finds out what a file or folder is: a checkpoint, a GGUF file, an ONNX folder, a folder of quantized files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mimo_mobile import files, graph_file, manifest, npu_memory, ranges
from mimo_mobile.errors import CheckpointError, MimoMobileError
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.layout import DATA, MODEL, NPU_SETTINGS, read_npu_settings

LONG, SHORT = 60, 8
"""At most so many characters of a metadata value are shown, and an array of at most so many values whole."""

LISTED = 64
"""At most so many operators of a graph are shown."""


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of a file."""

    name: str
    type: str
    shape: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found out about a file or folder.

    Attributes:
        path: The path as it was given.
        kind: ``checkpoint``, ``gguf``, ``onnx`` or ``quantized folder``.
        parameters: The number of weights; None where the file does not tell.
        size_bytes: The size of the file, or of all files in the folder.
        types: How many tensors, and how many bytes of them, each storage type has.
        facts: The configuration and the metadata.
        tensors: Every tensor, when that was asked for.
        problems: Why a checkpoint cannot be converted; empty when it can.
    """

    path: str
    kind: str
    parameters: int | None
    size_bytes: int
    types: tuple[dict[str, Any], ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    tensors: tuple[TensorRow, ...] = ()
    problems: tuple[str, ...] = ()


def inspect(path: Path, *, tensors: bool = False) -> Inspection:
    """What ``path`` is.

    Raises:
        MimoMobileError: It is nothing that we know, or it is damaged.
    """
    if path.is_file() and path.suffix == ".gguf":
        return _gguf(path, tensors)
    if path.is_file() and path.suffix == ".onnx":
        path = path.parent
    if manifest.is_there(path):
        return _quantized(path)
    if (path / MODEL).is_file():
        return _onnx(path, tensors)
    if (path / "config.json").is_file():
        return _checkpoint(path, tensors)
    raise MimoMobileError(f"{path}: a checkpoint folder, .gguf file, ONNX folder or quantized folder expected")


def verify(path: Path) -> int:
    """Compare every file of a quantized folder with the manifest's checksum, and return how many files there are.

    Raises:
        MimoMobileError: There is no manifest, or a file is missing or differs.
    """
    found = manifest.read(path)
    if found is None:
        raise MimoMobileError(f"{path}: no {manifest.NAME}; only folders that `mimo quantize` wrote can be verified")
    for entry in found.entries:
        for part in entry.parts:
            file = path / part.path
            if not file.is_file():
                raise MimoMobileError(f"{file}: missing; run `mimo quantize` again")
            if (size := file.stat().st_size) != part.size_bytes:
                raise MimoMobileError(
                    f"{file}: {size} bytes found, {part.size_bytes} in the manifest; run `mimo quantize --force`"
                )
            if files.sha256(file) != part.sha256:
                raise MimoMobileError(f"{file}: its SHA-256 differs from the manifest's; run `mimo quantize --force`")
    return sum(len(entry.parts) for entry in found.entries)


def _rows(all_tensors: list[TensorRow]) -> tuple[dict[str, Any], ...]:
    count, size = Counter[str](), Counter[str]()
    for row in all_tensors:
        count[row.type] += 1
        size[row.type] += row.bytes
    return tuple({"type": kind, "tensors": count[kind], "bytes": size[kind]} for kind in sorted(count))


def _gguf(path: Path, listed: bool) -> Inspection:
    header = GgufHeader(path)
    rows = [
        TensorRow(name, tensor.type, "×".join(map(str, tensor.shape)), tensor.bytes)
        for name, tensor in header.tensors.items()
    ]
    facts = {key: _fact(header, key) for key in header.keys()}
    weights = sum(prod(tensor.shape) for tensor in header.tensors.values())
    return Inspection(
        str(path), "gguf", weights, path.stat().st_size, _rows(rows), facts, tuple(rows) if listed else ()
    )


def _fact(header: GgufHeader, key: str) -> str:
    """A value of the metadata, or the first of an array."""
    count = header.count(key)
    if not header.kind(key).startswith("array"):
        return _short(header.value(key))
    return _short(header.array(key)) if count <= SHORT else _many(count, header.array(key, 3))


def _onnx(folder: Path, listed: bool) -> Inspection:
    rows, facts = [], dict[str, str]()
    for file in sorted(folder.glob("*.onnx")):
        graph = graph_file.read(file)
        domains = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in graph.opsets.items())
        operators = Counter(node.op_type for node in graph.nodes)
        facts[f"{file.name} opset"] = domains
        facts[f"{file.name} nodes"] = ", ".join(f"{name} {number}" for name, number in operators.most_common(LISTED))
        facts[f"{file.name} inputs"] = _short(list(graph.inputs))
        facts[f"{file.name} outputs"] = _short(list(graph.outputs))
        facts |= {f"{file.name} {key}": _short(value) for key, value in graph.metadata.items()}
        for tensor in graph.tensors.values():
            shape = "×".join(map(str, tensor.shape))
            rows.append(TensorRow(f"{file.stem}:{tensor.name}", tensor.type, shape, tensor.nbytes))
    for file in sorted(folder.glob(f"q??-*/{NPU_SETTINGS}")):
        facts |= _npu(file.parent)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Inspection(str(folder), "onnx", None, size, _rows(rows), facts, tuple(rows) if listed else ())


def _npu(folder: Path) -> dict[str, str]:
    """What lies in a folder of binaries for an NPU, piece by piece, and which phones have room for it."""
    from mimo_mobile.quantize.choice import PREPACKED, RUNTIME_BYTES
    from mimo_mobile.quantize.npu_plan import PHONES

    settings, data = read_npu_settings(folder), folder.parent / DATA
    weights = data.stat().st_size - settings.embedding_bytes if data.is_file() else 0
    plan = npu_memory.compiled(folder, settings, round(PREPACKED * weights), RUNTIME_BYTES)
    room = [each.name for each in PHONES if plan.fits(each.available_bytes)]
    phones = f"fits {', '.join(room)}" if room else f"fits none of {', '.join(each.name for each in PHONES)}"
    facts = {folder.name: f"mode {plan.mode}, {plan}", f"{folder.name} made with": settings.made_with}
    facts |= {f"{folder.name} {each.name}": str(each).partition(": ")[2] for each in plan.pieces}
    return facts | {f"{folder.name} memory": f"{npu_memory.gb(plan.memory_bytes)} in all, {phones} (assumed)"}


def _checkpoint(folder: Path, listed: bool) -> Inspection:
    from mimo_mobile.convert.checkpoint import Checkpoint

    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    try:
        opened = Checkpoint.open(folder)
    except CheckpointError as error:
        return Inspection(
            str(folder), "checkpoint", None, size, problems=tuple(str(problem) for problem in error.problems)
        )
    rows = [
        TensorRow(
            view.name,
            view.dtype,
            "×".join(map(str, view.shape)),
            int(np.prod(view.shape)) * (4 if view.dtype == "F32" else 2),
        )
        for view in opened.tensors.values()
    ]
    facts = {name: _short(value) for name, value in opened.raw_config.items()}
    weights = sum(int(np.prod(view.shape)) for view in opened.tensors.values())
    return Inspection(str(folder), "checkpoint", weights, size, _rows(rows), facts, tuple(rows) if listed else ())


def _quantized(folder: Path) -> Inspection:
    found = manifest.read(folder)
    if found is None:
        raise CheckpointError(f"{folder}: its {manifest.NAME} went away")
    facts = {f"{entry.recipe}": f"{entry.path}, {entry.bits_per_weight:.2f} bits/weight" for entry in found.entries}
    for entry in found.entries:
        if entry.ranges is not None:
            facts |= {f"{entry.recipe} {name}": text for name, text in ranges.summary(entry.ranges).items()}
    facts |= {f"source {name}": value for name, value in found.source.items()}
    size = sum(entry.size_bytes for entry in found.entries)
    return Inspection(str(folder), "quantized folder", None, size, (), facts)


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) > SHORT:
        return _many(len(value), value[:3])
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= LONG else text[:LONG] + "…"


def _many(count: int, first: Sequence[Any]) -> str:
    return f"{count} values, {', '.join(map(_short, first))} …"
