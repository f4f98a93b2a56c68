"""What the files and folders that we write are called, and what npu.json says: for all who write and read them.

docs/formats.md specifies the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile.errors import MimoMobileError, ModelLoadError
from mimo_mobile.socs import Soc, soc_named

DEFAULT_CONTEXT = 4096
"""Tokens of prompt and answer when nobody asks for more; a KV cache for all that MiMo-7B was trained for would take
4.8 GB."""

MODEL, MTP, DATA = "model.onnx", "mtp.onnx", "model.onnx.data"
"""The graphs of trunk and MTP layer in an ONNX folder, and the weights of both."""

KV_INT8 = "model.kv-int8.onnx"
"""The trunk with an int8 KV cache, on the same weights."""

REFERENCE = "reference.json"
"""What the CPU computes for a known prompt, for the self-test of other execution providers."""

GENAI_CONFIG = "genai_config.json"
CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
DRAFT_VOCABULARY = "draft_vocabulary.json"

NPU_SETTINGS, EMBEDDING, DRAFT_IDS = "npu.json", "embedding.onnx", "draft_ids.npy"
"""In a folder of binaries for an NPU: what they are, and the tokens that the MTP layer scores; beside the folder: the
embedding."""


def mtp_file(trunk: Path) -> Path:
    """Where the MTP layer of a GGUF file lies: beside it, as ``…-mtp.gguf``."""
    return trunk.with_name(f"{trunk.stem}-mtp.gguf")


def npu_folder_name(soc: Soc, quantized: bool) -> str:
    """What the folder of binaries for a chip is called; ``quantized`` ones have uint16 activations."""
    return f"{'qdq' if quantized else 'qnn'}-{soc.name}"


@dataclass(frozen=True, slots=True)
class NpuSettings:
    """What npu.json says of the binaries beside it.

    Attributes:
        soc: The chip.
        context_length: Tokens that the caches hold.
        windows: Tokens in one run, the largest first.
        parts: How many pieces the trunk's layers are cut into.
        mtp: Whether the MTP layer is there.
        sizes: Bytes of each binary, by name, and of the embedding.
        made_with: Versions of what compiled them.
    """

    soc: str
    context_length: int
    windows: tuple[int, ...]
    parts: int
    mtp: bool
    sizes: tuple[tuple[str, int], ...]
    made_with: str


def read_npu_settings(folder: Path) -> NpuSettings:
    """The settings in a folder of binaries.

    Raises:
        ModelLoadError: They cannot be read.
    """
    try:
        found = json.loads((folder / NPU_SETTINGS).read_text(encoding="utf-8"))
        sizes = [(each["name"], int(each["size_bytes"])) for each in found["graphs"]]
        return NpuSettings(
            soc_named(found["soc"]).name,
            int(found["context_length"]),
            tuple(int(each) for each in found["windows"]),
            len(found["layers"]),
            bool(found["mtp"]),
            (*sizes, (EMBEDDING, int(found["embedding_bytes"]))),
            str(found["made_with"]),
        )
    except (OSError, ValueError, KeyError, TypeError, MimoMobileError) as error:
        raise ModelLoadError(f"{folder / NPU_SETTINGS}: not what mimo writes ({error}); compile again") from error
