# shellcheck shell=bash
# Read by the scripts that build llama.cpp for this computer: lets the compiler use no AMX, which llama.cpp would use where
# the CPU has it. Its tile configuration is lost in two ways, and the next tile instruction ends the process with SIGILL:
# GCC 12 removes the stores of the configuration that it loads, and ONNX Runtime releases what llama.cpp loaded once for
# each thread. Phones have no AMX, so nothing of theirs is measured with it.
without_amx=""
if echo | "${CC:-cc}" -mno-amx-tile -mno-amx-int8 -mno-amx-bf16 -E - >/dev/null 2>&1; then
    without_amx=" -mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
fi
export CFLAGS="${CFLAGS:-}$without_amx" CXXFLAGS="${CXXFLAGS:-}$without_amx"
