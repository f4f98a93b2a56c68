#!/usr/bin/env bash
# Builds llama.cpp's own programs, unpatched, from llama-cpp-python's sources into the folder $1, for `make test-slow`:
# llama-server has to draft with our single file, llama-quantize and llama-imatrix read our importance matrices and write
# what we write, llama-perplexity measures what we measure. $2 is a Python with pip, which lends cmake.
set -euo pipefail
out=$1 python=$2 log=$1/build.log
mkdir -p "$out"
echo "Building llama.cpp's programs from llama-cpp-python's sources: 5 to 16 minutes on two cores, once (log: $log)" >&2
build() {
    "$python" -m venv "$out/tools"
    "$out/tools/bin/python" -m pip install --disable-pip-version-check -q cmake
    "$out/tools/bin/python" -m pip download --disable-pip-version-check -q --no-deps --no-binary llama-cpp-python \
        -d "$out" "llama-cpp-python==$("$python" -c 'import llama_cpp; print(llama_cpp.__version__)')"
    tar -xzf "$out"/llama_cpp_python-*.tar.gz -C "$out"
    local options=(-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF)
    for part in TESTS EXAMPLES APP UI; do options+=("-DLLAMA_BUILD_$part=OFF"); done
    "$out/tools/bin/cmake" -S "$out"/llama_cpp_python-*/vendor/llama.cpp -B "$out/build" "${options[@]}" \
        -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_NUMBER=0 -DLLAMA_BUILD_COMMIT=llama-cpp-python
    "$out/tools/bin/cmake" --build "$out/build" --target llama-server llama-quantize llama-imatrix llama-perplexity -j "$(nproc)"
}
trap '[ $? -eq 0 ] || tail -n 25 "$log" >&2' EXIT
build >"$log" 2>&1
