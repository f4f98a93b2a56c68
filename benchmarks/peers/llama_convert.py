"""llama.cpp's convert_hf_to_gguf.py on a MiMo checkpoint: it knows no MiMo, so the trunk passes as a Qwen2.

Run ``python -m benchmarks.peers.llama_convert LLAMA_CPP CHECKPOINT OUT``; LLAMA_CPP is llama.cpp's source tree, of
which its own converter is imported; needs torch and transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main(llama_cpp: Path, checkpoint: Path, out: Path) -> None:
    """Write ``out``, a bf16 GGUF of the trunk."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import conversion
    import convert_hf_to_gguf
    from conversion.qwen import Qwen2Model

    @conversion.ModelBase.register("MiMoForCausalLM")
    class MimoTrunk(Qwen2Model):
        model_arch = Qwen2Model.model_arch

        @classmethod
        def filter_tensors(cls, item: tuple[str, Any]) -> tuple[str, Any] | None:
            # Qwen2Model stops at them: it has no name for the MTP layer.
            return None if item[0].startswith("model.mtp_layers.") else super().filter_tensors(item)

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            return "qwen2"  # found by a digest of the vocabulary, which MiMo-nano's is not known by

    conversion.TEXT_MODEL_MAP["MiMoForCausalLM"] = "qwen"
    sys.argv = ["convert_hf_to_gguf.py", str(checkpoint), "--outfile", str(out), "--outtype", "bf16"]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
