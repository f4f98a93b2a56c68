"""A path → a loaded model: the file's kind decides what computes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimo_mobile import manifest
from mimo_mobile.arguments import check
from mimo_mobile.errors import BackendUnavailableError, ModelLoadError
from mimo_mobile.layout import MODEL
from mimo_mobile.runtime import process
from mimo_mobile.runtime.decode.cooling import Cooling, Heat
from mimo_mobile.runtime.load_config import LoadConfig
from mimo_mobile.runtime.mapped_files import MappedFiles
from mimo_mobile.runtime.model import Model

logger = logging.getLogger(__name__)


def load(
    path: str | Path,
    config: LoadConfig | None = None,
    *,
    queue: bool = False,
    heat: Callable[[], Heat] | None = None,
    **changes: Any,
) -> Model:
    """The model in a .gguf file, an ONNX folder, or a folder that ``mimo quantize`` wrote.

    Models of one process that are loaded from the same file in the same way share its weights.

    Args:
        path: The file or folder.
        config: How to load it.
        queue: Whether a generation waits for its turn, first come first served, while another one is under way; by
            default it meets an error. Cancelling it, or closing the model, ends the waiting.
        heat: It says how hot the device is, and is asked at most once a second while tokens are generated: ``none``,
            ``light``, ``moderate``, ``severe`` or ``critical``. From ``moderate`` on generations rest between tokens,
            for a quarter, half and three quarters of the time.
        **changes: Single attributes of ``LoadConfig`` to change, as in ``load("out/mimo-nano", recipe="int4_b32")``.

    Raises:
        ModelLoadError: Nothing that can be run is there, or it does not fit in memory.
        BackendUnavailableError: The backend cannot do what is asked for.
        MissingDependencyError: The backend's package is not installed.
        TypeError: ``LoadConfig`` has no such attribute.
        BadArgumentError: An argument has another type, is out of its range, or ``ep_options`` are another provider's.
    """
    path = Path(check("path", path, str | Path))
    config = dataclasses.replace(check("config", config, LoadConfig | None) or LoadConfig(), **changes)
    files = MappedFiles()
    check("queue", queue, bool)
    with process.loading():
        try:
            model = _load(path, config, files)
            model.turns.queued, model.cooling = queue, Cooling(heat, config.power)
            return model
        except BaseException:
            files.close()
            raise


def place_of(path: Path, config: LoadConfig) -> Path:
    """The .gguf file or the ONNX folder that a path means.

    Raises:
        ModelLoadError: There is none.
        BackendUnavailableError: What is asked for is the other engine's.
    """
    if manifest.is_there(path):
        path = _entry(path, config.recipe)
    elif config.recipe is not None:
        raise ModelLoadError(f"{path}: no {manifest.NAME}, so there is no recipe to choose; leave --recipe out")
    if path.is_file() and path.suffix == ".gguf":
        if config.ep not in ("auto", "cpu") or config.ep_options is not None or config.strict:
            raise BackendUnavailableError(
                f"{path}: --ep {config.ep}, its options and --strict are ONNX Runtime's; take an ONNX recipe"
            )
        return path
    if path.name.endswith(".onnx") and path.is_file():
        path = path.parent
    if (path / MODEL).is_file():
        if config.repack is not None:
            raise BackendUnavailableError("repack is llama.cpp's; leave it out for an ONNX model")
        return path
    found = "a folder without model.onnx" if path.is_dir() else "no such file" if not path.exists() else "another file"
    raise ModelLoadError(f"{path}: {found}; a .gguf file, an ONNX folder or a quantized folder expected")


def _load(path: Path, config: LoadConfig, files: MappedFiles) -> Model:
    place = place_of(path, config)
    if place.is_file():
        from mimo_mobile.runtime.llama.loading import load_gguf

        return _announced(place, load_gguf(place, config, files))
    from mimo_mobile.runtime.onnx.loading import load_onnx

    return _announced(place, load_onnx(place, config, files))


def _announced(path: Path, model: Model) -> Model:
    if model.placement is not None and model.placement.asked != "cpu":
        logger.info("%s: %s", path.name, model.placement)
    if model.synthetic:
        logger.warning("%s: random weights in MiMo-7B's shapes; the text means nothing", path)
    return model


def _entry(folder: Path, recipe: str | None) -> Path:
    found = manifest.read(folder)
    entries = found.entries if found else ()
    names = [entry.recipe for entry in entries]
    if not entries or (recipe is not None and recipe not in names):
        raise ModelLoadError(f"{folder}: recipe {recipe or 'any'} asked for, {', '.join(names) or 'none'} found")
    return folder / next(entry.path for entry in entries if recipe in (None, entry.recipe))
