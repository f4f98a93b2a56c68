"""Nothing is sent and nothing is written at home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_running_a_model_writes_nothing_to_the_home_folder(tiny_onnx: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    code = """if True:
        import os, sys
        from mimo_mobile.runtime import GenerationConfig, load
        for path in sys.argv[1:]:
            with load(path) as session:
                assert list(session.generate([5, 6, 7], GenerationConfig(max_tokens=4)))
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    """
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    environment = kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, str(tiny_onnx), str(tiny_gguf)]
    subprocess.run(command, env=environment, cwd=work, check=True, timeout=120)
    assert list(home.rglob("*")) == [] and list(work.rglob("*")) == []


def test_telemetry_is_off_before_onnx_runtime_is_imported() -> None:
    code = """if True:
        import os, sys
        import mimo_mobile.runtime.onnx.loading
        assert "onnxruntime" not in sys.modules
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    """
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
