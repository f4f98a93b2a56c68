"""A checkpoint's *.safetensors files as lazy tensor views: which tensors they hold, and reading the tensors' rows.

Nothing in a file's header is believed: every number in it is compared with the file. Rows are read, never mapped, so
that a file that shrinks meanwhile is an error, where a mapped one would end the process. This module knows no model.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mimo_mobile import untrusted
from mimo_mobile.convert.json_files import parse_json, present, read_json
from mimo_mobile.errors import CheckpointError, MissingTensorError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
"""The types that weights may be stored as, by the names that safetensors gives them."""

_ADAPTER = "adapter_config.json"

NO_ADAPTER = (
    "a PEFT adapter found, the whole model expected; merge the adapter first (PEFT's merge_and_unload(), then"
    " save_pretrained())"
)

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_SHARD_NAME = re.compile(r"[\w.+-]{1,200}\.safetensors", re.ASCII)
"""A name with a folder in it could lead out of the checkpoint."""

BLOCK_WEIGHTS = 1 << 20
"""So many weights are read at a time, which stay in the processor's cache until they are converted."""

LONGEST_NAME = 200
"""Characters of a tensor's name; MiMo-7B's longest has 57."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file, as it was when it was opened.

    Attributes:
        path: The file.
        state: Its device, inode, size and time of change, which tell it from what may lie there later.
    """

    path: Path
    state: tuple[int, int, int, int]

    def read(self, offset: int, out: NDArray[Any]) -> None:
        """Fill ``out``, which is contiguous, with the bytes from a position on.

        Raises:
            CheckpointError: The file went away or changed since the checkpoint was opened, or cannot be read.
        """
        try:
            with untrusted.opened(self.path) as file:
                if state_of(file.fileno()) != self.state:
                    raise CheckpointError(f"{self.path}: changed since it was opened; begin again when it is whole")
                file.seek(offset)
                count = file.readinto(out.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise CheckpointError(f"{self.path}: changed since it was opened: {error.strerror}") from error
        if count != out.nbytes:
            raise CheckpointError(f"{self.path}: shrank while it was read; begin again when it is whole")


def state_of(descriptor: int) -> tuple[int, int, int, int]:
    """What tells an open file from others, and from itself before a change."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class TensorView:
    """One tensor of a shard; its rows are read when they are asked for.

    Attributes:
        name: The tensor's name in the checkpoint.
        dtype: ``BF16``, ``F16`` or ``F32``.
        shape: The tensor's shape.
        shard: The file that it lies in.
        offset: The position of the tensor's first byte in the shard.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Shard
    offset: int

    @property
    def path(self) -> Path:
        """The shard's file."""
        return self.shard.path

    @property
    def size(self) -> int:
        """How many weights the tensor has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes the tensor has in its shard."""
        return self.size * DTYPES[self.dtype].itemsize

    def array(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows ``start`` to ``stop`` of the first axis as they are stored (ml_dtypes.bfloat16 for ``BF16``).

        Raises:
            CheckpointError: The shard changed since the checkpoint was opened.
        """
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        out = np.empty((max(0, stop - start), *self.shape[1:]), DTYPES[self.dtype])
        self.shard.read(self.offset + start * math.prod(self.shape[1:]) * out.itemsize, out)
        return out

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` of the first axis as float32.

        Raises:
            CheckpointError: The shard changed since the checkpoint was opened.
        """
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        out = np.empty((max(0, stop - start), *self.shape[1:]), np.float32)
        step = max(1, BLOCK_WEIGHTS // math.prod(self.shape[1:]))
        for first in range(0, len(out), step):
            rows, part = self.array(start + first, min(start + first + step, stop)), out[first : first + step]
            if self.dtype == "BF16":
                # bfloat16 is the upper half of a float32; shifting is faster than ml_dtypes' cast, and as exact.
                bits = part.view(np.uint32)
                bits[...] = rows.view(np.uint16)
                bits <<= 16
            else:
                part[...] = rows
        return out


def read_shards(path: Path) -> dict[str, TensorView]:
    """Every tensor of every shard of a checkpoint folder, checked against the index if there is one.

    Raises:
        CheckpointError: A file is damaged or contradicts another, or weights are pickled.
        MissingTensorError: A shard or a tensor is not there.
    """
    if not present(path / INDEX):
        return read_shard(_single_file(path))
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{path / INDEX}: no weight_map of tensor names to file names")
    found: dict[str, TensorView] = {}
    for shard in sorted(set(weight_map.values())):
        if not _SHARD_NAME.fullmatch(shard):
            raise CheckpointError(f"{path / INDEX}: {shard!r:.80} found, the name of a .safetensors file expected")
        if not present(path / shard):
            raise MissingTensorError(f"{path / shard}: shard missing, {INDEX} names it; download the checkpoint again")
        for name, view in read_shard(path / shard).items():
            if name in found:
                raise CheckpointError(f"tensor {name} is in {found[name].path.name} and in {shard}; one was expected")
            found[name] = view
    for name, shard in weight_map.items():
        if name not in found or found[name].path.name != shard:
            raise MissingTensorError(
                f"{path / shard}: no tensor {_shown(name)}, {INDEX} says it is there; download both again"
            )
    unnamed = [name for name in found if name not in weight_map]
    if unnamed:
        raise CheckpointError(f"{found[unnamed[0]].path}: tensor {unnamed[0]} is not in {INDEX}; download both again")
    return found


def _single_file(path: Path) -> Path:
    if present(path / SINGLE):
        return path / SINGLE
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLED)
    if (path / _ADAPTER).is_file():
        raise CheckpointError(f"{path / _ADAPTER}: {NO_ADAPTER}")
    if pickled:
        raise CheckpointError(
            f"{path / pickled[0]}: pickled weights are refused, since reading them runs code from the file;"
            " get the .safetensors version, or convert with safetensors' own tool"
        )
    raise MissingTensorError(f"{path}: neither {INDEX} nor {SINGLE} found; download the checkpoint again")


def read_shard(path: Path) -> dict[str, TensorView]:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: It cannot be read, or its header is not what the format asks for.

    Source of the layout: https://github.com/huggingface/safetensors/blob/v0.6.2/README.md#format
    """
    try:
        with untrusted.opened(path) as file:
            state = state_of(file.fileno())
            length, size = int.from_bytes(file.read(8), "little"), state[2]
            if size < 8 or length > size - 8:
                raise CheckpointError(
                    f"{path}: damaged or truncated ({size} bytes found, a header of {length} announced); download it"
                    " again"
                )
            if length > untrusted.MOST_TEXT_BYTES:
                raise CheckpointError(f"{path}: damaged (a header of {length} bytes); download it again")
            content = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not content.startswith(b"{"):
        raise CheckpointError(f"{path}: damaged (its header is no JSON object); download it again")
    header = parse_json(content, path)
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not _is_texts(metadata):
        raise CheckpointError(f"{path}: __metadata__ with texts only expected; download it again")
    shard = Shard(path, state)
    views = [_view(shard, 8 + length, name, entry) for name, entry in header.items()]
    end = 8 + length
    for view, stop in sorted(views, key=lambda each: (each[0].offset, each[1])):
        if view.offset != end:
            raise CheckpointError(
                f"{path}: damaged: tensor {view.name} begins at byte {view.offset} of the file, {end} expected, where"
                " the one before it ends; download it again"
            )
        end = stop
    if end != size:
        raise CheckpointError(
            f"{path}: damaged or truncated ({size} bytes found, its tensors end at {end}); download it again"
        )
    return {view.name: view for view, _ in views}


def _view(shard: Shard, data: int, name: str, entry: Any) -> tuple[TensorView, int]:
    """A tensor as a header describes it, and the position of its end; ``data`` is where tensors begin."""
    if len(name) > LONGEST_NAME or not name or untrusted.printable(name) != name:
        raise CheckpointError(
            f"{shard.path}: tensor name {_shown(name)} found, a printable one of at most {LONGEST_NAME} characters"
            " expected; a damaged or hostile file"
        )
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{shard.path}: tensor {name}: dtype, shape and data_offsets expected; download it again")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not re.fullmatch(r"\w{1,20}", dtype, re.ASCII):
        raise CheckpointError(f"{shard.path}: tensor {name}: dtype {dtype!r:.60} found, the name of a type expected")
    # No tensor of a model is empty, and a product of more than this is larger than any disk.
    if not _is_integers(shape, 1) or len(shape) > 8 or math.prod(shape) >= 2**63:
        raise CheckpointError(f"{shard.path}: tensor {name}: shape {shape!r:.60} found, numbers above 0 expected")
    if not _is_integers(offsets, 0) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{shard.path}: tensor {name}: data_offsets {offsets!r:.60} found, begin and end expected"
        )
    view = TensorView(name, dtype, tuple(shape), shard, data + offsets[0])
    if dtype in DTYPES and view.nbytes != offsets[1] - offsets[0]:
        raise CheckpointError(
            f"{shard.path}: tensor {name}: {offsets[1] - offsets[0]} bytes found, {view.nbytes} expected of shape"
            f" {view.shape} in {dtype}; download it again"
        )
    return view, data + offsets[1]


def _is_integers(value: Any, least: int) -> bool:
    return isinstance(value, list) and all(type(each) is int and least <= each < 2**63 for each in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _shown(name: str) -> str:
    """A name that a message may show."""
    return untrusted.printable(name[:80])
