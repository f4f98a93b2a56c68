"""MiMo-nano, compiled for an NPU once for all tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_mobile.hub import resolve
from mimo_mobile.quantize.pipeline import NpuTarget, quantize_checkpoint
from mimo_mobile.socs import soc_named
from tests.runtime.npu.answers import CONTEXT


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("npu")
    npu = NpuTarget((soc_named("SM8750"),), CONTEXT)
    quantize_checkpoint(resolve("nano"), folder, ["int4_b32"], problems=0, npu=npu)
    return folder


@pytest.fixture(scope="session")
def model(out: Path) -> Path:
    return out / "mimo-nano-int4_b32-onnx"


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def remembering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MIMO_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
