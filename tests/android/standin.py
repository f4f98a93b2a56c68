"""Builds libraries that stand in for Android's libc.so, libm.so, libdl.so and liblog.so, on this computer's glibc.

Android's libraries ask for symbols of version ``LIBC``, which glibc has not, so both live in one process. What each
symbol becomes stands in bionic.txt: a jump to glibc's function, one of standin.c, or the end of the process.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

COMPILERS = {"x86_64": "cc", "arm64-v8a": "aarch64-linux-gnu-gcc"}
"""By the names that Android has for CPUs."""

LIBRARIES = ("libc.so", "libm.so", "libdl.so", "liblog.so")

FIRST_LEVEL_WITH_UNWINDER = 30
"""From this API level on bionic's libc has an unwinder, of a version of its own."""

# A jump keeps all arguments, and the caller's address, by which dlopen and dlsym know who asks.
JUMPS = {
    "x86_64": "jmp *{}@GOTPCREL(%rip)",
    "arm64-v8a": "adrp x16, :got:{0}; ldr x16, [x16, :got_lo12:{0}]; br x16",
}
REFUSALS = {
    "x86_64": "lea {}(%rip), %rdi; and $-16, %rsp; call android_refused@PLT",
    "arm64-v8a": "adrp x0, {0}; add x0, x0, :lo12:{0}; bl android_refused",
}


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol of bionic, as a line of bionic.txt has it.

    Attributes:
        library: Which has it.
        level: The first API level with it.
        how: ``same``, ``translated`` or ``refused``.
        target: glibc's name of it when it is the ``same``.
    """

    library: str
    level: int
    how: str
    target: str


def read_symbols() -> dict[str, Symbol]:
    """What bionic.txt says, by name."""
    return dict(_symbols((HERE / "bionic.txt").read_text(encoding="utf-8")))


def _symbols(text: str) -> Iterator[tuple[str, Symbol]]:
    for line in text.splitlines():
        head = re.fullmatch(r"\[(\w+) (\d+) (same|translated|refused)\]", line)
        if head:
            library, level, how = head[1] + ".so", int(head[2]), head[3]
        elif not line.startswith("#"):
            for word in line.split():
                name, _, target = word.partition("=")
                yield name, Symbol(library, level, how, target or name)


def sources(abi: str) -> tuple[str, str]:
    """What makes every symbol of bionic.txt one of the library: assembly, and C that goes before standin.c."""
    jumps, named = ['.section .note.GNU-stack,"",%progbits', ".text"], []
    for number, (name, symbol) in enumerate(sorted(read_symbols().items())):
        version = "LIBC" if symbol.level < FIRST_LEVEL_WITH_UNWINDER else "LIBC_R"
        export = f".globl android_{name}; .symver android_{name}, {name}@{version}"
        if symbol.how == "translated":
            named.append(f'__asm__("{export}");')
            continue
        body = JUMPS[abi].format(symbol.target)
        if symbol.how == "refused":
            body = REFUSALS[abi].format(f"name_{number}")
            jumps.append(f'.pushsection .rodata; name_{number}: .asciz "{name}"; .popsection')
        jumps.append(f".type android_{name}, %function; android_{name}: {body}; {export}")
    return "\n".join([*jumps, ""]), "\n".join([*named, ""])


def build(folder: Path, abi: str) -> Path:
    """The folder with the stand-ins, below ``folder``."""
    out = folder / f"bionic-{abi}"
    out.mkdir()
    jumps, named = sources(abi)
    (out / "jumps.s").write_text(jumps, encoding="utf-8")
    (out / "named.h").write_text(named, encoding="utf-8")
    (out / "versions.map").write_text("LIBC { };\nLIBC_R { } LIBC;\n", encoding="utf-8")
    options: list[str | Path] = ["-shared", "-fPIC", "-std=c11", "-fexceptions", "-include", out / "named.h"]
    options += ["-Wl,-z,defs", f"-Wl,-soname,{LIBRARIES[0]}", f"-Wl,--version-script={out / 'versions.map'}"]
    compile_c(abi, out / LIBRARIES[0], *options, HERE / "standin.c", out / "jumps.s", "-lm")
    for name in LIBRARIES[1:]:
        (out / name).symlink_to(LIBRARIES[0])
    return out


def compile_c(abi: str, output: Path, *arguments: str | Path) -> None:
    """Compile and link C for one of Android's CPUs, against glibc."""
    compiler = shutil.which(COMPILERS[abi])
    assert compiler, f"{COMPILERS[abi]} is needed: sudo apt install gcc-aarch64-linux-gnu build-essential"
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-O1", "-o", str(output), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]
