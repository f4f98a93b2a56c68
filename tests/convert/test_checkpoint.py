"""Checkpoints that lie, lack or harm: each is a named error, before any weight is read."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.errors import CheckpointError, MissingTensorError, ShapeMismatchError, UnknownTensorError
from mimo_mobile.hub import Source
from tests.tiny import (
    tiny_config,
    tiny_weights,
    write_json,
    write_shard,
    write_tiny_checkpoint,
    write_tokenizer,
    write_weights,
)

Change = Callable[[Path], Any]


@pytest.fixture
def folder(tiny: Source, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.path, tmp_path / "checkpoint"))


def shard(folder: Path, number: int = 2) -> Path:
    return folder / f"model-{number:05d}-of-00002.safetensors"


def edit_config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        write_json(folder / "config.json", {key: value for key, value in config.items() if value is not ...})

    return change


def rewrite(weights: dict[str, Any], dtype: str = "BF16") -> Change:
    def change(folder: Path) -> None:
        for path in folder.glob("model*"):
            path.unlink()
        write_weights(folder, weights, shards=2, dtype=dtype)

    return change


def weights(**changes: Any) -> dict[str, Any]:
    made = tiny_weights(tiny_config()) | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in made.items() if value is not ...}


def edit_index(edit: Callable[[dict[str, Any]], None]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        edit(index)
        write_json(path, index)

    return change


def pickled_only(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


BAD: dict[str, tuple[Change, type[CheckpointError], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), CheckpointError, "no config.json"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), CheckpointError, "no valid JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), CheckpointError, "a JSON list found"),
    "key twice": (lambda f: (f / "config.json").write_text('{"a": 1, "a": 2}'), CheckpointError, "'a' is there twice"),
    "another architecture": (edit_config(model_type="qwen2"), CheckpointError, "this is no MiMo-7B checkpoint"),
    "sliding window": (edit_config(use_sliding_window=True), CheckpointError, "use_sliding_window True found"),
    "size missing": (edit_config(hidden_size=...), CheckpointError, "hidden_size missing"),
    "size negative": (edit_config(hidden_size=-1), CheckpointError, "hidden_size -1 found"),
    "size a text": (edit_config(vocab_size="352"), CheckpointError, "vocab_size '352' found"),
    "endless layers": (edit_config(num_hidden_layers=10**9), CheckpointError, "num_hidden_layers 1000000000 found"),
    "endless vocabulary": (edit_config(vocab_size=10**12), CheckpointError, "vocab_size 1000000000000 found"),
    "more layers": (edit_config(num_hidden_layers=3), MissingTensorError, "model.layers.2"),
    "fewer layers": (edit_config(num_hidden_layers=1), UnknownTensorError, "beyond the 1 layers"),
    "no MTP said": (edit_config(num_nextn_predict_layers=0), UnknownTensorError, "1 MTP layers in the weights"),
    "two MTP said": (edit_config(num_nextn_predict_layers=2), MissingTensorError, "1 MTP layers in the weights"),
    "other shape": (edit_config(intermediate_size=256), ShapeMismatchError, r"follows from config.json"),
    "shard missing": (lambda f: shard(f).unlink(), MissingTensorError, "shard missing"),
    "shard truncated": (lambda f: shard(f).write_bytes(shard(f).read_bytes()[:-9]), CheckpointError, "truncated"),
    "shard empty": (lambda f: shard(f).write_bytes(b""), CheckpointError, "truncated"),
    "header endless": (lambda f: shard(f).write_bytes(struct.pack("<Q", 2**60)), CheckpointError, "truncated"),
    "nothing there": (lambda f: [p.unlink() for p in f.glob("model*")], MissingTensorError, "neither model.safet"),
    "pickled": (pickled_only, CheckpointError, "pickled weights are refused"),
    "wrong dtype": (lambda f: _float64(f), CheckpointError, "is F64, BF16, F16, F32 expected"),
    "unknown tensor": (
        rewrite(weights(model__layers__0__self_attn__q_norm__weight=np.ones(64))), UnknownTensorError, "has none of",
    ),
    "tensor missing": (rewrite(weights(model__norm__weight=...)), MissingTensorError, "model.norm.weight missing"),
    "index out of folder": (
        edit_index(lambda i: i["weight_map"].update({"lm_head.weight": "../x.safetensors"})), CheckpointError, "name",
    ),
    "index promises more": (
        edit_index(lambda i: i["weight_map"].update({"x": shard(Path()).name})), MissingTensorError, "no tensor x",
    ),
    "index knows less": (
        edit_index(lambda i: i["weight_map"].pop("lm_head.weight")), CheckpointError, "is not in model.safet",
    ),
    "index no map": (edit_index(lambda i: i.pop("weight_map")), CheckpointError, "no weight_map"),
}  # fmt: skip


def _float64(folder: Path) -> None:
    path = shard(folder, 1)
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    name = next(name for name, entry in header.items() if name.endswith("norm.weight"))
    header[name]["dtype"] = "F64"
    header[name]["shape"] = [header[name]["shape"][0] // 4]
    text = json.dumps(header).encode().ljust(size)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.mark.parametrize("case", BAD)
def test_a_bad_checkpoint_is_a_named_error_of_one_line(case: str, folder: Path) -> None:
    change, kind, message = BAD[case]
    change(folder)
    with pytest.raises(kind, match=message) as caught:
        Checkpoint.open(folder)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_every_tensor_is_there_in_the_tables_order(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert list(checkpoint.tensors) == list(checkpoint.config.tensor_shapes())
    assert checkpoint.num_parameters == sum(view.size for view in checkpoint.tensors.values())


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_values_come_out_as_they_went_in(dtype: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_tiny_checkpoint(tmp_path, dtype=dtype, shards=1))
    expected = tiny_weights(tiny_config())
    for name, view in checkpoint.tensors.items():
        tolerance = {"BF16": 2**-8, "F16": 2**-10, "F32": 0}[dtype]
        np.testing.assert_allclose(view.float32(), expected[name], rtol=tolerance, atol=1e-6)
        np.testing.assert_array_equal(view.float32(), view.array().astype(np.float32))


def test_buffers_of_old_checkpoints_are_dropped_with_a_reason(tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    write_json(tmp_path / "config.json", tiny_config().to_json())
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors = {key: ("BF16", value) for key, value in (tiny_weights(tiny_config()) | {name: np.ones(32)}).items()}
    write_shard(tmp_path / "model.safetensors", tensors)
    write_tokenizer(tmp_path)
    assert Checkpoint.open(tmp_path).dropped == {name: "a buffer of old checkpoints, computed from rope_theta"}
