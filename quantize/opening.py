"""A path → a model that can be measured, also where the path is a folder of binaries for NPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mimo_mobile.entries import QDQ
from mimo_mobile.layout import NPU_SETTINGS

if TYPE_CHECKING:
    from mimo_mobile.runtime import LoadConfig, Model


def opened(path: Path, config: LoadConfig) -> Model:
    """The model at a path, which may be a folder of binaries with quantized activations.

    Such binaries are not run: the CPU runs the graphs that were compiled.

    Raises:
        BadArgumentError: There are binaries of another kind, which cannot be made graphs again.
        SessionError: The model cannot be loaded.
        QuantizationError: What the binaries were made of is not there any more.
    """
    from mimo_mobile.runtime import load

    if not is_form(path):
        return load(path, config)
    from mimo_mobile.convert.npu.ranges_file import read_form
    from mimo_mobile.quantize.npu_form import load_form

    return load_form(path.parent, read_form(path))


def is_form(path: Path) -> bool:
    """Whether a path is a folder of binaries for NPUs with quantized activations."""
    return path.name.startswith(f"{QDQ}-") and (path / NPU_SETTINGS).is_file()


def answering_for(path: Path) -> Path:
    """The model that answers what is read: for a form for NPUs its ONNX folder, which is quicker."""
    return path.parent if is_form(path) else path
