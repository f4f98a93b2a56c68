#!/usr/bin/env bash
# Sets up in the folder $1 what `make test-gpu` runs: a Debian 13 with lavapipe, which is Vulkan in software and has
# float16, and the wheels that our runtime imports. $2 is a Python with our packages, whose versions are taken. What is
# finished is kept.
set -euo pipefail
mkdir -p "$1"
out=$(cd "$1" && pwd) python=$2 label=GPU

missing=()
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
command -v unshare >/dev/null || missing+=(util-linux)
if [ ${#missing[@]} -gt 0 ]; then
    echo "Tests on software Vulkan need programs of Debian: sudo apt install ${missing[*]}" >&2
    exit 1
fi
if [ "$(uname -m)" != x86_64 ]; then
    echo "Tests on software Vulkan are for x86-64; this machine is $(uname -m)" >&2
    exit 1
fi

source "$(dirname "$0")/once.sh"

unpack_debian() {
    local sources
    for sources in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        if [ -s "$sources" ]; then break; fi
    done
    rm -rf "$out/root" "$out/sources"
    mkdir "$out/sources"
    sed "s/$(. /etc/os-release && echo "$VERSION_CODENAME")/trixie/g" "$sources" >"$out/sources/$(basename "$sources")"
    mmdebstrap --variant=apt --architectures=amd64 --include=python3,mesa-vulkan-drivers,libvulkan1 \
        trixie "$out/root" "$out/sources/$(basename "$sources")"
    mkdir -p "$out/root/mnt/repository" "$out/root/mnt/wheels" "$out/root/mnt/folder"
}

install_wheels() {
    local version
    version=$(basename "$(readlink -f "$out/root/usr/bin/python3")")
    rm -rf "$out/wheels"
    "$python" -m pip install --disable-pip-version-check --no-deps --only-binary=:all: --target "$out/wheels" \
        --implementation cp --python-version "${version#python}" --abi "cp${version//[!0-9]/}" --abi abi3 --abi none \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 \
        "onnxruntime==$(version_of onnxruntime)" "tokenizers==$(version_of tokenizers)" onnxruntime-ep-webgpu \
        numpy flatbuffers protobuf packaging jinja2 markupsafe click rich markdown-it-py mdurl pygments prompt-toolkit wcwidth \
        "onnx==$(version_of onnx)" ml_dtypes typing_extensions
}

# ONNX Runtime looks for GPUs in /sys/class/drm: a card that is made up, which is bound there in a namespace of its own.
make_up_card() {
    local device=$out/class/drm/card0/device
    rm -rf "$out/class"
    mkdir -p "$device"
    echo 0x10de >"$device/vendor"
    echo 0x2330 >"$device/device"
    echo 0x030000 >"$device/class"
    echo 1 >"$device/boot_vga"
}

versions=$(for name in onnxruntime tokenizers onnx; do version_of $name; done)
once "unpacking Debian 13 with lavapipe: half a minute, 430 MB" unpack_debian
once "installing wheels: half a minute" install_wheels
once "making up a graphics card" make_up_card
