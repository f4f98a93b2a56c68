"""Tensor names against the gguf package, which knows llama.cpp's."""

from __future__ import annotations

import gguf
import pytest

from mimo_mobile.convert.tensors import Dropped, Mapped, map_tensor, map_tensors
from mimo_mobile.errors import UnknownTensorError
from mimo_mobile.mimo7b import MIMO_7B


def test_trunk_names_are_those_of_llama_cpp() -> None:
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, MIMO_7B.num_hidden_layers)
    for name, target in map_tensors(MIMO_7B.tensor_shapes(), 36, "trunk").items():
        assert target.name == theirs.get_name(name, try_suffixes=(".weight", ".bias")), name


def test_mtp_names_are_llama_cpps_nextn_names() -> None:
    known = {gguf.TENSOR_NAMES[key].format(bid=36) for key in gguf.TENSOR_NAMES}
    targets = map_tensors(MIMO_7B.tensor_shapes(), 36, "mtp")
    assert len(targets) == 16
    for target in targets.values():
        assert target.name.rsplit(".", 1)[0] in known, target
    assert [target.name for target in targets.values() if target.swap_halves] == ["blk.36.nextn.eh_proj.weight"]


def test_every_tensor_of_mimo_7b_has_one_place() -> None:
    names = MIMO_7B.tensor_shapes()
    assert len(names) == 451
    trunk, mtp, whole = (map_tensors(names, 36, layout) for layout in ("trunk", "mtp", "whole"))
    assert (len(trunk), len(mtp), len(whole)) == (435, 16, 451)
    assert trunk.keys() | mtp.keys() == whole.keys()
    assert len({target.name for target in whole.values()}) == 451


def test_sizes_are_those_of_the_published_checkpoint() -> None:
    # https://huggingface.co/XiaomiMiMo/MiMo-7B-RL/blob/main/model.safetensors.index.json, total_size
    import math

    assert 2 * sum(math.prod(shape) for shape in MIMO_7B.tensor_shapes().values()) == 15_666_819_072


@pytest.mark.parametrize(
    "name",
    ["model.layers.00.mlp.up_proj.weight", "visual.patch_embed.weight", "model.layers.0.mlp.up_proj.weight_scale"],
)
def test_an_unknown_tensor_is_an_error(name: str) -> None:
    with pytest.raises(UnknownTensorError, match=name):
        map_tensor(name, 36)


def test_two_names_for_one_target_are_an_error() -> None:
    with pytest.raises(UnknownTensorError, match="both become"):
        map_tensors(["lm_head.weight", "lm_head.weight"], 36, "trunk")


def test_a_drop_has_a_reason() -> None:
    assert isinstance(map_tensor("model.rotary_emb.inv_freq", 36), Dropped)
    assert isinstance(map_tensor("lm_head.weight", 36), Mapped)
