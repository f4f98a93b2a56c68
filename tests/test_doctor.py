"""`mimo doctor`: what this machine is, and what each execution provider would do."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from mimo_mobile import doctor
from mimo_mobile.cli import main
from mimo_mobile.providers import PROVIDERS
from tests.commands import runner


def test_it_tells_this_machine_and_every_provider(nano_onnx: Path) -> None:
    result = runner().invoke(main, ["doctor", str(nano_onnx)])
    assert result.exit_code == 0, result.output
    for name in PROVIDERS:
        assert f"--ep {name}" in result.stdout
    assert "all of it" in result.stdout and "not compiled" in result.stdout
    assert "no kernels for" in result.stdout and "it does not help" in result.stdout


def test_json_is_for_machines() -> None:
    found = json.loads(runner().invoke(main, ["doctor", "--json"]).stdout)
    assert found["architecture"] == platform.machine() and found["physical_cores"] >= 1
    assert found["memory_bytes"] > 0
    assert [each["ep"] for each in found["providers"]] == list(PROVIDERS)
    if platform.system() == "Linux":  # elsewhere neither is told
        assert found["memory_bytes"] >= found["available_bytes"] > 0
        flags = Path("/proc/cpuinfo").read_text().split()
        assert found["features"].get("avx512_vnni", False) == ("avx512_vnni" in flags)


@pytest.mark.parametrize(
    ("architecture", "features", "told"),
    [
        ("aarch64", {"dotprod": False, "i8mm": False}, "float32: no dotprod"),
        ("aarch64", {"dotprod": True, "i8mm": False}, "int8 by KleidiAI (dotprod)"),
        ("aarch64", {"dotprod": True, "i8mm": True}, "int8 by KleidiAI (i8mm for prompts)"),
        ("x86_64", {"avx2": True, "avx512": True, "avx512_vnni": True}, "int8 (avx512_vnni)"),
        ("x86_64", {"avx2": False}, "no AVX2: slow"),
        ("arm64", {}, "unknown"),
    ],
)
def test_what_int4_is_computed_with(architecture: str, features: dict[str, bool], told: str) -> None:
    assert told in doctor.int4_compute(architecture, features)


def test_without_onnxruntime_the_machine_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert doctor.states(None) == []


def test_what_is_no_onnx_model_is_an_error(nano_gguf: Path) -> None:
    result = runner().invoke(main, ["doctor", str(nano_gguf)])
    assert result.exit_code == 1 and "no ONNX model" in result.stderr
