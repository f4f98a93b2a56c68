"""Holds bytes back until they are whole characters; knows neither tokens nor models."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Takes the bytes of tokens and gives whole UTF-8 characters; malformed bytes become U+FFFD."""

    def __init__(self) -> None:
        """Start with nothing held back."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """The characters that are whole now."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What was held back, at the end."""
        return self._decoder.decode(b"", final=True)
