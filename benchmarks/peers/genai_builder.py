"""onnxruntime-genai's model builder on a MiMo checkpoint: it knows no MiMo, so the trunk passes as a Qwen2.

Run ``python -m benchmarks.peers.genai_builder CHECKPOINT OUT``, with int4 in blocks of 32 as our ``int4_b32``; needs
onnxruntime-genai, torch and transformers. The MTP layer is dropped.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from pathlib import Path


def main(checkpoint: Path, out: Path) -> None:
    """Write the folder ``out``."""
    with tempfile.TemporaryDirectory() as folder:
        renamed, cache = Path(folder, "qwen2"), Path(folder, "cache")
        renamed.mkdir()
        for path in checkpoint.iterdir():
            (renamed / path.name).symlink_to(path.resolve())
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        config |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
        config.pop("auto_map", None)
        config["tokenizer_class"] = "Qwen2Tokenizer"
        (renamed / "config.json").unlink()
        (renamed / "config.json").write_text(json.dumps(config), encoding="utf-8")
        sys.argv = ["builder", "-i", str(renamed), "-o", str(out), "-p", "int4", "-e", "cpu", "-c", str(cache)]
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
