"""``python -m tests.arm.instruction NAME`` executes one instruction of ARM: the emulator's own test."""

from __future__ import annotations

import ctypes
import mmap
import sys

CODES = {
    "nop": 0xD503201F,
    "sdot": 0x4E829420,  # v0.4s, v1.16b, v2.16b
    "smmla": 0x4E82A420,  # v0.4s, v1.16b, v2.16b
}
"""Source: Arm Architecture Reference Manual for A-profile (DDI 0487), C7.2."""

RET = 0xD65F03C0


def execute(name: str) -> None:
    """Run the instruction; the process ends by SIGILL where the CPU lacks it."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(b"".join(code.to_bytes(4, "little") for code in (CODES[name], RET)))
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()


if __name__ == "__main__":
    execute(sys.argv[1])
    print("executed")
