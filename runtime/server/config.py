"""How ``mimo serve`` serves."""

from __future__ import annotations

from dataclasses import dataclass

from mimo_mobile.arguments import check_fields
from mimo_mobile.errors import BadArgumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How to serve; the command line's options are made from these attributes and their descriptions.

    Attributes:
        queue: How many requests may wait for their turn; whoever comes then is told to come again (429).
        timeout: Seconds that a request may take in all, waiting included.
        sessions: How many conversations keep what was computed of them.
        most_tokens: How many tokens an answer may have at most; by default what the context leaves.
    """

    queue: int = 16
    timeout: float = 600.0
    sessions: int = 4
    most_tokens: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BadArgumentError: One of them has another type, or is out of its range.
        """
        check_fields(self)
        for name, least in {"queue": 0, "timeout": 0.001, "sessions": 1, "most_tokens": 1}.items():
            if (value := getattr(self, name)) is not None and not value >= least:
                raise BadArgumentError(f"{name} {value!r} found, at least {least} expected")
