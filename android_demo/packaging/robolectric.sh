# shellcheck shell=bash disable=SC2154
# Read by build.sh: the app's own activities, on this computer. Robolectric brings Android's framework and its drawing,
# ONNX Runtime's build for computers the engine; neither needs a device, Gradle or an SDK.

android=14-robolectric-10818077 # the newest that JDK 17 runs; the app is compiled for a newer one
robolectric=$cache/robolectric

test_app() { # what is asked of the app's classes, with the resources and assets of its APK
    local apk=$cache/mimo-mobile-debug.apk folder=$cache/robolectric-run classpath aar tests llama
    [ -f "$apk" ] || { echo "$apk: not there; run \`android_demo/build.sh apk\` first" >&2; exit 1; }
    fetch "$here/packaging/robolectric.sha256" robolectric
    rm -rf "$folder"
    mkdir -p "$folder/sdk" "$folder/com/android/tools"
    # Robolectric looks here instead of downloading, for each version of Android.
    ln -s "$robolectric/android-all-instrumented-$android-i7.jar" "$folder/sdk/"
    {
        echo "android_merged_manifest=$work/app.xml"
        echo "android_resource_apk=$apk"
        echo "android_custom_package=$package"
    } >"$folder/com/android/tools/test_config.properties"
    classpath=$work/app.jar:$work/names.jar:$(joined "${modules[@]/#/$work/}" | sed "s/:/.jar:/g").jar:$libraries
    classpath+=:$(echo "$tools"/kotlinx-coroutines-android-*.jar):$(lib junit):$(lib hamcrest-core)
    for jar in "$robolectric"/*.jar; do
        [[ $jar == */android-all* ]] || classpath+=:$jar
    done
    for aar in "$robolectric"/*.aar; do
        unzip -qo "$aar" classes.jar -d "$folder/$(basename "$aar" .aar)"
        classpath+=:$folder/$(basename "$aar" .aar)/classes.jar
    done
    # After Robolectric's own: only what names Android's types before a sandbox is there finds them in it.
    classpath+=:$robolectric/android-all-$android.jar
    compile "$folder/tests.jar" "$classpath" -module-name app_test -Xfriend-paths="$work/app.jar" \
        "$app/../test/kotlin" "$app/../androidTest/kotlin"
    end_kotlinc
    mapfile -t tests < <(cd "$app/../test/kotlin" && find . -name '*Test.kt' | sed 's|^\./||; s|\.kt$||; s|/|.|g' | sort)
    [ ${#tests[@]} -gt 0 ] || { echo "no tests in $app/../test/kotlin" >&2; exit 1; }
    llama=$(llama_libraries)
    # Robolectric tells each time that the app reads the battery.
    ORT_DISABLE_TELEMETRY=1 java "${brief[@]}" -Xmx2g --add-opens=java.base/java.io=ALL-UNNAMED \
        -Drobolectric.dependency.dir="$folder/sdk" -Dmimo.model="$model" -Dmimo.golden="$here/../tests/golden" -Dmimo.llama="$llama" -Djna.library.path="$llama" \
        ${SCREENSHOTS:+-Dmimo.screenshots="$SCREENSHOTS"} \
        -cp "$folder:$folder/tests.jar:$classpath" org.junit.runner.JUnitCore "${tests[@]}" \
        2> >(grep -av BATTERY_CHANGED >&2)
}
