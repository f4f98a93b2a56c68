#!/usr/bin/env bash
# Builds llama.cpp's own programs, unpatched, from llama-cpp-python's sources into the folder $1, for `make test-slow`:
# llama-server has to draft with our single file, llama-quantize and llama-imatrix read our importance matrices and write
# what we write, llama-perplexity measures what we measure. $2 is a Python with pip, which lends cmake, and with
# llama-cpp-python, which lends the libraries that it built of the same sources.
set -euo pipefail
out=$1 python=$2 log=$1/build.log sparingly=$(realpath "$(dirname "$0")/llama_sparingly.cmake")
mkdir -p "$out"
echo "Building llama.cpp's programs from llama-cpp-python's sources: 2 to 6 minutes on two cores, once (log: $log)" >&2
build() {
    "$python" -m venv "$out/tools"
    "$out/tools/bin/python" -m pip install --disable-pip-version-check -q cmake
    "$out/tools/bin/python" -m pip download --disable-pip-version-check -q --no-deps --no-binary llama-cpp-python \
        -d "$out" "llama-cpp-python==$("$python" -c 'import llama_cpp; print(llama_cpp.__version__)')"
    tar -xzf "$out"/llama_cpp_python-*.tar.gz -C "$out"
    local options=(-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DLLAMA_OPENSSL=OFF)
    # The programs' folder is searched for what libraries want, too: those that a wheel installs name none.
    options+=(-DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags)
    options+=("-DCMAKE_PROJECT_llama.cpp_INCLUDE=$sparingly")
    for part in TESTS EXAMPLES APP UI; do options+=("-DLLAMA_BUILD_$part=OFF"); done
    "$out/tools/bin/cmake" -G "Unix Makefiles" -S "$out"/llama_cpp_python-*/vendor/llama.cpp -B "$out/build" "${options[@]}" \
        -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_NUMBER=0 -DLLAMA_BUILD_COMMIT=llama-cpp-python
    local libraries target
    libraries=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/lib
    mkdir -p "$out/build/bin"
    # Somebody else's wheel may lack what ours has beside the library for Python.
    if [ -e "$libraries/libllama-common.so" ]; then
        cp -a "$libraries"/lib{ggml,llama}*.so* "$out/build/bin/"
    else
        make -C "$out/build" -j "$(nproc)" llama-common
    fi
    for target in cpp-httplib llama-common-base vendor-hash mtmd llama-ui-assets llama-ui server-context \
        llama-{server,quantize,perplexity}-impl llama-{server,quantize,imatrix,perplexity}; do
        make -C "$out/build" -j "$(nproc)" "$target/fast" # fast: without what it links, which is there
    done
}
# shellcheck source=tools/without_amx.sh
source "$(dirname "$0")/without_amx.sh"
trap '[ $? -eq 0 ] || tail -n 25 "$log" >&2' EXIT
build >"$log" 2>&1
