#!/usr/bin/env bash
# Builds llama.cpp's own llama-server, unpatched, from llama-cpp-python's sources into the folder $1, for `make test-slow`:
# it has to draft with our single file. $2 is a Python with pip.
set -euo pipefail
out=$1 python=$2
mkdir -p "$out"
exec > >(tee "$out/build.log" | grep --line-buffered -E '^\[ *[0-9]*0%\]' >&2 || true) 2>&1
"$python" -m pip install --disable-pip-version-check -q cmake
"$python" -m pip download --disable-pip-version-check -q --no-deps --no-binary llama-cpp-python -d "$out" \
    'llama-cpp-python>=0.3.36,<0.4'
tar -xzf "$out"/llama_cpp_python-*.tar.gz -C "$out"
source=$(echo "$out"/llama_cpp_python-*/vendor/llama.cpp)
"$(dirname "$python")/cmake" -S "$source" -B "$out/build" -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
    -DLLAMA_OPENSSL=OFF -DBUILD_SHARED_LIBS=OFF
"$(dirname "$python")/cmake" --build "$out/build" --target llama-server -j "$(nproc)"
ls "$out/build/bin/llama-server"
