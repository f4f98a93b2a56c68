"""Where what was learnt of this machine is kept, and what of the machine it depends on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cache_folder() -> Path:
    """``$MIMO_CACHE``, else ``mimo-mobile`` in the user's cache folder."""
    if chosen := os.environ.get("MIMO_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimo-mobile"


def cpu() -> str:
    """The processor, as far as the choice of kernels depends on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    keys = "flags", "Features", "model name", "CPU part"
    return "\n".join([platform.machine(), *sorted({line for line in lines if line.startswith(keys)})])
