"""A folder of binaries for an NPU: which one is meant, and what it says of itself. Knows files, loads nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile.errors import BackendUnavailableError, MimoMobileError, ModelLoadError
from mimo_mobile.runtime.providers import QnnOptions
from mimo_mobile.socs import Soc, soc_named

SETTINGS, EMBEDDING, DRAFT_IDS = "npu.json", "embedding.onnx", "draft_ids.npy"


def folder_name(soc: Soc, quantized: bool) -> str:
    """Of the binaries for a chip."""
    return f"{'qdq' if quantized else 'qnn'}-{soc.name}"


def find(folder: Path, options: QnnOptions) -> Path | None:
    """The binaries in an ONNX folder: those of ``options.soc``, else the only ones; None when there are none.

    Raises:
        BackendUnavailableError: None for that chip, or for several and none was named.
    """
    prefix = "qnn" if options.activations == "float" else "qdq"
    found = sorted(path.parent for path in folder.glob(f"{prefix}-*/{SETTINGS}"))
    if options.soc:
        name = soc_named(options.soc).name
        found = [path for path in found if path.name == f"{prefix}-{name}"]
        if not found:
            raise BackendUnavailableError(
                f"{folder}: nothing compiled for {name}; run mimo quantize … --target {prefix} --soc {name}"
            )
    if len(found) > 1:
        names = ", ".join(path.name.removeprefix(f"{prefix}-") for path in found)
        raise BackendUnavailableError(f"{folder}: compiled for {names}; say which with --ep-option soc=…")
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class NpuSettings:
    """What ``convert.npu_file`` wrote beside the binaries.

    Attributes:
        soc: The chip.
        context_length: Tokens that the caches hold.
        windows: Tokens in one run, the largest first.
        parts: Runs of layers.
        mtp: Whether the MTP layer is there.
        sizes: Bytes of each binary, by name, and of the embedding.
        made_with: Versions.
    """

    soc: str
    context_length: int
    windows: tuple[int, ...]
    parts: int
    mtp: bool
    sizes: tuple[tuple[str, int], ...]
    made_with: str


def read_settings(folder: Path) -> NpuSettings:
    """The settings in a folder of binaries.

    Raises:
        ModelLoadError: They cannot be read.
    """
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
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
        raise ModelLoadError(f"{folder / SETTINGS}: not what mimo writes ({error}); compile again") from error


def compiled_for(folder: Path) -> list[str]:
    """The chips that an ONNX folder has binaries for."""
    names = [path.parent.name for path in folder.glob(f"q??-*/{SETTINGS}")]
    return sorted(name.replace("qnn-", "").replace("qdq-", "uint16 on ") for name in names)
