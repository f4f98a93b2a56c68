"""What a phone says of itself: what it is, and what it reads while it works. What it does not let us read is None.

``watch.sh`` reads on the phone; this module understands what it says.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.phone.adb import Phone, PhoneError

FOLDER = "/data/local/tmp/mimo-bench"
"""Android's shell may write and run programs here, and in no other place."""

_SECTIONS = {
    "properties": "getprop",
    "cpuinfo": "cat /proc/cpuinfo",
    "meminfo": "cat /proc/meminfo",
    "storage": f"df -k {FOLDER}",
    "frequencies": "cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "battery": "dumpsys battery",
}


@dataclass(frozen=True, slots=True)
class Device:
    """What a phone is.

    Attributes:
        manufacturer: ``ro.product.manufacturer``.
        model: ``ro.product.model``.
        android: ``ro.build.version.release``.
        soc_manufacturer: ``ro.soc.manufacturer``, which phones have since Android 12.
        soc_model: ``ro.soc.model``, likewise.
        board: ``ro.board.platform``: the chip's code name, on older phones too.
        abi: ``ro.product.cpu.abi``.
        cpu_features: ``Features`` of /proc/cpuinfo: what its cores have in common.
        core_max_khz: Highest clock of each core.
        memory_bytes: MemTotal.
        available_bytes: MemAvailable, before the benchmark.
        storage_free_bytes: The space where the benchmark's files go, before they are sent.
        battery_percent: What Android's battery service says before the benchmark.
        battery_temperature_c: The same service's temperature.
        powered: Whether the phone draws power from a cable; then the battery's current is not what the phone takes.
    """

    manufacturer: str | None
    model: str | None
    android: str | None
    soc_manufacturer: str | None
    soc_model: str | None
    board: str | None
    abi: str | None
    cpu_features: tuple[str, ...]
    core_max_khz: tuple[int, ...]
    memory_bytes: int | None
    available_bytes: int | None
    storage_free_bytes: int | None
    battery_percent: int | None
    battery_temperature_c: float | None
    powered: bool | None

    @property
    def name(self) -> str:
        """Maker, model and chip, as far as known."""
        chip = " ".join(filter(None, (self.soc_manufacturer, self.soc_model))) or self.board
        words = [*filter(None, (self.manufacturer, self.model))] or ["unknown phone"]
        return " ".join(words) + (f" ({chip})" if chip else "")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the phone read at one moment, as the kernel gives it.

    Attributes:
        at_s: The time since the program began.
        temperatures_c: Thermal zone and its type → °C; empty when the phone lets nobody read them.
        battery_current_ua: ``current_now``: µA by the kernel's rules; some phones give mA, and the sign differs.
        battery_voltage_uv: ``voltage_now``.
        battery_temperature_c: ``temp``.
        battery_percent: ``capacity``.
        battery_status: ``Charging``, ``Discharging``, ``Full`` …
    """

    at_s: float
    temperatures_c: Mapping[str, float]
    battery_current_ua: int | None
    battery_voltage_uv: int | None
    battery_temperature_c: float | None
    battery_percent: int | None
    battery_status: str | None


def read_device(phone: Phone) -> Device:
    """What ``phone`` is; makes FOLDER.

    Raises:
        PhoneError: It gives no answer.
    """
    script = "; ".join(f"echo '== {name}'; {command} 2>/dev/null" for name, command in _SECTIONS.items())
    said = phone.shell(f"mkdir -p {FOLDER} || exit 1; {script}; true")
    parts = re.split(r"^== (\w+)\n", said, flags=re.MULTILINE)[1:]
    found = dict.fromkeys(_SECTIONS, "") | dict(zip(parts[::2], parts[1::2], strict=True))
    properties = dict(re.findall(r"^\[(.+?)\]: \[(.+?)\]", found["properties"], flags=re.MULTILINE))
    if not properties:
        raise PhoneError(f"{phone.serial} has no Android properties; a phone with Android is expected")
    features = re.search(r"^Features\s*:(.*)$", found["cpuinfo"], flags=re.MULTILINE)
    battery = found["battery"]
    powered = re.findall(r"^\s*(?:AC|USB|Wireless|Dock) powered: (\w+)", battery, flags=re.MULTILINE)
    tenths = _number(r"^\s*temperature: (-?\d+)", battery)
    memory, available = (_number(rf"^{key}:\s*(\d+) kB", found["meminfo"]) for key in ("MemTotal", "MemAvailable"))
    free = _free_bytes(found["storage"])
    return Device(
        manufacturer=properties.get("ro.product.manufacturer"),
        model=properties.get("ro.product.model"),
        android=properties.get("ro.build.version.release"),
        soc_manufacturer=properties.get("ro.soc.manufacturer"),
        soc_model=properties.get("ro.soc.model"),
        board=properties.get("ro.board.platform"),
        abi=properties.get("ro.product.cpu.abi"),
        cpu_features=tuple(features.group(1).split()) if features else (),
        core_max_khz=tuple(int(each) for each in found["frequencies"].split() if each.isdecimal()),
        memory_bytes=None if memory is None else memory * 1024,
        available_bytes=None if available is None else available * 1024,
        storage_free_bytes=free,
        battery_percent=_number(r"^\s*level: (\d+)", battery),
        battery_temperature_c=None if tenths is None else tenths / 10,
        powered="true" in powered if powered else None,
    )


def free_bytes(phone: Phone, folder: str) -> int | None:
    """The room in a folder of the phone, which is there; None when the phone does not tell.

    Raises:
        PhoneError: It gives no answer.
    """
    return _free_bytes(phone.shell(f"df -k {shlex.quote(folder)} 2>/dev/null; true"))


def _free_bytes(said: str) -> int | None:
    # Filesystem, blocks, used, available, use%, mount point
    free = _number(r"^\S+\s+\d+\s+\d+\s+(\d+)\s+\d+%", said)
    return None if free is None else free * 1024


def parse_reading(line: str, at_s: float) -> Reading:
    """A line of ``watch.sh`` as a record."""
    values = dict(each.rsplit("=", 1) for each in line.split("\t")[1:])
    battery = {name.removeprefix("battery "): value for name, value in values.items() if name.startswith("battery ")}
    tenths = _integer(battery.get("temp"))
    # Thermal zones are in 1/1000 °C, the battery in 1/10:
    # https://docs.kernel.org/driver-api/thermal/sysfs-api.html, https://docs.kernel.org/power/power_supply_class.html
    zones = {name: _integer(value) for name, value in values.items() if name.startswith("thermal_zone")}
    return Reading(
        at_s=round(at_s, 1),
        temperatures_c={name: value / 1000 for name, value in zones.items() if value is not None},
        battery_current_ua=_integer(battery.get("current_now")),
        battery_voltage_uv=_integer(battery.get("voltage_now")),
        battery_temperature_c=None if tenths is None else tenths / 10,
        battery_percent=_integer(battery.get("capacity")),
        battery_status=battery.get("status"),
    )


def parse_peaks(line: str) -> tuple[int | None, int | None]:
    """Peak RSS and peak RssAnon of the program so far, in bytes, from the same line."""
    values = dict(each.rsplit("=", 1) for each in line.split("\t")[1:])
    kilobytes = (_integer(values.get(key)) for key in ("peak_rss_kb", "peak_anon_kb"))
    rss, anon = (None if each is None else each * 1024 for each in kilobytes)
    return rss, anon


def _number(pattern: str, text: str) -> int | None:
    found = re.search(pattern, text, flags=re.MULTILINE)
    return int(found.group(1)) if found else None


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[+-]?\d+", text) else None
