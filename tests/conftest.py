"""Models that many tests share: tiny seeded ones, each made once, and MiMo-nano's folder."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# As the command `mimo` has it: of two threads of OpenBLAS, which wait actively for each other, a small matrix takes
# many times as long as of one when there is other work. It reads this when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.hub import Source, resolve
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from tests.tiny import write_tiny_checkpoint

# Tests import ONNX Runtime themselves, before our package could turn its telemetry off. That our package does not lean
# on this line is what tests/test_privacy.py sees to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A job in a shell's background ignores these signals, and so would every process that a test starts and interrupts.
for each in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(each) == signal.SIG_IGN:
        signal.signal(each, lambda *_: None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a package that other systems, or the lowest versions, do not have."""
    for mark in item.iter_markers("needs"):
        (module,) = mark.args
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        if module == "onnxruntime_qnn" and platform.machine() != "x86_64":
            pytest.skip("only x86-64 computers have a simulator of the NPU")


# OpenMP reads this when an engine loads it, here or in a process that a test starts. Threads that wait actively take
# the processor from those that they wait for as soon as other work runs beside the tests: docs/performance.md.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIMO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint"), "tiny")


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny: Source) -> Checkpoint:
    return Checkpoint.open(tiny.path)


@pytest.fixture(scope="session")
def tiny_gguf(tiny: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_checkpoint(tiny, tmp_path_factory.mktemp("gguf") / "tiny.gguf", to="gguf", dtype="f32")[0]


@pytest.fixture(scope="session")
def tiny_onnx(tiny: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_checkpoint(tiny, tmp_path_factory.mktemp("onnx") / "tiny-onnx", to="onnx")[0]


@pytest.fixture(scope="session")
def nano() -> Source:
    return resolve("nano")


@pytest.fixture(scope="session")
def nano_gguf(nano: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_checkpoint(nano, tmp_path_factory.mktemp("nano-gguf") / "nano.gguf", to="gguf", dtype="f32")[0]


@pytest.fixture(scope="session")
def nano_onnx(nano: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_checkpoint(nano, tmp_path_factory.mktemp("nano-onnx") / "nano-onnx", to="onnx")[0]


@pytest.fixture(scope="session")
def nano_q4(nano: Source, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """MiMo-nano in four bits for both engines, with its MTP layer."""
    out = tmp_path_factory.mktemp("nano-q4")
    quantize_checkpoint(nano, out, ["int4_b32", "q4_0"], problems=0)
    return {"onnx": out / "mimo-nano-int4_b32-onnx", "gguf": out / "mimo-nano-q4_0.gguf"}


@pytest.fixture(scope="session")
def build() -> Path:
    folder = os.environ.get("MIMO_ANDROID_BUILD")
    if not folder:
        pytest.fail("MIMO_ANDROID_BUILD is not set to what `make android` fills; run `make test-android`")
    return Path(folder)
