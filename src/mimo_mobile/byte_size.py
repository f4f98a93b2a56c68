"""Reads sizes as people write them: ``4.3GB``, ``500 MB``; 1 GB is 10⁹ bytes."""

from __future__ import annotations

import re

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse(text: str) -> int | None:
    """The bytes of a size; None when it is no size.

    >>> parse("4.3 GB")
    4300000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), flags=re.IGNORECASE | re.ASCII)
    if found is None or len(found[1]) > 18:
        return None
    return round(float(found[1]) * _UNITS[found[2].upper()])
