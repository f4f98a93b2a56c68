"""Class files of any Java → such that ProGuard can take down to dx's Java 7: `lower OUTPUT.jar INPUT.jar…`.

ProGuard refuses files newer than Java 11's, and turns joined strings into calls only in Java 9's or newer. It knows no
nests: since Java 11 classes of a nest reach each other's private members, which Android refuses. Such members become
visible to their package here, and methods final, so that one that another overrides by chance is found out. Interfaces
say Java 7 already, so that ProGuard leaves their default and static methods alone: Android has them since version 7,
and ProGuard's way to do without breaks calls of one by another.
"""

from __future__ import annotations

import struct
import sys
import zipfile
from pathlib import Path

from android_demo.packaging.archive import Member, write_archive
from android_demo.packaging.classfile import FINAL, JAVA_7, JAVA_8, JAVA_11, PRIVATE, STATIC, ClassFile

# ONNX Runtime's uploader; its native code finds no class to send with, and says so in its log.
UPLOADER = ("ai/onnxruntime/telemetry/", "ai/onnxruntime/TelemetryInitializer")


def lower_class(data: bytes) -> bytes:
    """A class file for ProGuard.

    Raises:
        ValueError: It is no class file, or an interface with lambdas or with methods that are private in a nest.
    """
    file = ClassFile(data)
    if file.version < JAVA_8:
        return data
    file.version = JAVA_7 if file.is_interface else JAVA_11
    if file.is_interface and file.mentions("BootstrapMethods"):
        raise ValueError("an interface with lambdas, which ProGuard would leave in; move them to a class")
    if file.mentions("NestHost") or file.mentions("NestMembers"):
        for member in file.members():
            if member.flags & PRIVATE:
                if file.is_interface:
                    raise ValueError(f"an interface with the private method {member.name}; move it to a class")
                can_be_overridden = member.is_method and not member.flags & STATIC and member.name != "<init>"
                flags = member.flags & ~PRIVATE | (FINAL if can_be_overridden else 0)
                struct.pack_into(">H", file.data, member.at, flags)
    return bytes(file.data)


def lower_jars(output: Path, inputs: list[Path]) -> None:
    """Classes and services of `inputs` in one jar.

    Raises:
        ValueError: A class file cannot be lowered, or two jars hold a file of one name.
    """
    members: dict[str, Member] = {}
    for jar in inputs:
        with zipfile.ZipFile(jar) as archive:
            for name in archive.namelist():
                is_class = name.endswith(".class") and not name.startswith("META-INF/") and name != "module-info.class"
                is_service = name.startswith("META-INF/services/") and not name.endswith("/")
                if not (is_class or is_service) or name.startswith(UPLOADER):
                    continue
                if name in members:
                    raise ValueError(f"{jar}: {name} is in another jar, too")
                try:
                    data = archive.read(name)
                    members[name] = Member(name, lower_class(data) if is_class else data)
                except ValueError as error:
                    raise ValueError(f"{jar}: {name}: {error}") from error
    write_archive(output, members.values())


if __name__ == "__main__":
    lower_jars(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
