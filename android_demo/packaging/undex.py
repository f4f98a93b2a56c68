"""What enjarify made of a DEX file → what a JVM takes: `undex OUTPUT.jar INPUT.jar`.

enjarify writes Java 5's class files, whose interfaces have no code. Java 8's may have, but want to be told at each call
that a method is an interface's. They also want maps of types, which nothing here makes: the JVM must not verify them.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from android_demo.packaging.archive import Member, write_archive
from android_demo.packaging.classfile import INTERFACE_METHOD, JAVA_8, ClassFile


def undex(output: Path, source: Path) -> None:
    """Writes `output` with the classes of `source`."""
    with zipfile.ZipFile(source) as jar:
        files = [ClassFile(jar.read(name)) for name in jar.namelist()]
    interfaces = {file.name for file in files if file.is_interface}
    for file in files:
        file.version = JAVA_8
        for at, owner in file.methods_called():
            if owner in interfaces:
                file.data[at] = INTERFACE_METHOD
    write_archive(output, [Member(f"{file.name}.class", bytes(file.data)) for file in files])


if __name__ == "__main__":
    undex(Path(sys.argv[1]), Path(sys.argv[2]))
