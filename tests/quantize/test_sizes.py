"""Sizes of files are known before they are written, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.draft_vocabulary import draft_ids
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.hub import Source
from mimo_mobile.mimo7b import MIMO_7B
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.quantize.recipes import RECIPES
from mimo_mobile.quantize.sizes import model_size
from tests.tiny import write_tiny_checkpoint


def tensor_bytes(path: Path) -> int:
    """What follows the header of a GGUF file."""
    return path.stat().st_size - min(tensor.offset for tensor in GgufHeader(path).tensors.values())


@pytest.mark.parametrize("name", RECIPES)
def test_weights_take_what_the_shapes_say(name: str, tiny: Source, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path, [name], problems=0)
    checkpoint = Checkpoint.open(tiny.path)
    drafts = len(draft_ids(tiny.path, checkpoint.vocabulary))
    found = model_size(RECIPES[name], checkpoint.config, drafts=drafts)
    if RECIPES[name].target == "onnx":
        assert (tmp_path / f"tiny-{name}-onnx/model.onnx.data").stat().st_size == found.model_bytes
        return
    assert tensor_bytes(tmp_path / f"tiny-{name}.gguf") == found.model_bytes
    assert tensor_bytes(tmp_path / f"tiny-{name}-mtp.gguf") == found.mtp_bytes


def test_a_single_file_and_a_model_without_mtp_layer_are_counted_as_they_are_written(tmp_path: Path) -> None:
    source = Source(write_tiny_checkpoint(tmp_path / "tiny"), "tiny")
    quantize_checkpoint(source, tmp_path / "out", ["q4_k_m"], problems=0, single_file=True)
    config = Checkpoint.open(source.path).config
    found = model_size(RECIPES["q4_k_m"], config, single_file=True)
    assert (found.model_bytes, found.mtp_bytes) == (tensor_bytes(tmp_path / "out/tiny-q4_k_m-single.gguf"), 0)


def test_rows_that_fill_no_blocks_are_counted_as_they_are_written(tmp_path: Path) -> None:
    source = Source(write_tiny_checkpoint(tmp_path / "narrow", hidden=192, ffn=288), "narrow")
    quantize_checkpoint(source, tmp_path / "out", ["q4_k_m"], problems=0)
    found = model_size(RECIPES["q4_k_m"], Checkpoint.open(source.path).config)
    assert tensor_bytes(tmp_path / "out/narrow-q4_k_m.gguf") == found.model_bytes


def test_mimo_7b_takes_what_is_documented() -> None:
    sizes = {name: model_size(recipe, MIMO_7B) for name, recipe in RECIPES.items()}
    # llama-quantize's own q4_0 of these shapes, docs/performance.md
    assert round(sizes["q4_0"].model_bytes / 1e9, 2) == 4.29 and sizes["q4_0"].bits_per_weight == pytest.approx(
        4.5, abs=0.01
    )
    more = sizes["int4_b32_plus"].bits_per_weight - sizes["int4_b32"].bits_per_weight
    assert 0.1 < more < 0.3
