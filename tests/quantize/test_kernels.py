"""The compiled kernels against numpy, bit for bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import gguf
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.quantize import kernels
from mimo_mobile.quantize.formats import GgmlFormat, NBitsFormat
from mimo_mobile.quantize.ggml import quantize_rows
from mimo_mobile.quantize.kernels import Blocks

ROOT = Path(__file__).resolve().parents[2]


def hard_rows() -> NDArray[np.float32]:
    """Heavy-tailed weights of every size, with zeros of both signs, ties between signs and between levels."""
    rng = np.random.Generator(np.random.PCG64(5))
    values = (rng.standard_t(4, (64, 512)) * 0.02).astype(np.float32)
    values[0], values[1] = 0, -0.0
    values[2, ::2], values[2, 1::2] = 0.5, -0.5
    values[3] = np.resize(np.arange(-16, 17) / 16, 512)
    for row, exponent in zip(range(4, 16), (4, -30, -33, -35, -36, -37, -38, -39, -40, -42, -44, -45), strict=True):
        values[row] *= np.float64(10.0) ** exponent
    values[16, ::32] = 65504
    return values


def rounded(values: NDArray[np.float32], bits: int, block_size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What ``NBitsFormat.quantize`` gives without importance, by numpy."""
    middle = 1 << (bits - 1)
    blocks = values.reshape(len(values), -1, block_size)
    high, low = blocks.max(axis=-1), blocks.min(axis=-1)
    scales = (np.where(high > -low, high, low) / -middle).astype(ml_dtypes.bfloat16).astype(np.float32)
    scales[np.abs(scales) < np.finfo(np.float32).tiny] = 0  # the inverse of a subnormal one would be infinite
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    levels = (np.clip(np.rint(blocks * inverse[..., None]), -middle, middle - 1) + middle).astype(np.uint8)
    return levels if bits == 8 else levels[..., 0::2] | levels[..., 1::2] << 4, scales


@pytest.mark.parametrize(("bits", "block_size"), [(4, 32), (4, 64), (4, 128), (8, 32), (8, 16)])
def test_rounded_blocks_equal_numpys_bit_for_bit(bits: Literal[4, 8], block_size: int) -> None:
    values = hard_rows()
    levels, scales = NBitsFormat(bits, block_size).quantize(values)
    expected_levels, expected_scales = rounded(values, bits, block_size)
    np.testing.assert_array_equal(levels, expected_levels)
    np.testing.assert_array_equal(scales.view(np.uint32), expected_scales.view(np.uint32))


def test_rows_that_do_not_lie_one_after_the_other_are_read_in_their_order() -> None:
    values = hard_rows()
    made, whole = NBitsFormat(4, 32).quantize(values[::-2, :256]), NBitsFormat(4, 32).quantize(values[:, :256])
    for some, each in zip(made, whole, strict=True):
        np.testing.assert_array_equal(some, each[::-2])


@pytest.mark.parametrize("state", ["not there", "of other sources"])
def test_kernels_that_were_not_built_say_what_to_do(state: str, tmp_path: Path) -> None:
    package = tmp_path / "mimo_mobile"
    shutil.copytree(ROOT / "src/mimo_mobile", package, symlinks=True, ignore=shutil.ignore_patterns("nano"))
    for stage in ("convert", "quantize", "runtime"):
        (package / stage).unlink()
        shutil.copytree(ROOT / stage, package / stage, ignore=shutil.ignore_patterns("libkernels.*"))
    if state != "not there":
        (package / "quantize/libkernels.so").write_bytes(b"\x7fELF of another machine")
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from mimo_mobile.quantize.pipeline import quantize_checkpoint
        quantize_checkpoint({str(ROOT / "src/mimo_mobile/nano")!r}, {str(tmp_path / "out")!r}, ["int4_b32"])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == (
        f"mimo_mobile.errors.QuantizationError: {package}/quantize/libkernels.so: {state}, and quantizing, converting"
        " to ONNX and comparing with a checkpoint need what a C compiler makes of kernels.c (sudo apt install"
        " build-essential); install mimo-mobile again, in a checkout by"
        " `make quantize`"
    )


def test_the_package_is_imported_without_its_kernels() -> None:
    code = "import mimo_mobile, sys; mimo_mobile.load; print('mimo_mobile.quantize' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (11, 32), (16, 70)])
def test_products_equal_numpys_bit_for_bit_whatever_other_tokens_there_are(rows: int, tokens: int) -> None:
    rng = np.random.Generator(np.random.PCG64(2))
    weights, inputs = (rng.standard_normal((count, 600), np.float32) for count in (rows, tokens))
    expected = np.zeros((tokens, rows), np.float32)
    for start in range(0, 600, 256):  # so many columns are added together
        part = np.zeros_like(expected)
        for column in range(start, min(start + 256, 600)):
            part += inputs[:, column, None] * weights[:, column]
        expected += part
    out = np.full((tokens, rows + 2), np.nan, np.float32)
    kernels.multiply(np.asfortranarray(weights), kernels.side_by_side(inputs), out[:, 1:-1])
    assert out[:, 1:-1].tobytes() == expected.tobytes()
    assert np.isnan(out[:, [0, -1]]).all(), "nothing else is written"


@pytest.mark.parametrize(("bits", "flip"), [(4, 0), (4, 0x88), (8, 0)])
def test_what_is_unpacked_is_each_level_times_its_scale(bits: Literal[4, 8], flip: int) -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    middle = 1 << (bits - 1)
    levels = rng.integers(-middle, middle, (5, 96)).astype(np.int8)
    scales = rng.standard_normal((5, 3), np.float32)
    packed = kernels.pack_pairs(levels) if bits == 4 else levels.view(np.uint8) ^ np.uint8(0x80)
    out = np.empty((5, 96), np.float32)
    kernels.unpack(packed ^ np.uint8(flip), scales, bits, flip, out)
    np.testing.assert_array_equal(out, levels * np.repeat(scales, 32, axis=1))


def test_pairs_are_packed_with_the_first_in_the_low_half() -> None:
    levels = np.arange(-8, 8, dtype=np.int8)[None]
    np.testing.assert_array_equal(kernels.pack_pairs(levels)[0], np.arange(8) * 2 | (np.arange(8) * 2 + 1) << 4)


def stored(scales: NDArray[np.float32], float16: bool) -> NDArray[np.float32]:
    """Scales as files hold them, 0 where their inverse would be infinite."""
    if float16:
        return scales.astype(np.float16).astype(np.float32)
    made = scales.astype(ml_dtypes.bfloat16).astype(np.float32)
    return np.where(np.abs(made) < np.finfo(np.float32).tiny, np.float32(0), made)


def sums(
    blocks: NDArray[np.float32], importance: NDArray[np.float32], inverses: NDArray[np.float32], middle: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Σ importance · weight · level and Σ importance · level² of blocks [B, size] for inverse scales [B, C]."""
    products, squares = np.zeros_like(inverses), np.zeros_like(inverses)
    for weight, part in zip(blocks.T[..., None], importance.T[..., None], strict=True):
        level = np.rint(np.clip(weight * inverses, -middle, middle - 1))
        products += part * weight * level
        squares += part * level * level
    return products, squares


def inverse(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=values != 0)


def searched(
    values: NDArray[np.float32], importance: NDArray[np.float32], blocks: Blocks
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What ``search_blocks`` gives, by numpy in float32: levels [N, K] and scales [N, K / size]."""
    these = values.reshape(-1, blocks.size)
    parts = np.broadcast_to(importance, values.shape).reshape(these.shape)
    high, low = these.max(axis=1), these.min(axis=1)
    extreme = np.where(high > -low, high, low)
    plain = stored(extreme / np.float32(-blocks.middle), blocks.float16)
    places = np.concatenate([-kernels._PLACES[blocks.bits], kernels._PLACES[blocks.bits]])
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        products, squares = sums(these, parts, places / extreme[:, None], blocks.middle)
        fitting = np.where(squares > 0, products / squares, np.float32(0))
        saved = np.nan_to_num(products * fitting, nan=0)
    best = saved.argmax(axis=1)
    rows = np.arange(len(these))
    center = np.where(saved[rows, best] > 0, fitting[rows, best], plain)
    scales = stored(center[:, None] * (1 + (np.arange(16, dtype=np.float32) - 8) / 256), blocks.float16)
    scales[:, 0] = plain
    errors, inverses = np.zeros_like(scales), inverse(scales)
    for weight, part in zip(these.T[..., None], parts.T[..., None], strict=True):
        lost = weight - scales * np.rint(np.clip(weight * inverses, -blocks.middle, blocks.middle - 1))
        errors += part * lost * lost
    errors[~np.isfinite(errors)] = np.inf
    chosen = np.where(plain == 0, np.float32(0), scales[rows, errors.argmin(axis=1)])
    levels = np.rint(np.clip(these * inverse(chosen)[:, None], -blocks.middle, blocks.middle - 1))
    return levels.reshape(values.shape), chosen.reshape(len(values), -1)


def weights_of_errors(columns: int) -> NDArray[np.float32]:
    made = np.exp(2 * np.random.Generator(np.random.PCG64(6)).standard_normal(columns)).astype(np.float32)
    made[:128] = 0
    made[130:140], made[140], made[200] = 0, 1e4, np.nan
    return made


SHAPES = [Blocks(4, 32), Blocks(4, 64), Blocks(4, 128), Blocks(8, 32), Blocks(4, 32, float16=True)]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("blocks", SHAPES, ids=str)
def test_searched_blocks_equal_numpys_bit_for_bit(blocks: Blocks) -> None:
    values = hard_rows()
    importance = weights_of_errors(values.shape[1])
    levels, scales = kernels.search_blocks(values, importance, blocks)
    expected_levels, expected_scales = searched(values, importance, blocks)
    np.testing.assert_array_equal(scales, expected_scales)
    np.testing.assert_array_equal(levels, expected_levels)
    np.testing.assert_array_equal(stored(scales, blocks.float16), scales)


@pytest.mark.parametrize("bad", [0, np.nan])
def test_blocks_without_importance_are_rounded_alone(bad: float) -> None:
    values, importance = hard_rows(), np.ones(512, np.float32)
    importance[64:192] = bad
    made = kernels.search_blocks(values, importance, Blocks(4, 32))
    plain = kernels.round_blocks(values, Blocks(4, 32))
    np.testing.assert_array_equal(made[0][:, 64:192], plain[0][:, 64:192])
    np.testing.assert_array_equal(made[1][:, 2:6], plain[1][:, 2:6])
    assert (made[1][:, 6:] != plain[1][:, 6:]).mean() > 0.5


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_blocks_in_units_have_the_best_of_fifteen_scales_and_the_best_unit_of_a_row() -> None:
    blocks = Blocks(4, 32, in_units=True)
    rng = np.random.Generator(np.random.PCG64(9))
    values = (rng.standard_t(4, (24, 256)) * 0.02).astype(np.float32)
    importance = np.exp(rng.standard_normal(256)).astype(np.float32)
    levels, scales = kernels.search_blocks(values, importance, blocks)
    units = kernels.units_of(values, importance, blocks)
    assert units is not None
    counts = scales / units[:, None]
    np.testing.assert_array_equal(counts, np.rint(counts))
    assert counts.min() >= 1 and counts.max() <= 15
    np.testing.assert_array_equal(stored(scales, False), scales)  # exact in bfloat16
    made = weighted_error(values, importance, levels, scales)

    def least(unit: NDArray[np.float32]) -> NDArray[np.float64]:
        tried = [np.repeat((unit * count)[:, None], 8, axis=1).astype(np.float32) for count in range(1, 16)]
        rounded = [np.clip(np.rint(values / np.repeat(each, 32, axis=1)), -8, 7).astype(np.int8) for each in tried]
        errors = [weighted_error(values, importance, *both) for both in zip(rounded, tried, strict=True)]
        return np.asarray(np.min(errors, axis=0))

    np.testing.assert_allclose(made, least(units), rtol=1e-4)
    for factor in (0.75, 0.875, 1.125, 1.25):
        assert made.sum() < 1.01 * least((units * factor).astype(np.float32)).sum()
    free = weighted_error(values, importance, *kernels.search_blocks(values, importance, Blocks(4, 32)))
    assert made.sum() < 1.3 * free.sum()


@pytest.mark.parametrize("bad", [0, np.nan])
def test_blocks_in_units_without_importance_clip_nothing(bad: float) -> None:
    values, importance = hard_rows(), np.full(512, bad, np.float32)
    levels, scales = kernels.search_blocks(values, importance, Blocks(4, 32, in_units=True))
    lost = np.abs(values - levels * np.repeat(scales, 32, axis=1))
    assert (lost <= 0.5001 * np.repeat(scales, 32, axis=1)).all()


def weighted_error(
    values: NDArray[np.float32], importance: NDArray[np.float32], levels: NDArray[np.int8], scales: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Of each block, in float64."""
    size = values.shape[1] // scales.shape[1]
    lost = values.astype(np.float64) - levels * np.repeat(scales.astype(np.float64), size, axis=1)
    return (importance * lost**2).reshape(*scales.shape, size).sum(axis=-1)


@pytest.mark.parametrize("blocks", SHAPES, ids=str)
def test_a_search_loses_less_than_rounding_and_nearly_as_little_as_trying_everything(blocks: Blocks) -> None:
    rng = np.random.Generator(np.random.PCG64(7))
    values = (rng.standard_t(4, (16, 512)) * 0.02).astype(np.float32)
    importance = np.exp(rng.standard_normal(512)).astype(np.float32)
    made = weighted_error(values, importance, *kernels.search_blocks(values, importance, blocks))
    plain = weighted_error(values, importance, *kernels.round_blocks(values, Blocks(blocks.bits, blocks.size)))
    assert made.sum() < 0.85 * plain.sum()
    if not blocks.float16:
        assert (made <= plain * (1 + 1e-5)).all()
    least = np.full(made.shape, np.inf)
    extreme = np.abs(values).reshape(*made.shape, blocks.size).max(axis=-1)
    for place in np.linspace(blocks.middle / 2, 2 * blocks.middle, 1000):
        for sign in (-1, 1):
            scales = (sign * extreme / place).astype(np.float32)
            wide = np.repeat(scales, blocks.size, axis=1)
            levels = np.clip(np.rint(values / wide), -blocks.middle, blocks.middle - 1).astype(np.int8)
            least = np.minimum(least, weighted_error(values, importance, levels, scales))
    assert made.sum() < (1.03 if blocks.bits == 4 else 1.06) * least.sum()


def test_searched_q4_0_is_ggmls_q4_0_and_loses_less_than_ggmls_own_search() -> None:
    values, importance = hard_rows(), np.linspace(0.1, 3, 512, dtype=np.float32)
    out = np.empty((2, 64, 512 // 32 * 18), np.uint8)
    GgmlFormat("Q4_0").encode(values, out[0], importance)
    quantize_rows(gguf.GGMLQuantizationType.Q4_0, values, out[1], importance)
    ours, ggmls = (gguf.quants.dequantize(each, gguf.GGMLQuantizationType.Q4_0) for each in out)
    levels, scales = searched(values, importance, Blocks(4, 32, float16=True))
    np.testing.assert_array_equal(ours, levels * np.repeat(scales, 32, axis=1))
    errors = [(importance * np.square(each.astype(np.float64) - values))[17:].sum() for each in (ours, ggmls)]
    assert errors[0] < 0.99 * errors[1]
