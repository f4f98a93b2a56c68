"""A calibration that knows nothing but how much columns matter."""

from __future__ import annotations

from pathlib import Path

from mimo_mobile.convert.calibrated import Calibrated
from mimo_mobile.convert.formats import Importance
from mimo_mobile.layout import Reference
from mimo_mobile.mimo7b import MimoConfig
from mimo_mobile.ranges import ModelRanges


def calibration(importance: Importance) -> Calibrated:
    """What writers take, for tensors as they are."""

    def reference(path: Path, config: MimoConfig) -> Reference:
        raise AssertionError("GGUF files are written without")

    return Calibrated(ModelRanges(()), 0, [], reference, importance=importance)
