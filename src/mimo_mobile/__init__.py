"""MiMo Mobile: convert, quantize and run MiMo-7B on phones."""

from __future__ import annotations

__version__ = "0.1.0"
