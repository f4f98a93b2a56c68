"""MiMo-nano's checkpoint folder: configuration, sharded bf16 weights, tokenizer files, held-out problems."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mimo_mobile.mimo7b import MimoConfig
from tools.nano.problems import Problem
from tools.nano.tokenizer import PADDED_SIZE

CONFIG = MimoConfig(
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    vocab_size=PADDED_SIZE,
    max_position_embeddings=2048,
    rope_theta=640000.0,
    rms_norm_eps=1e-5,
    num_nextn_predict_layers=1,
    bos_token_id=1024,
    eos_token_id=1026,
)

SHARDS = 2


def save_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write bf16 shards with their index, tensors in the order of the checkpoint's table."""
    shapes = CONFIG.tensor_shapes()
    if set(shapes) != set(weights):
        raise ValueError(f"tensors differ from the table: {set(shapes) ^ set(weights)}")
    total = sum(weights[name].numel() * 2 for name in shapes)
    shards: list[dict[str, Tensor]] = [{} for _ in range(SHARDS)]
    written = 0
    for name in shapes:
        shards[min(SHARDS - 1, written * SHARDS // total)][name] = (
            weights[name].detach().to(torch.bfloat16).contiguous()
        )
        written += weights[name].numel() * 2
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{SHARDS:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, file)
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def save_config(folder: Path) -> None:
    """Write config.json and generation_config.json with MiMo-7B's fields."""
    _write(folder / "config.json", CONFIG.to_json())
    generation = {
        "bos_token_id": CONFIG.bos_token_id,
        "do_sample": False,
        "eos_token_id": CONFIG.eos_token_id,
        "max_new_tokens": 2048,
        "pad_token_id": CONFIG.bos_token_id,
        "transformers_version": "4.40.1",
    }
    _write(folder / "generation_config.json", generation)


def save_held_out(problems: Iterable[Problem], folder: Path) -> None:
    """Write the held-out problems, one JSON object a line."""
    lines = (
        json.dumps({"kind": problem.kind, "question": problem.question, "answer": problem.answer}, ensure_ascii=False)
        for problem in problems
    )
    (folder / "heldout.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
