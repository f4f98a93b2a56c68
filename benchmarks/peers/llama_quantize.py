"""llama.cpp's quantizer on a GGUF file, as its llama-quantize calls it.

Run ``python -m benchmarks.peers.llama_quantize SOURCE OUT Q4_0``. Q4_0 is asked for pure, as our recipe is.
"""

from __future__ import annotations

import os
import sys

import llama_cpp

KINDS = {"Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M}


def main(source: str, out: str, kind: str) -> None:
    """Write ``out``.

    Raises:
        SystemExit: llama.cpp failed.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = KINDS[kind]
    params.nthread = os.cpu_count() or 1
    params.pure = kind == "Q4_0"
    llama_cpp.llama_backend_init()
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), params):
        raise SystemExit("llama_model_quantize failed")


if __name__ == "__main__":
    main(*sys.argv[1:])
