"""What a shared library says of itself, read by binutils' readelf."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Segment:
    """A line of the program header."""

    kind: str
    offset: int
    address: int
    flags: str
    align: int


@dataclass(frozen=True, slots=True)
class Library:
    """What a loader is told.

    Attributes:
        name: Of the file.
        machine: As ELF calls the CPU.
        segments: What is mapped, and how.
        tags: Of the dynamic section, with their values; ``NEEDED`` and others can be there more than once.
        defined: Exported symbols.
        undefined: Symbols that others have to define, each with the version that is asked for, or none.
        optional: Undefined ones that may stay so.
        relocations: Their kinds.
    """

    name: str
    machine: str
    segments: list[Segment]
    tags: list[tuple[str, str]]
    defined: frozenset[str]
    undefined: dict[str, str]
    optional: frozenset[str]
    relocations: frozenset[str]

    @property
    def needed(self) -> list[str]:
        """The libraries that are loaded with it."""
        return [value for tag, value in self.tags if tag == "NEEDED"]


def read_library(file: Path) -> Library:
    """Read one library."""
    text = readelf("-h", "-l", "-d", "-r", "--dyn-syms", file)
    machine = re.search(r"Machine: +(.*)", text)
    assert machine, file
    segments = [
        Segment(kind, int(offset, 16), int(address, 16), flags.replace(" ", ""), int(align, 16))
        for kind, offset, address, flags, align in re.findall(
            r"^  ([A-Z_]+) +(0x\w+) (0x\w+) 0x\w+ 0x\w+ 0x\w+ ([RWE ]{3}) (\w+)$", text, re.MULTILINE
        )
    ]
    tags = [
        (tag, value.strip()) for tag, value in re.findall(r"^ 0x\w+ \((\w+)\) +(.*)$", text, re.MULTILINE)
    ]  # `Shared library: [libc.so]`
    tags = [(tag, re.sub(r"^.*\[(.*)\]$", r"\1", value)) for tag, value in tags]
    symbols = re.findall(r"^ +\d+: \w+ +\d+ \w+ +(\w+) +\w+ +(?:\[.*?\] )?(\w+) ([^\s@]+)@?@?(\S*)", text, re.MULTILINE)
    return Library(
        name=file.name,
        machine=machine[1],
        segments=segments,
        tags=tags,
        defined=frozenset(name for bind, section, name, _ in symbols if section != "UND" and bind != "LOCAL"),
        undefined={name: version for _, section, name, version in symbols if section == "UND"},
        optional=frozenset(name for bind, section, name, _ in symbols if section == "UND" and bind == "WEAK"),
        relocations=frozenset(re.findall(r" (R_\w+)", text)),
    )


def readelf(*arguments: str | Path) -> str:
    """What readelf prints."""
    program = shutil.which("readelf")
    assert program, "readelf is needed: sudo apt install binutils"
    ended = subprocess.run([program, "--wide", *map(str, arguments)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
