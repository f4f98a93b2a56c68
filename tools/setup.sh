#!/usr/bin/env bash
# Creates the virtual environment $1 and installs MiMo Mobile, editable, with the extras $2; with "lowest" as $2 it
# installs the lowest versions that pyproject.toml allows; with "verify" PyTorch and optimum instead of us, with "peers"
# what we are compared with: neither can live beside us. llama-cpp-python's wheel is built once, into the folder $3.
set -euo pipefail
venv=$1 extras=$2 wheels=${3:-$1/wheels} llama='llama-cpp-python>=0.3.36,<0.4'

find_python() {
    local candidate first=python3
    if [ "$extras" = lowest ]; then first="python3.11 python3.12 python3"; fi # the lowest numpy has wheels for these
    for candidate in ${PYTHON:-} $first python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate" && return
        fi
    done
    echo "MiMo Mobile needs Python 3.11 or newer: none found (sudo apt install python3, or PYTHON=/path/to/python3)" >&2
    return 1
}

# Runs a command with its output in a log; says every 30 seconds that it is still at work.
quietly() {
    local what=$1 log=$2 start=$SECONDS
    shift 2
    "$@" >"$log" 2>&1 &
    local job=$!
    trap 'kill $job 2>/dev/null' EXIT
    while kill -0 $job 2>/dev/null; do
        sleep 1
        if (( (SECONDS - start) % 30 == 29 )); then echo "  … $what: $((SECONDS - start)) s" >&2; sleep 1; fi
    done
    trap - EXIT
    if ! wait $job; then
        tail -n 25 "$log" >&2
        echo "$what failed; the whole log is in $log" >&2
        return 1
    fi
}

if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    echo "Creating $venv with $("$python" --version)" >&2
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "Python's venv module is incomplete here: sudo apt install python3-venv" >&2
        exit 1
    fi
fi

if [ "$extras" = verify ]; then
    echo "Installing PyTorch and optimum-onnx into $venv: about 2 GB, some minutes, once" >&2
    quietly "installing PyTorch" "$venv/install.log" \
        "$venv/bin/python" -m pip install --disable-pip-version-check -r tools/nano/requirements.txt
    exit
fi

if [ "$extras" = peers ]; then
    echo "Installing PyTorch, transformers and onnxruntime-genai into $venv: about 4 GB, some minutes, once" >&2
    quietly "installing the peers" "$venv/install.log" \
        "$venv/bin/python" -m pip install --disable-pip-version-check -r benchmarks/peers/requirements.txt
    # llama.cpp's converter comes with llama-cpp-python's sources only.
    quietly "downloading llama.cpp's sources" "$venv/download.log" "$venv/bin/python" -m pip download \
        --disable-pip-version-check --no-deps --no-binary llama-cpp-python -d "$venv" "$llama"
    tar -xzf "$venv"/llama_cpp_python-*.tar.gz -C "$venv"
    exit
fi

if ! command -v cc >/dev/null; then
    echo "A C compiler is needed to build MiMo Mobile's kernels for quantizing: sudo apt install build-essential" >&2
    exit 1
fi
export CC=${CC:-cc} # the one that this Python was built with may not be here

# Without a compiler that works we would be installed all the same, and only quantizing would fail.
check_kernels() {
    if ! "$venv/bin/python" -c 'from mimo_mobile.quantize import kernels; kernels.load()' 2>>"$venv/install.log"; then
        echo "quantize/kernels.c could not be built; the whole log is in $venv/install.log" >&2
        return 1
    fi
}

# llama-cpp-python is published as sources only. Nothing is built where one that fits is installed or lies as a wheel.
build_llama() {
    if "$venv/bin/python" -m pip install -q --disable-pip-version-check --dry-run --no-deps --no-index \
        --find-links "$wheels" --only-binary llama-cpp-python "$llama" 2>/dev/null; then return; fi
    if ! command -v c++ >/dev/null || ! command -v cc >/dev/null; then
        echo "A C and C++ compiler is needed to build llama.cpp: sudo apt install build-essential" >&2
        return 1
    fi
    echo "Building llama-cpp-python from source: this takes 4 to 15 minutes on two cores, once (log: $venv/llama-build.log)" >&2
    # shellcheck source=tools/without_amx.sh
    source "$(dirname "$0")/without_amx.sh"
    # Only the library: no multimodal part, no server, tools, examples or TLS.
    export CMAKE_ARGS="${CMAKE_ARGS:-} -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TOOLS=OFF \
-DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_APP=OFF"
    export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN)}
    local command=("$venv/bin/python" -m pip wheel --disable-pip-version-check --no-deps -w "$wheels" "$llama")
    # A third of the compiler's work is spared where sources can be compiled together, which other versions may not allow.
    CMAKE_ARGS="$CMAKE_ARGS -DCMAKE_PROJECT_llama.cpp_INCLUDE=$PWD/tools/llama_sparingly.cmake" \
        quietly "building llama-cpp-python" "$venv/llama-build.log" "${command[@]}" ||
        quietly "building llama-cpp-python source by source" "$venv/llama-build.log" "${command[@]}"
}

if [ "$extras" = lowest ]; then
    build_llama
    echo "Installing the lowest versions that mimo-mobile allows into $venv" >&2
    quietly "installing uv" "$venv/install.log" "$venv/bin/python" -m pip install --disable-pip-version-check uv
    # Of llama-cpp-python the version that was built; of all else that pyproject.toml names, the lowest that there is.
    quietly "installing the lowest versions" "$venv/install.log" "$venv/bin/uv" pip install --python "$venv/bin/python" \
        --resolution lowest-direct --find-links "$wheels" --only-binary llama-cpp-python -v -e '.[test]'
    check_kernels
    exit
fi

case ",$extras," in *,gguf,* | *,dev,* | *,bench,* | *,fuzz,*) build_llama ;; esac

echo "Installing mimo-mobile[$extras] into $venv" >&2
quietly "installing mimo-mobile[$extras]" "$venv/install.log" "$venv/bin/python" -m pip install \
    --disable-pip-version-check --find-links "$wheels" --only-binary llama-cpp-python -v -e ".[$extras]"
check_kernels
