# shellcheck shell=bash disable=SC2154
# Read by build.sh: the AARs, the APKs and the tests of what is in one. Each step is a tool of Android's own chain: Google's
# merger of manifests, aapt2, D8 and apksigner. Only android.jar has a stand-in, Robolectric's android-all.

app=$here/app/src/main
tools=$cache/tools
framework=$tools/android-all-$(awk -F: '/:android-all:/ {print $3}' "$here/packaging/artifacts.sha256").jar
work=$cache/apk
test_classes=$cache/test-classes
aapt2=$tools/prebuilt/linux/aapt2_64
package=${project[app.id]}
# Gradle takes com.microsoft.onnxruntime:onnxruntime-android, and so does who uses the AAR. Not all copies of Maven
# Central have it; this npm package, which somebody made for Unity, holds the same version, with an empty manifest.
onnxruntime_package=com.github.asus4.onnxruntime@0.4.9
onnxruntime_sha256=98cddbac92640b4a6af72a03c42e0491851f366d3da66bbaeb5dd66310946cf2

fetch_android() { # $tools, ONNX Runtime and JNA for Android
    fetch "$here/packaging/artifacts.sha256" tools
    fetch "$here/packaging/plugin.sha256" plugin
    fetch "$here/packaging/api.sha256" api
    unzip -qo "$tools"/apktool-lib-*.jar prebuilt/linux/aapt2_64 -d "$tools"
    chmod +x "$aapt2"
    local folder=$cache/onnxruntime sum abis
    IFS=, read -ra abis <<<"${project[abis]}"
    abis=("${abis[@]/#/jni/}")
    abis=("${abis[@]/%//*}")
    mkdir -p "$folder"
    sum="$onnxruntime_sha256  $folder/onnxruntime.aar"
    if ! echo "$sum" | sha256sum --check --status 2>/dev/null; then
        (cd "$folder" && file=$(npm pack --silent "$onnxruntime_package") &&
            tar -xzf "$file" --strip-components=3 package/Plugins/Android/onnxruntime.aar && rm "$file")
        echo "$sum" | sha256sum --check --quiet
    fi
    unzip -qo "$folder/onnxruntime.aar" AndroidManifest.xml classes.jar "${abis[@]}" -d "$folder"
    # Without ONNX Runtime's uploader: its native code finds no class to send with, and says so in its log.
    rm -rf "$folder/classes"
    unzip -qo "$folder/classes.jar" -x 'ai/onnxruntime/telemetry/*' 'ai/onnxruntime/TelemetryInitializer*' \
        -d "$folder/classes"
    pack "$folder/onnxruntime.jar" "$folder/classes"
    jna=$cache/jna
    unzip -qo "$(echo "$tools"/jna-*.aar)" AndroidManifest.xml classes.jar "${abis[@]}" -d "$jna"
    kotlin_libraries=$(lib kotlin-stdlib):$(lib kotlinx-coroutines-core-jvm):$(echo "$tools"/kotlinx-coroutines-android-*.jar)
    declare -gA engine=([runtime]="" [onnx]=:$folder/onnxruntime.jar [llama]=:$jna/classes.jar) # what each module computes with
    android_libraries=$kotlin_libraries${engine[onnx]}${engine[llama]}
    library_jars=("${modules[@]/#/$work/}")
    library_jars=("${library_jars[@]/%/.jar}")
    local jdk
    jdk=$(readlink -f "$(command -v javac)")
    android_classes=(--lib "$framework" --lib "${jdk%/bin/javac}") # android-all lacks Java's own classes
}

pack() { # pack OUTPUT.jar FOLDER: the same bytes for the same files
    jar --create --file "$1" --date 1981-01-01T01:01:02Z -C "$2" .
}

build_stubs() { # $work/android-stubs.jar: Android's classes as Gradle shows them to unit tests, each method throws
    mkdir -p "$work"
    once "$work/android-stubs.jar" java "${brief[@]}" -cp "$cache/plugin/*" "$here/packaging/StubAndroid.java" "$framework" \
        "$work/android-stubs.jar"
}

dump_api() { # dump_api MODULE: what is public in it
    java "${brief[@]}" -cp "$cache/api/*:$(lib kotlin-stdlib)" "$here/packaging/DumpApi.java" "$work/$1.jar"
}

build_libraries() { # $library_jars, one for each module, with the classes and what Java's ServiceLoader looks for
    local module classpath options
    mkdir -p "$work"
    for module in "${modules[@]}"; do
        classpath=$framework:$kotlin_libraries${engine[$module]}
        options=(-module-name "$module" -Xexplicit-api=strict)
        # What is internal in :runtime is so for all modules of the library.
        [ "$module" = runtime ] || classpath+=:$work/runtime.jar options+=(-Xfriend-paths="$work/runtime.jar")
        once "$work/$module.jar" build_library "$work/$module.jar" "$here/$module/src/main/resources" "$classpath" \
            "${options[@]}" "$here/$module/src/main/kotlin"
    done
    step services "$work/services.jar" "$(echo "$tools"/kotlinx-coroutines-android-*.jar)" "${library_jars[@]}"
}

build_library() { # build_library OUTPUT.jar RESOURCES CLASSPATH ARGUMENT…
    kotlinc "$1" "${@:3}"
    [ ! -d "$2" ] || jar --update --file "$1" --date 1981-01-01T01:01:02Z -C "$2" .
}

merge() { # merge APPLICATION|LIBRARY NAMESPACE MANIFEST OUTPUT [PROPERTY=VALUE | LIBRARY.xml]…
    java "${brief[@]}" -cp "$cache/plugin/*" "$here/packaging/MergeManifest.java" "${@:1:4}" PACKAGE="$2" \
        MIN_SDK_VERSION="${project[minSdk]}" "${@:5}"
}

merge_libraries() { # $work/runtime.xml …, the libraries' manifests
    local module
    for module in "${modules[@]}"; do
        merge LIBRARY "${project[$module.namespace]}" "$here/$module/src/main/AndroidManifest.xml" "$work/$module.xml"
    done
}

merge_application() { # merge_application PACKAGE MANIFEST OUTPUT [LIBRARY.xml…]
    # Native libraries are mapped from the APK, which is why they lie on boundaries of pages in it.
    merge APPLICATION "${@:1:3}" TARGET_SDK_VERSION="${project[targetSdk]}" VERSION_CODE="${project[app.versionCode]}" \
        VERSION_NAME="${project[app.versionName]}" EXTRACT_NATIVE_LIBS=false "${@:4}"
}

build_aars() {
    need unzip
    fetch_android
    build_native
    build_libraries
    merge_libraries
    local module
    local -A jni=([llama]=$native) # what modules bring that Maven has no artifact of
    for module in "${modules[@]}"; do
        step aar "$cache/maven" "$module" "$work/$module.jar" "$work/$module.xml" ${jni[$module]:+"${jni[$module]}"}
    done
}

link() { # link MANIFEST OUTPUT ARGUMENT...: an APK with resources only
    "$aapt2" link -I "$framework" --manifest "$1" -o "$2" "${@:3}"
}

d8() { # d8 OUTPUT.zip [--classpath JAR]… INPUT.jar…: classes.dex
    once "$1" java "${brief[@]}" -cp "$(echo "$tools"/r8-*.jar)" com.android.tools.r8.D8 --debug --min-api "${project[minSdk]}" \
        "${android_classes[@]}" --output "$@"
}

shrink() { # shrink OUTPUT.zip ARGUMENT…: what R8 makes for a release, by the rules that an app with the library has
    local libraries rules=$work/rules/default.pro plugin name output=$1 ours=()
    for name in "${modules[@]}"; do ours+=(--pg-conf "$here/$name/consumer-rules.pro"); done
    rm -rf "$work/rules"
    mkdir "$work/rules"
    # As the Android plugin puts proguard-android-optimize.txt together.
    plugin=$(echo "$cache"/plugin/gradle-*.jar)
    for name in header optimizations common; do
        unzip -p "$plugin" "com/android/build/gradle/proguard-$name.txt"
    done >"$rules"
    IFS=: read -ra libraries <<<"$android_libraries:$(lib annotations)"
    java "${brief[@]}" -cp "$(echo "$tools"/r8-*.jar)" com.android.tools.r8.ExtractR8Rules --rules-output "$work/rules/libraries.pro" \
        "${libraries[@]}"
    once "$output" java "${brief[@]}" -cp "$(echo "$tools"/r8-*.jar)" com.android.tools.r8.R8 --release --map-diagnostics info none \
        "${android_classes[@]}" \
        --pg-conf "$rules" --pg-conf "$work/rules/libraries.pro" "${ours[@]}" \
        --output "$output" --pg-map-output "${output%.zip}-mapping.txt" "${@:2}" "$work/services.jar" "${library_jars[@]}" \
        "${libraries[@]}" \
        2> >(grep -v "^Warning: Resource 'META-INF/.*' already exists" >&2)
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
    fetch_android
    build_native
    build_libraries
    local libraries_of_app inputs jar classpath=()
    IFS=: read -ra inputs <<<"$android_libraries"

    "$aapt2" compile --dir "$app/res" -o "$work/resources.zip"
    merge_libraries
    merge_application "$package" "$app/AndroidManifest.xml" "$work/app.xml" \
        "${library_jars[@]/%.jar/.xml}" "$cache/onnxruntime/AndroidManifest.xml" "$jna/AndroidManifest.xml"
    link "$work/app.xml" "$work/linked.apk" --debug-mode --java "$work/names" "$work/resources.zip"
    find "$work/names" -name '*.java' -exec javac --release 11 -d "$work/names-classes" {} +
    pack "$work/names.jar" "$work/names-classes"
    libraries_of_app=$framework:$android_libraries:$(joined "${library_jars[@]}"):$work/names.jar
    compile "$work/app.jar" "$libraries_of_app" -module-name app "$app/kotlin"
    compile "$work/test.jar" "$libraries_of_app:$work/app.jar" -module-name app_test -Xfriend-paths="$work/app.jar" \
        "$app/../androidTest/kotlin"
    end_kotlinc
    d8 "$work/debug.zip" "${library_jars[@]}" "$work"/{app,names}.jar "${inputs[@]}"
    build_app debug "$work/linked.apk" "$work/services.jar"

    link "$work/app.xml" "$work/release-linked.apk" --proguard "$work/resources.pro" "$work/resources.zip"
    shrink "$work/release.zip" --min-api "${project[minSdk]}" --pg-conf "$work/resources.pro" \
        --pg-conf "$here/app/proguard-rules.pro" "$work"/{app,names}.jar
    build_app release "$work/release-linked.apk" "$work/release.zip"
    cp "$work/release-mapping.txt" "$cache/mimo-mobile-release-mapping.txt"

    merge_application "$package.test" "$app/../androidTest/AndroidManifest.xml" "$work/test.xml"
    link "$work/test.xml" "$work/test-linked.apk" --debug-mode
    for jar in "${library_jars[@]}" "$work"/{app,names}.jar "${inputs[@]}"; do
        classpath+=(--classpath "$jar")
    done
    d8 "$work/test.zip" "${classpath[@]}" "$work/test.jar"
    step apk "$work/test-unsigned.apk" "$work/test-linked.apk" "$work/test.zip" --assets "$here/../tests/golden"
    sign "$work/test-unsigned.apk" mimo-mobile-debug-androidTest.apk
}

build_app() { # build_app VARIANT LINKED.apk SERVICES.zip: signed
    step apk "$work/unsigned.apk" "$2" "$work/$1.zip" --services "$3" --jni "$cache/onnxruntime/jni" "$jna/jni" "$native" --model "$model"
    sign "$work/unsigned.apk" "mimo-mobile-$1.apk"
}

native_libraries() { # native_libraries FOLDER: of the engines for computers; the Java classes under test are others
    unzip -qo "$(lib onnxruntime)" 'ai/onnxruntime/native/*' -d "$1"
    unzip -qo "$(lib jna)" 'com/sun/jna/linux-*' -d "$1"
}

test_release() { # the libraries as R8 leaves them in an app, under the tests of their sources, which are that app
    local folder=$cache/release
    mkdir -p "$folder"
    fetch_android
    build_libraries
    build_stubs
    compile_tests
    java "${brief[@]}" -cp "$cache/plugin/*" "$here/packaging/PlainNames.java" "$folder/tests.jar" "${test_folders[@]}"
    shrink "$folder/tested.zip" --classfile --pg-conf "$here/packaging/tests.pro" \
        --lib "$(lib junit)" --lib "$(lib hamcrest-core)" "$folder/tests.jar"
    native_libraries "$folder/native"
    without_sweeps "$folder/tested.zip:$folder/native"
}

test_dex() { # the classes of the APK, as DEX has them, under the tests of their sources
    local apk=$cache/mimo-mobile-debug.apk folder=$cache/dex
    need enjarify unzip
    [ -f "$apk" ] || { echo "$apk: not there; run \`android_demo/build.sh apk\` first" >&2; exit 1; }
    rm -rf "$folder"
    mkdir -p "$folder"
    unzip -qo "$apk" classes.dex 'META-INF/services/*' -d "$folder"
    # Debian's enjarify wants Debian's Python.
    (cd "$folder" && PATH=/usr/bin:/bin enjarify -o classes.jar classes.dex)
    step undex "$folder/tested.jar" "$folder/classes.jar"
    native_libraries "$folder/native"
    fetch_android
    build_libraries
    build_stubs
    compile_tests
    # JNA's classes are its jar's: enjarify loses annotations, and JNA lays out structs of its own by some.
    # It asks for 2.4 KB of stack in every method, whatever it needs.
    without_sweeps "$(joined "${test_folders[@]}"):$(lib jna):$folder/tested.jar:$folder:$folder/native" \
        -Xss8m -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote
}
