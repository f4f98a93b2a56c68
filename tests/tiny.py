"""A tiny seeded MiMo checkpoint folder: real architecture, real file layout, random weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mimo_mobile.mimo7b import MimoConfig
from tools.nano import tokenizer

VOCAB_SIZE = 352
"""Rows of the embedding; 342 are tokens (320 learnt, 22 added), the rest is padding as in MiMo-7B."""

LEARNT = 320

_DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


def tiny_config(
    *, layers: int = 2, mtp_layers: int = 1, hidden: int = 256, ffn: int = 512, vocab_size: int = VOCAB_SIZE
) -> MimoConfig:
    """A configuration of 2 layers, 4 heads of 64 and 2 KV heads, or as many as fit ``hidden``; sizes fit K-quants."""
    return MimoConfig(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        vocab_size=vocab_size,
        max_position_embeddings=512,
        rope_theta=640000.0,
        rms_norm_eps=1e-5,
        num_nextn_predict_layers=mtp_layers,
        bos_token_id=LEARNT,
        eos_token_id=LEARNT + 2,
    )


def tiny_weights(config: MimoConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random weights by name; spread so that logits differ clearly, norms near one, biases not zero."""
    rng = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for name, shape in config.tensor_shapes().items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if "norm" in name:
            values = 1 + 0.2 * values
        elif name.endswith(".bias"):
            values = 0.3 * values
        elif "embed_tokens" not in name:
            values = values * np.float32(1.5 / shape[1] ** 0.5)
        weights[name] = values.astype(np.float32)
    return weights


def write_shard(path: Path, tensors: Mapping[str, tuple[str, NDArray[Any]]]) -> None:
    """Write a safetensors file of (dtype name, values) by hand, so that tests do not lean on one library."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data, offset = [], 0
    for name, (dtype, values) in tensors.items():
        content = values.astype(_DTYPES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + len(content)]}
        data.append(content)
        offset += len(content)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(data))


def write_weights(folder: Path, weights: Mapping[str, NDArray[Any]], *, shards: int = 2, dtype: str = "BF16") -> None:
    """Write weights as one file or as shards with their index."""
    names = list(weights)
    size = -(-len(names) // shards)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        chosen = names[number * size : (number + 1) * size]
        write_shard(folder / file, {name: (dtype, weights[name]) for name in chosen})
        weight_map |= dict.fromkeys(chosen, file)
    if shards > 1:
        total = sum(values.size for values in weights.values()) * np.dtype(_DTYPES[dtype]).itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def write_tiny_checkpoint(
    folder: Path,
    *,
    layers: int = 2,
    mtp_layers: int = 1,
    shards: int = 2,
    seed: int = 0,
    dtype: str = "BF16",
    hidden: int = 256,
    ffn: int = 512,
    vocab_size: int = VOCAB_SIZE,
    low: int = 0,
) -> Path:
    """Write a whole checkpoint folder and return it; ``low`` added tokens come before the learnt ones."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(layers=layers, mtp_layers=mtp_layers, hidden=hidden, ffn=ffn, vocab_size=vocab_size)
    write_json(folder / "config.json", config.to_json())
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": LEARNT, "do_sample": False, "eos_token_id": LEARNT + 2, "max_new_tokens": 2048},
    )
    write_weights(folder, tiny_weights(config, seed), shards=shards, dtype=dtype)
    write_tokenizer(folder)
    if low:
        number_added_tokens_first(folder, low)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json."""
    tokenizer.save(_tokenizer(), folder)


def number_added_tokens_first(folder: Path, count: int) -> None:
    """Give the first added tokens the lowest ids and a place in the vocabulary, as SmolLM2 has them."""
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    vocab, added = fields["model"]["vocab"], fields["added_tokens"]
    first = {each["content"]: number for number, each in enumerate(added[:count])}
    fields["model"]["vocab"] = {**first, **{token: count + number for token, number in vocab.items()}}
    for number, each in enumerate(added):
        each["id"] = number if number < count else len(vocab) + number
    write_json(path, fields)
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((folder / name).read_text(encoding="utf-8"))
        fields |= {"bos_token_id": first["<|endoftext|>"], "eos_token_id": first["<|im_end|>"]}
        write_json(folder / name, fields)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@cache
def _tokenizer() -> Tokenizer:
    corpus = [
        "the answer of the question is the sum of the numbers",
        "<think> step by step </think> What is twelve plus thirty?",
        "def total(values): return sum(values)",
    ]
    return tokenizer.train(corpus * 4, LEARNT)
