#!/usr/bin/env bash
# Sets up in the folder $1 what `make test-arm` runs under QEMU: a Debian for arm64, unpacked and never entered; the
# aarch64 wheels that our runtime imports; llama-cpp-python, cross-built. $2 is a Python with our packages: the same
# versions of onnxruntime, tokenizers and llama-cpp-python are taken. What is finished is kept.
set -euo pipefail
mkdir -p "$1"
out=$(cd "$1" && pwd) python=$2 label=ARM
sparingly=$(realpath "$(dirname "$0")/llama_sparingly.cmake")
triplet=aarch64-linux-gnu

missing=()
command -v qemu-aarch64-static >/dev/null || command -v qemu-aarch64 >/dev/null || missing+=(qemu-user-static)
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
command -v $triplet-g++ >/dev/null || missing+=(g++-$triplet)
command -v make >/dev/null || missing+=(make)
if [ ${#missing[@]} -gt 0 ]; then
    echo "Tests for ARM need programs of Debian: sudo apt install ${missing[*]}" >&2
    exit 1
fi

source "$(dirname "$0")/once.sh"

unpack_debian() {
    local sources
    for sources in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        if [ -s "$sources" ]; then break; fi
    done
    rm -rf "$out/root"
    mmdebstrap --architectures=arm64 --variant=extract --include=python3-minimal,libpython3-stdlib,libstdc++6,libgcc-s1 \
        "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$out/root" "$sources"
}

install_wheels() {
    local version
    version=$(basename "$(readlink -f "$out/root/usr/bin/python3")")
    local options=(--implementation cp --python-version "${version#python}" --abi "cp${version//[!0-9]/}" --abi abi3 --abi none)
    # pip does not take the newest of these for all of them.
    local glibc
    for glibc in 2_28 2_27 2_26 2_24 2_17 2014; do options+=(--platform "manylinux${glibc/#2_/_2_}_aarch64"); done
    rm -rf "$out/wheels"
    "$python" -m pip install --disable-pip-version-check --no-deps --only-binary=:all: --target "$out/wheels" \
        "${options[@]}" "onnxruntime==$(version_of onnxruntime)" "tokenizers==$(version_of tokenizers)" \
        numpy flatbuffers protobuf packaging jinja2 markupsafe click rich markdown-it-py mdurl pygments \
        diskcache typing_extensions
}

# Kernels of llama.cpp's Android builds, which ggml chooses from when it is loaded: the best for each CPU below; those for
# SME need a newer GCC. They alone are optimized in full.
build_llama() {
    local build=$out/build package=$out/llama/llama_cpp
    rm -rf "$build" "$out/llama"
    mkdir -p "$build" "$out/llama"
    "$python" -m venv "$build/tools"
    "$build/tools/bin/python" -m pip install --disable-pip-version-check -q cmake
    "$build/tools/bin/python" -m pip download --disable-pip-version-check -q --no-deps --no-binary llama-cpp-python \
        -d "$build" "llama-cpp-python==$(version_of llama-cpp-python)"
    tar -xzf "$build"/llama_cpp_python-*.tar.gz -C "$build"
    mv "$build"/llama_cpp_python-*/ "$build/sources"
    # Which kernels there are ggml decides by the system's name, which is Linux for all else.
    printf 'set(CMAKE_SYSTEM_NAME Android)\nset(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")\n' >"$build/android.cmake"
    local options=(-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_C_COMPILER=$triplet-gcc)
    options+=(-DCMAKE_CXX_COMPILER=$triplet-g++ -DCMAKE_BUILD_TYPE=Release -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON)
    options+=("-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG" "-DCMAKE_PROJECT_llama.cpp_INCLUDE=$sparingly")
    options+=(-DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON)
    options+=("-DGGML_BACKEND_DIR=$package/lib" "-DCMAKE_PROJECT_ggml_INCLUDE=$build/android.cmake" -DLLAMA_OPENSSL=OFF)
    local part
    for part in COMMON TESTS EXAMPLES TOOLS SERVER APP UI; do options+=("-DLLAMA_BUILD_$part=OFF"); done
    "$build/tools/bin/cmake" -G "Unix Makefiles" -S "$build/sources/vendor/llama.cpp" -B "$build/made" "${options[@]}"
    local target targets=(ggml-base)
    for target in 8.0_1 8.2_2 8.6_1 9.0_1; do
        targets+=("ggml-cpu-android_armv$target-feats" "ggml-cpu-android_armv$target")
    done
    for target in "${targets[@]}" ggml llama; do
        make -C "$build/made" -j "$(nproc)" "$target/fast" # fast: without the kernels that are not asked for
    done
    cp -r "$build/sources/llama_cpp" "$package"
    mkdir -p "$package/lib"
    cp -a "$build"/made/bin/*.so* "$package/lib/"
    rm -rf "$build"
}

# One prefix for each CPU: Debian's, and a /proc/cpuinfo of that CPU, which onnxruntime asks. Without it QEMU 7 shows
# it this machine's, and it crashes (https://github.com/pytorch/cpuinfo/pull/398). What a CPU can do QEMU tells it.
describe_cpus() {
    local line name part features processor
    rm -rf "$out/cpu"
    while read -r name part features; do
        mkdir -p "$out/cpu/$name/proc"
        ln -s ../../root/usr ../../root/lib "$out/cpu/$name/"
        for ((processor = 0; processor < $(nproc); processor++)); do
            for line in "processor : $processor" "Features : fp asimd aes pmull sha1 sha2 crc32 $features" \
                "CPU implementer : 0x41" "CPU architecture: 8" "CPU variant : 0x1" "CPU part : $part" "CPU revision : 0" ""; do
                echo "$line"
            done
        done >"$out/cpu/$name/proc/cpuinfo"
    done <<'END'
a53 0xd03
a76 0xd0b atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp
i8mm 0xd47 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp i8mm bf16
sve2 0xd47 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp i8mm bf16 sve sve2
END
}

versions=$(for name in onnxruntime tokenizers llama-cpp-python; do version_of $name; done && cat "$sparingly")
once "unpacking Debian for arm64: half a minute, 80 MB" unpack_debian
once "installing aarch64 wheels: half a minute, 160 MB" install_wheels
once "cross-building llama-cpp-python: 5 to 15 minutes on two cores, once" build_llama
once "describing the CPUs" describe_cpus
