# shellcheck shell=bash disable=SC2154
# Read by build.sh: the AAR, the APKs and the tests of what is in one. Each step is a tool of Android's own chain: Google's
# merger of manifests, aapt2, D8 and apksigner. Only android.jar has a stand-in, Robolectric's android-all.

assigned() { # assigned MODULE NAME: what a module's Gradle file says
    sed -n "s/^ *$2 = \"\?\([^\"]*\)\"\?$/\1/p" "$here/$1/build.gradle.kts"
}

app=$here/app/src/main
tools=$cache/tools
framework=$tools/android-all-$(awk -F: '/:android-all:/ {print $3}' "$here/packaging/artifacts.sha256").jar
work=$cache/apk
aapt2=$tools/prebuilt/linux/aapt2_64
package=$(assigned app applicationId)
# Gradle takes com.microsoft.onnxruntime:onnxruntime-android, and so does who uses the AAR. Not all copies of Maven
# Central have it; this npm package, which somebody made for Unity, holds the same version, with an empty manifest.
onnxruntime_package=com.github.asus4.onnxruntime@0.4.9
onnxruntime_sha256=98cddbac92640b4a6af72a03c42e0491851f366d3da66bbaeb5dd66310946cf2
abis=('arm64-v8a/*' 'x86_64/*')

version() { # version NAME: what Gradle's catalog says
    sed -n "s/^$1 = \"\(.*\)\"$/\1/p" "$here/gradle/libs.versions.toml"
}

step() { # step MODULE ARGUMENT...: Python, of packaging/
    (cd "$here/.." && "${PYTHON3:-python3}" -m "android_demo.packaging.$1" "${@:2}")
}

fetch_android() { # $tools and ONNX Runtime for Android
    fetch "$here/packaging/artifacts.sha256" tools
    fetch "$here/packaging/merger.sha256" merger
    unzip -qo "$tools"/apktool-lib-*.jar prebuilt/linux/aapt2_64 -d "$tools"
    chmod +x "$aapt2"
    local folder=$cache/onnxruntime sum
    mkdir -p "$folder"
    sum="$onnxruntime_sha256  $folder/onnxruntime.aar"
    if ! echo "$sum" | sha256sum --check --status 2>/dev/null; then
        (cd "$folder" && file=$(npm pack --silent "$onnxruntime_package") &&
            tar -xzf "$file" --strip-components=3 package/Plugins/Android/onnxruntime.aar && rm "$file")
        echo "$sum" | sha256sum --check --quiet
    fi
    unzip -qo "$folder/onnxruntime.aar" AndroidManifest.xml classes.jar "${abis[@]/#/jni/}" -d "$folder"
    # Without ONNX Runtime's uploader: its native code finds no class to send with, and says so in its log.
    rm -rf "$folder/classes"
    unzip -qo "$folder/classes.jar" -x 'ai/onnxruntime/telemetry/*' 'ai/onnxruntime/TelemetryInitializer*' \
        -d "$folder/classes"
    jar --create --file "$folder/onnxruntime.jar" -C "$folder/classes" .
    android_libraries=$(lib kotlin-stdlib):$(lib kotlinx-coroutines-core-jvm)
    android_libraries+=:$(echo "$tools"/kotlinx-coroutines-android-*.jar):$folder/onnxruntime.jar
}

build_runtime() { # $work/runtime.jar, all of the library
    mkdir -p "$work"
    compile "$work/runtime.jar" "$framework:$android_libraries" -module-name runtime -Xexplicit-api=strict \
        "$sources/main/kotlin"
}

merge() { # merge APPLICATION|LIBRARY NAMESPACE MANIFEST OUTPUT [PROPERTY=VALUE | LIBRARY.xml]…
    java -cp "$cache/merger/*" "$here/packaging/MergeManifest.java" "${@:1:4}" PACKAGE="$2" \
        MIN_SDK_VERSION="$(version minSdk)" "${@:5}"
}

merge_runtime() { # $work/runtime.xml, the library's manifest
    merge LIBRARY "$(assigned runtime namespace)" "$sources/main/AndroidManifest.xml" "$work/runtime.xml"
}

merge_application() { # merge_application PACKAGE MANIFEST OUTPUT [LIBRARY.xml…]
    # Native libraries are mapped from the APK, which is why they lie on boundaries of pages in it.
    merge APPLICATION "${@:1:3}" TARGET_SDK_VERSION="$(version targetSdk)" VERSION_CODE="$(assigned app versionCode)" \
        VERSION_NAME="$(assigned app versionName)" EXTRACT_NATIVE_LIBS=false "${@:4}"
}

build_aar() {
    need unzip
    fetch_android
    build_runtime
    merge_runtime
    step aar "$cache/maven" "$work/runtime.jar" "$work/runtime.xml"
}

link() { # link MANIFEST OUTPUT ARGUMENT...: an APK with resources only
    "$aapt2" link -I "$framework" --manifest "$1" --debug-mode -o "$2" "${@:3}"
}

d8() { # d8 OUTPUT [--classpath JAR]… INPUT.jar…: a folder with classes.dex
    local jdk
    jdk=$(readlink -f "$(command -v javac)")
    mkdir "$1"
    # android-all lacks Java's own classes.
    java -cp "$(echo "$tools"/r8-*.jar)" com.android.tools.r8.D8 --debug --min-api "$(version minSdk)" \
        --lib "$framework" --lib "${jdk%/bin/javac}" --output "$@"
}

sign() { # sign UNSIGNED.apk NAME: $cache/NAME
    local keys=$cache/debug.keystore
    # As Android Studio makes one: everyone knows the password, so it tells nothing of who built the APK.
    [ -f "$keys" ] || keytool -genkeypair -keystore "$keys" -storepass android -keypass android \
        -alias androiddebugkey -dname "CN=Android Debug, O=Android, C=US" -keyalg RSA -keysize 2048 -validity 10950
    apksigner sign --ks "$keys" --ks-pass pass:android --ks-key-alias androiddebugkey --out "$work/signed.apk" "$1"
    apksigner verify "$work/signed.apk"
    mv "$work/signed.apk" "$cache/$2"
    echo "$cache/$2"
}

build_apk() { # the app, then the tests that run in it on a device
    need apksigner unzip
    rm -rf "$work"
    fetch_android
    build_runtime
    local libraries_of_app inputs jar classpath=()
    IFS=: read -ra inputs <<<"$android_libraries"

    "$aapt2" compile --dir "$app/res" -o "$work/resources.zip"
    merge_runtime
    merge_application "$package" "$app/AndroidManifest.xml" "$work/app.xml" \
        "$work/runtime.xml" "$cache/onnxruntime/AndroidManifest.xml"
    link "$work/app.xml" "$work/linked.apk" --java "$work/names" "$work/resources.zip"
    find "$work/names" -name '*.java' -exec javac --release 11 -d "$work/names-classes" {} +
    jar --create --file "$work/names.jar" -C "$work/names-classes" .
    libraries_of_app=$framework:$android_libraries:$work/runtime.jar:$work/names.jar
    compile "$work/app.jar" "$libraries_of_app" -module-name app "$app/kotlin"
    d8 "$work/dex" "$work"/{runtime,app,names}.jar "${inputs[@]}"
    step apk "$work/unsigned.apk" "$work/linked.apk" "$work/dex/classes.dex" \
        --services "$(echo "$tools"/kotlinx-coroutines-android-*.jar)" --jni "$cache/onnxruntime/jni" \
        --model "$model"
    sign "$work/unsigned.apk" mimo-mobile-debug.apk

    merge_application "$package.test" "$app/../androidTest/AndroidManifest.xml" "$work/test.xml"
    link "$work/test.xml" "$work/test-linked.apk"
    compile "$work/test.jar" "$libraries_of_app:$work/app.jar" -module-name app_test -Xfriend-paths="$work/app.jar" \
        "$app/../androidTest/kotlin"
    for jar in "$work"/{runtime,app,names}.jar "${inputs[@]}"; do
        classpath+=(--classpath "$jar")
    done
    d8 "$work/test-dex" "${classpath[@]}" "$work/test.jar"
    step apk "$work/test-unsigned.apk" "$work/test-linked.apk" "$work/test-dex/classes.dex" --assets "$here/../tests/golden"
    sign "$work/test-unsigned.apk" mimo-mobile-debug-androidTest.apk
}

test_dex() { # the classes of the APK, as DEX has them, under the tests of their sources
    local apk=$cache/mimo-mobile-debug.apk folder=$cache/dex
    need enjarify unzip
    [ -f "$apk" ] || { echo "$apk: not there; run \`android_demo/build.sh apk\` first" >&2; exit 1; }
    rm -rf "$folder"
    mkdir -p "$folder"
    unzip -qo "$apk" classes.dex -d "$folder"
    # Debian's enjarify wants Debian's Python.
    (cd "$folder" && PATH=/usr/bin:/bin enjarify -o classes.jar classes.dex)
    step undex "$folder/tested.jar" "$folder/classes.jar"
    # Of ONNX Runtime for computers the libraries only; its Java classes are the APK's.
    unzip -qo "$(lib onnxruntime)" 'ai/onnxruntime/native/*' -d "$folder/native"
    build_jar
    # enjarify asks for 2.4 KB of stack in every method, whatever it needs.
    run_tests "$cache/runtime.jar" "$folder/tested.jar:$folder/native" \
        -Xss8m -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote
}
