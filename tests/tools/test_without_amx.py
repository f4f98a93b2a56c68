"""llama.cpp is built without AMX, whose tile configuration it loses."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "without_amx.sh"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has AMX")
def test_the_builds_flags_leave_amx_out_where_the_cpu_has_it() -> None:
    command = f'source "{SCRIPT}"; cc $CFLAGS -march=sapphirerapids -dM -E -x c /dev/null'
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert "__AVX512F__" in found
    assert "__AMX_" not in found


def test_the_llama_cpp_of_these_tests_has_no_amx() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    assert b"AMX" not in llama_cpp.llama_print_system_info()
