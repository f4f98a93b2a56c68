"""A checkpoint folder (config.json + safetensors) as validated, lazy tensor views.

Everything that can be checked without reading a weight is checked on opening. Knows MiMo-7B's names and
shapes through MimoConfig; knows nothing of GGUF, ONNX or quantization. Runs no code of a checkpoint.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mimo_mobile.convert.tensors import Dropped, map_tensor
from mimo_mobile.errors import CheckpointError, MissingTensorError, ShapeMismatchError, UnknownTensorError
from mimo_mobile.mimo7b import MimoConfig

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
"""What weights may be stored as, by safetensors' names."""

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class TensorView:
    """One tensor of a shard; its bytes are mapped into memory only while an array of them lives.

    Attributes:
        name: Its name in the checkpoint.
        dtype: ``BF16``, ``F16`` or ``F32``.
        shape: Its shape.
        path: The shard.
        offset: Of its first byte in the shard.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def array(self) -> NDArray[Any]:
        """The whole tensor, mapped read-only from its file (ml_dtypes.bfloat16 for ``BF16``).

        Raises:
            CheckpointError: The shard went away or shrank since the checkpoint was opened.
        """
        try:
            mapped = np.memmap(self.path, DTYPES[self.dtype], mode="r", offset=self.offset, shape=self.shape)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path}: changed since it was opened: {error}") from error
        return mapped.view(np.ndarray)

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` of the first axis as a float32 copy."""
        rows = self.array()[start:stop]
        if self.dtype != "BF16":
            return rows.astype(np.float32)
        # bfloat16 is the upper half of a float32; shifting is faster than ml_dtypes' cast, and as exact.
        bits = rows.view(np.uint16).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A validated MiMo-7B checkpoint.

    Attributes:
        path: The folder.
        config: The fields of config.json that decide the computation.
        raw_config: All of config.json.
        generation_config: All of generation_config.json; empty when there is none.
        tensors: By name, exactly those of ``config.tensor_shapes()`` and in its order.
        dropped: Tensors that are there and not used: name → reason.
    """

    path: Path
    config: MimoConfig
    raw_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tensors: Mapping[str, TensorView]
    dropped: Mapping[str, str]

    @property
    def num_parameters(self) -> int:
        """Number of weights, MTP layers included."""
        return sum(view.size for view in self.tensors.values())

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """The checkpoint in a folder, fully checked except for the weights' values.

        Raises:
            CheckpointError: No checkpoint, not MiMo-7B, a damaged or lying file, pickled or quantized weights.
            MissingTensorError: A shard or a tensor is not there.
            UnknownTensorError: A tensor that MiMo-7B does not have, or more MTP layers than config.json says.
            ShapeMismatchError: A tensor's shape is not the one that follows from config.json.
        """
        if not (path / CONFIG).is_file():
            raise CheckpointError(f"{path}: no {CONFIG}; a folder with {CONFIG} and *.safetensors expected")
        raw_config = read_json(path / CONFIG)
        config = MimoConfig.from_json(raw_config)
        generation = path / GENERATION_CONFIG
        found = _read_shards(path)
        tensors, dropped = _check_tensors(path, config, found)
        return cls(
            path=path,
            config=config,
            raw_config=MappingProxyType(raw_config),
            generation_config=MappingProxyType(read_json(generation) if generation.is_file() else {}),
            tensors=MappingProxyType(tensors),
            dropped=MappingProxyType(dropped),
        )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: It cannot be read, is no JSON object, or has a key twice.
    """
    try:
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in bytes that came from ``path``.

    Raises:
        CheckpointError: No JSON object, or one with a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise CheckpointError(f"{path}: the key {twice!r} is there twice; a damaged or hostile file")
        return made

    def no_constant(text: str) -> Any:
        raise CheckpointError(f"{path}: {text} found, which is no JSON")

    try:
        value = json.loads(data, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON {type(value).__name__} found, an object expected")
    return value


def _read_shards(path: Path) -> dict[str, TensorView]:
    """Every tensor of every shard, checked against the index if there is one."""
    if not (path / INDEX).is_file():
        return _read_shard(_single_file(path))
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{path / INDEX}: no weight_map of tensor names to file names")
    found: dict[str, TensorView] = {}
    for shard in sorted(set(weight_map.values())):
        # A name with a folder in it could lead out of the checkpoint.
        if not shard.endswith(".safetensors") or Path(shard).name != shard:
            raise CheckpointError(f"{path / INDEX}: {shard!r} found, the name of a .safetensors file expected")
        if not (path / shard).is_file():
            raise MissingTensorError(f"{path / shard}: shard missing, {INDEX} names it; download the checkpoint again")
        for name, view in _read_shard(path / shard).items():
            if name in found:
                raise CheckpointError(f"tensor {name} is in {found[name].path.name} and in {shard}; one was expected")
            found[name] = view
    for name, shard in weight_map.items():
        if name not in found or found[name].path.name != shard:
            raise MissingTensorError(f"{path / shard}: no tensor {name}, {INDEX} says it is there; download both again")
    unnamed = [name for name in found if name not in weight_map]
    if unnamed:
        raise CheckpointError(f"{found[unnamed[0]].path}: tensor {unnamed[0]} is not in {INDEX}; download both again")
    return found


def _single_file(path: Path) -> Path:
    if (path / SINGLE).is_file():
        return path / SINGLE
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLED)
    if pickled:
        raise CheckpointError(
            f"{path / pickled[0]}: pickled weights are refused, since reading them runs code from the file;"
            " get the .safetensors version, or convert with safetensors' own tool"
        )
    raise MissingTensorError(f"{path}: neither {INDEX} nor {SINGLE} found; download the checkpoint again")


def _read_shard(path: Path) -> dict[str, TensorView]:
    """The tensors of one safetensors file.

    Source of the layout: https://github.com/huggingface/safetensors/blob/v0.6.2/README.md#format
    """
    try:
        # The library checks length, JSON, offsets (no hole, no overlap), size = shape × dtype and file size.
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(length), path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error}); download it again") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    header.pop("__metadata__", None)
    return {
        name: TensorView(name, entry["dtype"], tuple(entry["shape"]), path, 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _check_tensors(
    path: Path, config: MimoConfig, found: Mapping[str, TensorView]
) -> tuple[dict[str, TensorView], dict[str, str]]:
    """The tensors that config.json asks for, and what is dropped."""
    _check_mtp_layers(path, config, found)
    layers = config.num_hidden_layers
    if layers > len(found):  # before a table of so many layers is made
        raise MissingTensorError(f"{path}: {CONFIG} says {layers} layers, the weights hold {len(found)} tensors only")
    expected = config.tensor_shapes()
    dropped: dict[str, str] = {}
    for name, view in found.items():
        target = map_tensor(name, layers)
        if isinstance(target, Dropped):
            dropped[name] = target.reason
        elif name not in expected:
            raise UnknownTensorError(f"{view.path}: tensor {name} is beyond the {layers} layers that {CONFIG} says")
    missing = [name for name in expected if name not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MissingTensorError(f"{path}: tensor {missing[0]}{more} missing; {CONFIG} asks for {len(expected)}")
    for name, shape in expected.items():
        view = found[name]
        if view.dtype not in DTYPES:
            raise CheckpointError(
                f"{view.path}: tensor {name} is {view.dtype}, {', '.join(DTYPES)} expected; use the original checkpoint"
            )
        if view.shape != shape:
            raise ShapeMismatchError(f"{view.path}: tensor {name} is {view.shape}, {shape} follows from {CONFIG}")
    return {name: found[name] for name in expected}, dropped


def _check_mtp_layers(path: Path, config: MimoConfig, names: Iterable[str]) -> None:
    layers = {match[1] for name in names if (match := re.match(r"model\.mtp_layers\.(\d+)\.", name, re.ASCII))}
    said = config.num_nextn_predict_layers
    if len(layers) == said:
        return
    kind = UnknownTensorError if len(layers) > said else MissingTensorError
    raise kind(
        f"{path}: {len(layers)} MTP layers in the weights, num_nextn_predict_layers in {CONFIG} is {said};"
        " take both from one checkpoint"
    )
