"""Recipes: every tensor has a format, chosen as the recipe's words say."""

from __future__ import annotations

import math
import re
from math import prod
from urllib.parse import quote, unquote_plus

import pytest

from mimo_mobile.convert.formats import PlainFormat
from mimo_mobile.errors import QuantizationError
from mimo_mobile.mimo7b import MIMO_7B
from mimo_mobile.quantize.formats import GgmlFormat, NBitsFormat
from mimo_mobile.quantize.recipes import FORMATS, RECIPES, Recipe, recipe_named


@pytest.mark.parametrize("name", RECIPES)
def test_every_tensor_of_mimo_7b_gets_a_format_of_the_recipes_target(name: str) -> None:
    recipe = RECIPES[name]
    kinds = (PlainFormat, GgmlFormat) if recipe.target == "gguf" else (PlainFormat, NBitsFormat)
    for tensor, shape in MIMO_7B.tensor_shapes().items():
        chosen = FORMATS[recipe.format_of(tensor, 36)]
        assert isinstance(chosen, kinds), tensor
        assert (len(shape) == 1) == (isinstance(chosen, PlainFormat) and chosen.name == "F32"), tensor


def test_q4_0_is_pure_and_int4_keeps_its_head_in_8_bits() -> None:
    assert RECIPES["q4_0"].format_of("lm_head.weight", 36) == "Q4_0"
    assert RECIPES["int4_b32"].format_of("lm_head.weight", 36) == "int8_b32"
    assert RECIPES["int4_b32"].format_of("model.embed_tokens.weight", 36) == "int4_b32"


def test_q4_0_plus_takes_at_most_three_tenths_of_a_bit_more_and_keeps_to_what_phones_compute_fast() -> None:
    def bits(recipe: Recipe) -> float:
        made = weights = 0
        for tensor, shape in MIMO_7B.tensor_shapes().items():
            chosen = FORMATS[recipe.format_of(tensor, 36)]
            assert isinstance(chosen, PlainFormat | GgmlFormat)
            made += prod(shape) // shape[-1] * chosen.row_bytes(shape[-1])
            weights += prod(shape)
        return 8 * made / weights

    plus = RECIPES["q4_0_plus"]
    assert 0.2 < bits(plus) - bits(RECIPES["q4_0"]) <= 0.3
    down = [plus.format_of(f"model.layers.{layer}.mlp.down_proj.weight", 36) for layer in range(36)]
    assert down == ["Q6_K"] * 2 + ["Q4_0"] * 32 + ["Q6_K"] * 2
    assert plus.format_of("model.layers.7.self_attn.v_proj.weight", 36) == "Q8_0"
    assert plus.format_of("lm_head.weight", 36) == "Q6_K"
    assert plus.format_of("model.layers.7.mlp.up_proj.weight", 36) == "Q4_0"


@pytest.mark.parametrize("name", RECIPES)
def test_names_of_recipes_need_no_quotes_in_shells_addresses_and_makefiles(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert quote(name) == name == unquote_plus(name)


def test_int4_plus_keeps_values_and_the_outer_down_projections_in_8_bits() -> None:
    recipe, shapes = RECIPES["int4_b32_plus"], MIMO_7B.tensor_shapes()
    finer = {name for name in shapes if recipe.format_of(name, 36) != RECIPES["int4_b32"].format_of(name, 36)}
    assert finer == {f"model.layers.{layer}.self_attn.v_proj.weight" for layer in range(36)} | {
        f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1, 34, 35)
    }
    assert all(recipe.format_of(name, 36) == "int8_b32" for name in finer)
    more = 4 * sum(math.prod(shapes[name]) for name in finer) / sum(math.prod(shape) for shape in shapes.values())
    assert more < 0.3, "bits a weight"


def test_an_unknown_recipe_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(QuantizationError, match="no recipe 'q3'; there are q4_0, q4_0_plus, q4_k_m"):
        recipe_named("q3")


def test_a_tensor_without_a_rule_is_an_error() -> None:
    with pytest.raises(QuantizationError, match=r"recipe x: no rule for tensor lm_head\.weight"):
        Recipe("x", "gguf", "", ((r"norm", "F32"),)).format_of("lm_head.weight", 36)
