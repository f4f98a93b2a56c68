# shellcheck shell=bash disable=SC2154
# Read by build.sh: Google's lint over the app and the libraries, without an SDK. Its checks of API levels need a file that
# only the SDK has (api-versions.xml), and do nothing here; all others work.

lint_app() { # every warning is an error, as in Gradle's builds; lint.xml says what is not asked, and why
    local folder=$work/lint
    [ -f "$work/app.xml" ] || { echo "$work/app.xml: not there; run \`android_demo/build.sh apk\` first" >&2; exit 1; }
    fetch_android
    fetch "$here/packaging/lint.sha256" lint-tools
    mkdir -p "$folder"
    fake_sdk "$folder/sdk"
    java_classes "$folder/java.jar"
    describe_project >"$folder/project.xml"
    once "$folder/report.txt" run_lint "$folder/report.txt" "$folder/project.xml" "$here/lint.xml" "$folder/sdk" \
        "$work/app.xml" "${library_jars[@]/%.jar/.xml}" "$work/names.jar" "${library_jars[@]}" "$app/res" "$app/kotlin" \
        "${modules[@]/#/$here/}"
}

run_lint() { # run_lint REPORT PROJECT CONFIG SDK …
    ANDROID_USER_HOME="${1%/*}/home" java "${brief[@]}" -cp "$cache/lint-tools/*" \
        com.android.tools.lint.Main --quiet --offline -Werror --exitcode --fullpath --text "$1" --project "$2" \
        --config "$3" --sdk-home "$4" || { cat "$1" >&2; exit 1; }
}

fake_sdk() { # fake_sdk FOLDER: Android's classes as an SDK has them
    local platform=$1/platforms/android-${project[compileSdk]}
    mkdir -p "$platform"
    ln -sf "$framework" "$platform/android.jar"
    {
        echo "AndroidVersion.ApiLevel=${project[compileSdk]}"
        echo "Platform.Version=${framework##*/android-all-}"
        echo Pkg.Revision=1
    } >"$platform/source.properties"
}

java_classes() { # java_classes OUTPUT: Java's own, which android-all lacks; without them lint takes calls for unknown
    local jdk
    jdk=$(readlink -f "$(command -v javac)")
    jdk=${jdk%/bin/javac}
    rm -rf "${1%.jar}"
    "$jdk/bin/jimage" extract --dir "${1%.jar}" --include 'regex:/java.base/java/.*' "$jdk/lib/modules"
    pack "$1" "${1%.jar}/java.base"
}

describe_project() { # lint's project.xml
    echo '<project>'
    local each classpath=$work/lint/java.jar:$android_libraries:$(joined "${library_jars[@]}")
    # Of the libraries what touches Android. The rest is plain Kotlin, of which lint knows nothing.
    for each in "${modules[@]}"; do module "$each" true "$here/$each/src/main/kotlin" '*/android/*.kt' "$classpath"; done
    module app false "$app/kotlin" '*.kt' "$classpath:$work/names.jar" "$app/res"
    echo '</project>'
}

module() { # module NAME IS_LIBRARY SOURCES PATTERN CLASSPATH [RESOURCES]
    echo "<module name=\"$1\" android=\"true\" library=\"$2\" compile-sdk-version=\"${project[compileSdk]}\">"
    # The merged one: versions and the package's name are in no other.
    echo "<manifest file=\"$work/$1.xml\" /><merged-manifest file=\"$work/$1.xml\" />"
    # File by file: of a folder lint reads no Kotlin.
    find "$3" -path "$4" | sort | sed 's|.*|<src file="&" />|'
    tr ':' '\n' <<<"$5" | sed 's|.*|<classpath jar="&" />|'
    [ -z "${6:-}" ] || echo "<resource file=\"$6\" />"
    echo '</module>'
}
