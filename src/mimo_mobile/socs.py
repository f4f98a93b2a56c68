"""Snapdragon chips whose NPU can be compiled for, as QNN numbers them.

Source: QNN_SOC_MODEL_* of QAIRT 2.51. onnxruntime-qnn 2.7.0 compiled for each of them here; none was at hand to run on.
"""

from __future__ import annotations

from dataclasses import dataclass

from mimo_mobile.errors import BackendUnavailableError


@dataclass(frozen=True, slots=True)
class Soc:
    """A chip.

    Attributes:
        name: Qualcomm's part number, as ``ro.soc.model`` says it on the phone.
        model: QNN's number for it.
        hexagon: The version of its NPU.
        sold_as: What phones' data sheets call it.
    """

    name: str
    model: int
    hexagon: int
    sold_as: str


SOCS = {
    soc.name: soc
    for soc in (
        Soc("SM8450", 36, 69, "Snapdragon 8 Gen 1"),
        Soc("SM8550", 43, 73, "Snapdragon 8 Gen 2"),
        Soc("SM8650", 57, 75, "Snapdragon 8 Gen 3"),
        Soc("SM8750", 69, 79, "Snapdragon 8 Elite"),
        Soc("SM8850", 87, 81, "Snapdragon 8 Elite Gen 5"),
    )
}
"""Every chip by its name."""


def soc_named(name: str) -> Soc:
    """The chip of a name; case does not matter.

    Raises:
        BackendUnavailableError: No chip has this name. QNN itself would compile for a default chip, or fail late.
    """
    found = SOCS.get(name.strip().upper())
    if found is None:
        known = ", ".join(f"{soc.name} ({soc.sold_as})" for soc in SOCS.values())
        raise BackendUnavailableError(
            f"no SoC {name!r}; there are {known}: `adb shell getprop ro.soc.model` says yours"
        )
    return found
