"""The list of recipes, and the choice of one by a size or a phone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import Result

from mimo_mobile.cli import main
from mimo_mobile.errors import BadArgumentError
from mimo_mobile.hub import Source
from mimo_mobile.mimo7b import MIMO_7B
from mimo_mobile.phones import DEVICES
from mimo_mobile.quantize import catalog, sizes
from mimo_mobile.quantize.catalog import Measured
from mimo_mobile.quantize.choice import Limit, choose
from mimo_mobile.quantize.recipes import FORMATS, RECIPES
from tests.commands import runner

ALL = catalog.described()
LOSSES = {"q4_0": 0.3, "q4_k_m": 0.1, "q5_k_m": 0.12}


def mimo(*arguments: object) -> Result:
    return runner().invoke(main, [str(each) for each in arguments])


def chosen(limit: Limit, recipes: list[catalog.Described] = ALL) -> list[str]:
    return [each.recipe for each in choose(recipes, limit, MIMO_7B)]


def test_every_recipe_is_described() -> None:
    assert [each.recipe.name for each in ALL] == list(RECIPES)
    assert all(each.kernels and each.size and each.size.model_bytes > 4e9 for each in ALL)
    assert set(catalog.KERNELS) <= set(FORMATS)


def test_kernels_are_those_that_take_most_of_the_layers() -> None:
    kernels = {each.recipe.name: each.kernels for each in ALL}
    assert "KleidiAI" in kernels["q4_0"] and "KleidiAI" not in kernels["q4_k_m"]
    assert "KleidiAI" in kernels["int4_b32_plus"], "8 bits are a twentieth of its weights"
    assert "KleidiAI" not in kernels["int8"]
    assert kernels["int4_b32_f16"] == ("WebGPU",)


def test_a_size_chooses_the_most_bits_that_fit() -> None:
    assert chosen(Limit(size_bytes=4_300_000_000)) == ["q4_0"]
    assert chosen(Limit(size_bytes=5_600_000_000)) == ["q5_k_m", "int4_b32"]
    with pytest.raises(BadArgumentError, match=r"no recipe fits in 4\.00 GB of files; q4_0 takes least, 4\.30 GB"):
        chosen(Limit(size_bytes=4_000_000_000))


def test_a_phone_has_room_for_weights_cache_and_app_beside_android() -> None:
    assert chosen(Limit(device=DEVICES["phone-12gb"])) == ["q6_k", "int4_b32"]
    assert chosen(Limit(device=DEVICES["phone-16gb"])) == ["q8_0", "int4_b32_plus"]
    for name in ("phone-6gb", "phone-8gb"):  # MiMo-7B on 8 GB is reported to fail
        with pytest.raises(BadArgumentError, match=f"an app may take of {name}'s memory .* q4_0 takes least"):
            chosen(Limit(device=DEVICES[name]))


def test_where_all_that_fit_were_measured_the_least_loss_is_chosen() -> None:
    some = [
        dataclasses.replace(each, measured=(Measured(each.recipe.name, "normal", "a model", LOSSES[each.recipe.name]),))
        for each in ALL
        if each.recipe.name in LOSSES
    ]
    limit = Limit(size_bytes=5_600_000_000)
    (choice,) = choose(some, limit, MIMO_7B)
    assert choice.recipe == "q4_k_m"
    assert choice.reason == (
        "q4_k_m: 4.68 GB of 5.60 GB; of the 3 GGUF recipes that fit it lost least, 0.100 of KL divergence on a model"
    )
    assert chosen(limit, [*some, *(each for each in ALL if each.recipe.name == "int4_b128")]) == ["q4_k_m", "int4_b128"]
    (choice,) = choose(some[:2], Limit(size_bytes=4_300_000_000), MIMO_7B)
    assert choice.reason == "q4_0: 4.30 GB of 4.30 GB; no other GGUF recipe fits"


def test_measured_losses_are_read_and_a_wrong_file_says_where(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    row = {"recipe": "q4_0", "effort": "none", "model": "m", "kld": 0.5}
    path.write_text(json.dumps({"rows": [row]}))
    assert catalog.read_measured(path) == [Measured("q4_0", "none", "m", 0.5)]
    path.write_text(json.dumps({"rows": [row | {"kld": -1}]}))
    with pytest.raises(ValueError, match=r"rows\[0\]\.kld: a number from 0"):
        catalog.read_measured(path)
    assert {row.recipe for row in catalog.read_measured(catalog.MEASURED)} <= set(RECIPES)


def test_a_missing_package_leaves_a_size_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> sizes.ModelSize:
        raise catalog.MissingDependencyError("gguf", "gguf")

    monkeypatch.setattr(catalog, "model_size", missing)
    assert all(each.size is None for each in catalog.described())
    with pytest.raises(BadArgumentError, match="no recipe fits"):
        chosen(Limit(size_bytes=10**12), catalog.described())


def test_mimo_recipes_lists_and_chooses() -> None:
    result = mimo("recipes", "--device", "phone-12gb")
    assert result.exit_code == 0 and all(f"│ {name} " in result.stdout for name in RECIPES)
    assert "q6_k: 6.65 GB of 7.09 GB; of the " in result.stdout
    found = json.loads(mimo("recipes", "--json", "--target-size", "4.3 GB").stdout)
    assert found["chosen"] == ["q4_0"] and found["limit_bytes"] == 4_300_000_000
    assert [each["recipe"] for each in found["recipes"]] == list(RECIPES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipes", "--target-size", "much"], "'much' found, a size such as 4.3GB or 500MB expected"),
        (["recipes", "--device", "pixel"], "'pixel' found, one of phone-6gb, phone-8gb,"),
        (["recipes", "--device", "phone-12gb", "--target-size", "4GB"], "give one of them"),
        (["quantize", "nano", "--recipe", "q4_0", "--device", "phone-12gb"], "--recipe names recipes,"),
        (["quantize", "nano", "--target-size", "1MB"], "no recipe fits in 1.00 MB of files; q4_0 takes least"),
    ],
)
def test_what_cannot_be_chosen_is_a_mistake_in_usage(arguments: list[str], message: str) -> None:
    result = mimo(*arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr


def test_quantize_makes_what_fits_and_says_why(nano: Source, tmp_path: Path) -> None:
    result = mimo("quantize", nano.path, "--out", tmp_path, "--target-size", "2.2MB", "--problems", 0, "--no-answer")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.glob("*/*.gguf")) == ["nano-q4_0-mtp.gguf", "nano-q4_0.gguf"]
    assert "chosen for 2.20 MB of files:" in result.stderr and "q4_0: 2.14 MB of 2.20 MB" in result.stderr
