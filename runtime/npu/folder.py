"""A folder of binaries for an NPU: which one is meant, and what it says of itself. This module loads nothing."""

from __future__ import annotations

from pathlib import Path

from mimo_mobile.errors import BackendUnavailableError
from mimo_mobile.layout import NPU_SETTINGS
from mimo_mobile.providers import QnnOptions
from mimo_mobile.socs import soc_named


def find(folder: Path, options: QnnOptions) -> Path | None:
    """The binaries in an ONNX folder: those of ``options.soc``, else the only ones; None when there are none.

    Raises:
        BackendUnavailableError: There are none for that chip, or there are several and no chip was named.
    """
    prefix = "qnn" if options.activations == "float" else "qdq"
    found = sorted(path.parent for path in folder.glob(f"{prefix}-*/{NPU_SETTINGS}"))
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


def compiled_for(folder: Path) -> list[str]:
    """The chips that an ONNX folder has binaries for."""
    names = [path.parent.name for path in folder.glob(f"q??-*/{NPU_SETTINGS}")]
    return sorted(name.replace("qnn-", "").replace("qdq-", "uint16 on ") for name in names)
