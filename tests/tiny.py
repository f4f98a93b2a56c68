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
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mimo_mobile.mimo7b import MimoConfig

VOCAB_SIZE = 352
"""Rows of the embedding; 342 are tokens (320 learnt, 22 added), the rest is padding as in MiMo-7B."""

LEARNT = 320

CONTROL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip

# https://huggingface.co/Qwen/Qwen2.5-7B/blob/main/tokenizer.json, pre_tokenizer
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


def tiny_config(
    *, layers: int = 2, mtp_layers: int = 1, hidden: int = 256, ffn: int = 512, vocab_size: int = VOCAB_SIZE
) -> MimoConfig:
    """A configuration of 2 layers, 4 heads of 64 and 2 KV heads; sizes fit K-quants."""
    return MimoConfig(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
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


def config_json(config: MimoConfig) -> dict[str, Any]:
    """config.json as MiMo-7B's checkpoints have it."""
    fields = {name: getattr(config, name) for name in config.__slots__}
    return fields | {
        "architectures": ["MiMoForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": config.num_hidden_layers,
        "model_type": "mimo",
        "sliding_window": config.max_position_embeddings,
        "tie_word_embeddings": False,
        "tokenizer_class": ["Qwen2Tokenizer"],
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
    }


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
) -> Path:
    """Write a whole checkpoint folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(layers=layers, mtp_layers=mtp_layers, hidden=hidden, ffn=ffn, vocab_size=vocab_size)
    write_json(folder / "config.json", config_json(config))
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": LEARNT, "do_sample": False, "eos_token_id": LEARNT + 2, "max_new_tokens": 2048},
    )
    write_weights(folder, tiny_weights(config, seed), shards=shards, dtype=dtype)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json."""
    text = _tokenizer_json()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    state = json.loads(text)
    write_json(folder / "vocab.json", state["model"]["vocab"])
    merges = "".join(f"{' '.join(merge)}\n" for merge in state["model"]["merges"])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    added = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in state["added_tokens"]}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "additional_special_tokens": list(CONTROL[1:]),
            "bos_token": None,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 512,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def write_json(path: Path, value: object) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@cache
def _tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNT,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        special_tokens=[],
    )
    corpus = [
        "the answer of the question is the sum of the numbers",
        "<think> step by step </think> What is twelve plus thirty?",
        "def total(values): return sum(values)",
    ]
    tokenizer.train_from_iterator(corpus * 4, trainer)
    flags = {"normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer.add_special_tokens([AddedToken(token, special=True, **flags) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, **flags) for token in PLAIN])
    assert tokenizer.get_vocab_size() == LEARNT + len(CONTROL) + len(PLAIN)
    return str(tokenizer.to_str())
