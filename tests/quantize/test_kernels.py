"""The compiled kernels against numpy, bit for bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from mimo_mobile.quantize import kernels
from mimo_mobile.quantize.formats import NBitsFormat

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
        f"mimo_mobile.errors.QuantizationError: {package}/quantize/libkernels.so: {state}, and quantizing needs what a"
        " C compiler makes of kernels.c (sudo apt install build-essential); install mimo-mobile again, in a checkout by"
        " `make quantize`"
    )


def test_the_package_is_imported_without_its_kernels() -> None:
    code = "import mimo_mobile, sys; mimo_mobile.load; print('mimo_mobile.quantize' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_pairs_are_packed_with_the_first_in_the_low_half() -> None:
    levels = np.arange(-8, 8, dtype=np.int8)[None]
    np.testing.assert_array_equal(kernels.pack_pairs(levels)[0], np.arange(8) * 2 | (np.arange(8) * 2 + 1) << 4)
