#!/usr/bin/env bash
# Cross-builds what `make bench-phone` sends to a phone: llama.cpp's llama-bench and llama-completion, static, for 64-bit
# ARM, from llama-cpp-python's sources into the folder $1/bin. $2 is a Python with pip and llama-cpp-python, which lends
# cmake. PHONE_ARCH: what they may use of the CPU; the default runs on phones whose big cores are of 2018 or later.
set -euo pipefail
out=$1 python=$2 log=$1/build.log arch=${PHONE_ARCH:-armv8.2-a+dotprod+fp16}
sparingly=$(realpath "$(dirname "$0")/llama_sparingly.cmake")
for program in gcc g++ strip; do
    if ! command -v aarch64-linux-gnu-$program >/dev/null; then
        echo "aarch64-linux-gnu-$program is needed to build for phones: sudo apt install g++-aarch64-linux-gnu" >&2
        exit 1
    fi
done
mkdir -p "$out"
echo "Building llama-bench and llama-completion for phones ($arch): 5 to 15 minutes on two cores, once (log: $log)" >&2
build() {
    local version
    version=$("$python" -c 'import llama_cpp; print(llama_cpp.__version__)')
    "$python" -m venv "$out/tools"
    "$out/tools/bin/python" -m pip install --disable-pip-version-check -q cmake
    "$out/tools/bin/python" -m pip download --disable-pip-version-check -q --no-deps --no-binary llama-cpp-python \
        -d "$out" "llama-cpp-python==$version"
    tar -xzf "$out/llama_cpp_python-$version.tar.gz" -C "$out"
    local options=(-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_BUILD_TYPE=Release
        -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
        -DCMAKE_FIND_ROOT_PATH=/usr/aarch64-linux-gnu -DCMAKE_FIND_ROOT_PATH_MODE_PROGRAM=NEVER
        -DCMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY -DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY
        -DCMAKE_EXE_LINKER_FLAGS=-static -DBUILD_SHARED_LIBS=OFF
        -DGGML_NATIVE=OFF "-DGGML_CPU_ARM_ARCH=$arch" -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF
        "-DCMAKE_PROJECT_llama.cpp_INCLUDE=$sparingly" -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_USE_PREBUILT_UI=OFF
        # Else llama.cpp takes the commit of the repository around its sources, ours, for its own.
        -DLLAMA_BUILD_NUMBER=0 "-DLLAMA_BUILD_COMMIT=llama-cpp-python-$version")
    for part in TESTS EXAMPLES SERVER APP UI; do options+=("-DLLAMA_BUILD_$part=OFF"); done
    "$out/tools/bin/cmake" -S "$out/llama_cpp_python-$version/vendor/llama.cpp" -B "$out/build" "${options[@]}"
    "$out/tools/bin/cmake" --build "$out/build" --target llama-bench llama-completion -j "$(nproc)"
    mkdir -p "$out/bin"
    for program in llama-bench llama-completion; do
        aarch64-linux-gnu-strip -o "$out/bin/$program" "$out/build/bin/$program"
    done
    echo "$arch" >"$out/bin/arch"
}
trap '[ $? -eq 0 ] || tail -n 25 "$log" >&2' EXIT
build >"$log" 2>&1
