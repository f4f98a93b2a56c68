"""The trunk exported by optimum through PyTorch, in an environment of its own: a second opinion on our graph.

optimum-onnx pins old versions of transformers, so that it cannot be installed beside us. ``make verify-optimum``
creates ``.venv-verify`` for it; ``OPTIMUM_SCRIPT`` runs there and imports nothing of this package.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from mimo_mobile import files
from mimo_mobile.convert.checkpoint import Checkpoint
from mimo_mobile.errors import BackendUnavailableError, CheckpointError
from mimo_mobile.files import FolderKind

PYTHON_VARIABLE = "MIMO_OPTIMUM_PYTHON"
DEFAULT_PYTHON = Path(".venv-verify/bin/python")
OPTIMUM_SCRIPT = Path(__file__).with_name("optimum_script.py")

OPTIMUM_FOLDER = FolderKind(
    ("model.onnx", "model.onnx_data", "*.json", "merges.txt", "chat_template.jinja"), mark="model.onnx", text=b"pytorch"
)
"""What optimum writes; its graph says which program made it."""


def export_with_optimum(checkpoint: Checkpoint, out: Path, *, force: bool = False) -> Path:
    """Write the trunk as a folder with optimum's plain-operator fp32 graph, model.onnx; optimum drops the MTP layer.

    Raises:
        BackendUnavailableError: optimum's environment is not there.
        CheckpointError: The export failed.
        OutputExistsError: ``out`` is there and ``force`` is false.
    """
    python = Path(os.environ.get(PYTHON_VARIABLE, DEFAULT_PYTHON))
    if not python.is_file():
        raise BackendUnavailableError(
            f"{python}: optimum has an environment of its own, which is not there; type: make verify-optimum"
            f" (or set {PYTHON_VARIABLE} to the Python of one with torch and optimum-onnx)"
        )
    with files.whole(out, force=force, kind=OPTIMUM_FOLDER) as folder:
        command = [str(python), str(OPTIMUM_SCRIPT), str(checkpoint.path), str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise CheckpointError(f"{checkpoint.path}: optimum's export failed: {reason}")
    return out
