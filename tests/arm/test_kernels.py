"""The kernels of quantizing, cross-built for ARM: the same weights give the same bytes as on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.arm.emulator import CPUS, REPOSITORY, Machine

pytestmark = pytest.mark.arm

HASHES = """if True:
    import hashlib, sys
    import numpy as np
    from mimo_mobile.quantize import kernels
    from mimo_mobile.quantize.kernels import Blocks
    kernels.__file__ = sys.argv[1]
    rng = np.random.Generator(np.random.PCG64(1))
    values = (rng.integers(-999, 1000, (33, 256)) * rng.integers(1, 99, (33, 256)) / 1e5).astype(np.float32)
    importance = (rng.integers(1, 1000, 256) / 10).astype(np.float32)
    shares = (rng.integers(-99, 99, (128, 128)) / 1000).astype(np.float32)
    others = Blocks(4, 32, float16=True), Blocks(4, 32, in_units=True)
    for blocks in (Blocks(4, 32), Blocks(4, 128), Blocks(8, 32), *others):
        levels, scales = np.zeros((33, 256), np.int8), np.zeros((33, 256 // blocks.size), np.float32)
        errors, targets = np.zeros((33, 256), np.float32), values[:, 128:].copy()
        units = kernels.units_of(values, importance, blocks)
        kernels.feed_back(values, targets, importance[128:], shares, 128, blocks, (levels, scales, errors), units)
        made = [levels, scales, errors, *kernels.search_blocks(values, importance, blocks)]
        if not blocks.float16 and not blocks.in_units:
            made += kernels.round_blocks(values, blocks)
        if blocks.bits == 4:
            made.append(kernels.pack_pairs(made[3]))
        print(blocks, hashlib.sha256(b"".join(each.tobytes() for each in made)).hexdigest())
"""


@pytest.mark.parametrize("cpu", CPUS)
def test_blocks_have_the_same_bytes_as_on_this_machine(cpu: str, tmp_path: Path) -> None:
    source, here = REPOSITORY / "quantize/kernels.c", REPOSITORY / "quantize/kernels.py"
    options = ["-std=c11", "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-o", tmp_path / "libkernels.so", source]
    subprocess.run(["aarch64-linux-gnu-gcc", *options], check=True)
    found = Machine(cpu).output(tmp_path, "-c", HASHES, str(tmp_path / "kernels.py"))
    assert found == Machine().output(tmp_path, "-c", HASHES, str(here))
    assert len(set(found.splitlines())) == 5
