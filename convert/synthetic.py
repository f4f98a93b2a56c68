"""Writes a checkpoint with MiMo-7B's exact shapes and random weights, to measure size and speed without the real ones.

It is marked in config.json, so that nothing made from it can be mistaken for MiMo-7B.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mimo_mobile import files
from mimo_mobile.convert.checkpoint import CONFIG
from mimo_mobile.convert.json_files import present, read_bytes
from mimo_mobile.convert.shards import INDEX
from mimo_mobile.convert.vocabulary import read_vocabulary
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.files import FolderKind
from mimo_mobile.hub import NANO, resolve
from mimo_mobile.mimo7b import MIMO_7B, SYNTHETIC, MimoConfig
from mimo_mobile.progress import Progress, ProgressCallback, ignore

SHARD_BYTES = 5_000_000_000
"""A shard has at most so many bytes, as when transformers saves: MiMo-7B's 15.7 GB are four shards."""

POOL_WEIGHTS = 1 << 24
"""All matrices are cut from so many random weights, each from another place: to draw each anew would take minutes."""

DEVIATION = 0.02
"""The standard deviation of the weights, which is MiMo-7B's initializer_range."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja")

SYNTHETIC_FOLDER = FolderKind(
    (CONFIG, *TOKENIZER_FILES, "model-*.safetensors", INDEX), mark=CONFIG, text=SYNTHETIC.encode()
)
"""What ``write_synthetic`` makes, and no other checkpoint."""


def write_synthetic(
    out: str | Path,
    *,
    layers: int = MIMO_7B.num_hidden_layers,
    tokenizer: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
    progress: ProgressCallback = ignore,
) -> Path:
    """Write a checkpoint folder with random bfloat16 weights: 451 tensors and 15.7 GB with all 36 layers.

    Args:
        out: The folder.
        layers: How many layers the trunk has; the MTP layer, embedding and head come on top.
        tokenizer: A folder with a tokenizer.json of MiMo's type; by default MiMo-nano's, padded to MiMo-7B's rows.
        seed: The same seed gives the same weights.
        force: Whether to replace ``out``.
        progress: A function that is called for every tensor.

    Raises:
        BadArgumentError: ``layers`` is less than one or more than MiMo-7B has.
        CheckpointError: The tokenizer is missing or of another type.
        OutputExistsError: ``out`` is there and ``force`` is false.
    """
    if not 1 <= layers <= MIMO_7B.num_hidden_layers:
        raise BadArgumentError(f"layers {layers} is out of range, 1…{MIMO_7B.num_hidden_layers} expected")
    out, config = Path(out), dataclasses.replace(MIMO_7B, num_hidden_layers=layers)
    words = Path(tokenizer) if tokenizer is not None else resolve(NANO).path
    read_vocabulary(words, config.vocab_size)
    shards = list(_shards(config))
    total = sum(2 * math.prod(shape) for shard in shards for shape in shard.values())
    with files.whole(out, force=force, kind=SYNTHETIC_FOLDER) as folder:
        folder.mkdir(parents=True)
        for name in TOKENIZER_FILES:
            if present(words / name):
                (folder / name).write_bytes(read_bytes(words / name))
        (folder / CONFIG).write_text(json.dumps(config.to_json() | {SYNTHETIC: True}, indent=2) + "\n")
        random = np.random.Generator(np.random.PCG64(seed))
        pool = (DEVIATION * random.standard_normal(POOL_WEIGHTS, np.float32)).astype(ml_dtypes.bfloat16)
        weight_map, done = {}, 0
        for number, shard in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            with (folder / file).open("wb") as handle:
                _write_header(handle, shard)
                for name, shape in shard.items():
                    _write_tensor(handle, math.prod(shape), pool, random, ones="norm" in name)
                    weight_map[name] = file
                    done += 2 * math.prod(shape)
                    progress(Progress(f"write {out.name}", done, total, name))
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return out


def _shards(config: MimoConfig) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shapes of each shard's tensors, in the checkpoint's order and as many as fit."""
    shard: dict[str, tuple[int, ...]] = {}
    size_bytes = 0
    for name, shape in config.tensor_shapes().items():
        if shard and size_bytes + 2 * math.prod(shape) > SHARD_BYTES:
            yield shard
            shard, size_bytes = {}, 0
        shard[name] = shape
        size_bytes += 2 * math.prod(shape)
    yield shard


def _write_header(handle: BinaryIO, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write the header of a safetensors file.

    Source of the layout: https://github.com/huggingface/safetensors/blob/v0.6.2/README.md#format
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    handle.write(len(encoded).to_bytes(8, "little") + encoded)


def _write_tensor(
    handle: BinaryIO, count: int, pool: NDArray[np.generic], random: np.random.Generator, *, ones: bool
) -> None:
    if ones:
        np.ones(count, pool.dtype).tofile(handle)
        return
    while count:
        start = int(random.integers(POOL_WEIGHTS))
        piece = pool[start : start + count]
        piece.tofile(handle)
        count -= len(piece)
