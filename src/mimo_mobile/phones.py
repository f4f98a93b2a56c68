"""Kinds of phones, and how much of their memory one app may take.

The shares are assumptions, made from what others report of phones (docs/devices.md): none was measured here.
"""

from __future__ import annotations

from dataclasses import dataclass

from mimo_mobile.errors import BadArgumentError

KERNEL, SYSTEM, MARGIN = 0.07, 0.33, 0.05
"""The shares of a phone's memory that its kernel keeps for itself, that Android and its services take, and that has to
stay free so that Android's low-memory killer ends no app."""


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of phone.

    Attributes:
        name: What users type.
        ram_bytes: The memory that it is sold with.
    """

    name: str
    ram_bytes: int

    @property
    def available_bytes(self) -> int:
        """What one app in the foreground may take."""
        return int(self.ram_bytes * (1 - KERNEL - SYSTEM - MARGIN))


DEVICES = {f"phone-{gib}gb": Device(f"phone-{gib}gb", gib * 2**30) for gib in (6, 8, 10, 12, 16, 24)}
"""Every kind of phone by its name; what shops call 12 GB are 12 · 2³⁰ bytes."""


def phone_named(name: str) -> Device:
    """The kind of phone that is called so.

    Raises:
        BadArgumentError: There is none.
    """
    if name not in DEVICES:
        raise BadArgumentError(f"device {name!r:.60} found; one of {', '.join(DEVICES)} expected")
    return DEVICES[name]
