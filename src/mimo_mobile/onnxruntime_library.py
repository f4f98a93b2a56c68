"""The one place that loads ONNX Runtime, so that its telemetry is off before it can send anything."""

from __future__ import annotations

import os
from typing import Any

from mimo_mobile.errors import require


def load() -> Any:
    """The module onnxruntime, its telemetry off.

    Microsoft's builds contain an uploader that is on by default. It reads the environment when the library is loaded.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    ort = require("onnxruntime", "onnx")
    ort.disable_telemetry_events()
    return ort


def first_line(error: Exception) -> str:
    """What an exception of ONNX Runtime says, in short; its exceptions share no public base."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def is_its_own(error: BaseException) -> bool:
    """Whether ONNX Runtime raised an error, and not a signal handler that interrupted it."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__")).startswith("onnxruntime")
