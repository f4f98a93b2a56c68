"""ZIP files with the same bytes each time, stored files on boundaries."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT_FIELD = 0xD935  # of zipalign and apksigner, which keeps a boundary that it finds here
LOCAL_HEADER_BYTES = 30
OLDEST_TIME = (1981, 1, 1, 1, 1, 2)  # what Gradle's plugin writes


@dataclass(frozen=True)
class Member:
    """A file of an archive; `alignment` in bytes stores it, uncompressed, at a multiple; 0 compresses it."""

    name: str
    data: bytes
    alignment: int = 0


def write_archive(path: Path, members: Iterable[Member]) -> None:
    """Writes `members` in their order to `path`, beside it first."""
    partial = path.with_name(path.name + ".partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for member in members:
            info = zipfile.ZipInfo(member.name, OLDEST_TIME)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_STORED if member.alignment else zipfile.ZIP_DEFLATED
            if member.alignment:
                assert archive.fp is not None
                start = archive.fp.tell() + LOCAL_HEADER_BYTES + len(member.name.encode()) + 6
                padding = bytes(-start % member.alignment)
                info.extra = struct.pack("<HHH", ALIGNMENT_FIELD, 2 + len(padding), member.alignment) + padding
            archive.writestr(info, member.data)
    os.replace(partial, path)
