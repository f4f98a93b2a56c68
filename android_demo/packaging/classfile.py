"""The little of Java's class files that must be read and changed here.

Offsets and tags: https://docs.oracle.com/javase/specs/jvms/se17/html/jvms-4.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

JAVA_8 = 52
INTERFACE = 0x0200
UTF8, METHOD, INTERFACE_METHOD = 1, 10, 11
WIDE = (5, 6)  # long and double, which count twice
BYTES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}


class ClassFile:
    """A class file that can be changed in place, in `data`."""

    def __init__(self, data: bytes) -> None:
        """Finds the constants; ValueError when it is no class file."""
        self.data = bytearray(data)
        magic, self.constants_count = self._read(">I", 0), self._read(">H", 8)
        if magic != 0xCAFEBABE:
            raise ValueError(f"starts with {magic:#x}; no class file")
        self._at: dict[int, int] = {}
        at, index = 10, 1
        while index < self.constants_count:
            self._at[index] = at
            tag = self.data[at]
            at += 3 + self._read(">H", at + 1) if tag == UTF8 else 1 + BYTES[tag]
            index += 2 if tag in WIDE else 1
        self._flags_at = at

    @property
    def version(self) -> int:
        """The major version, such as `JAVA_8`."""
        return self._read(">H", 6)

    @version.setter
    def version(self, version: int) -> None:
        struct.pack_into(">HH", self.data, 4, 0, version)

    @property
    def is_interface(self) -> bool:
        """Whether it is an interface."""
        return bool(self._read(">H", self._flags_at) & INTERFACE)

    @property
    def name(self) -> str:
        """Its name, with slashes."""
        return self._class_name(self._read(">H", self._flags_at + 2))

    def methods_called(self) -> Iterator[tuple[int, str]]:
        """Constants that name methods of classes: where their tag is, and the class's name."""
        for at in self._at.values():
            if self.data[at] == METHOD:
                yield at, self._class_name(self._read(">H", at + 1))

    def _read(self, layout: str, at: int) -> int:
        return int(struct.unpack_from(layout, self.data, at)[0])

    def _class_name(self, index: int) -> str:
        return self._text(self._read(">H", self._at[index] + 1))

    def _text(self, index: int) -> str:
        at = self._at[index]
        # Java's own UTF-8 has surrogates and two-byte zeros; names that matter here have neither.
        return self.data[at + 3 : at + 3 + self._read(">H", at + 1)].decode(errors="replace")
