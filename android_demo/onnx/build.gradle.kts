import org.jetbrains.kotlin.gradle.dsl.JvmTarget
import org.jetbrains.kotlin.gradle.tasks.KotlinCompile

plugins {
    alias(libs.plugins.android.library)
    `maven-publish`
}

/** What gradle.properties says, to Gradle and to build.sh. */
fun setting(name: String): String = providers.gradleProperty("mimo.$name").get()

group = setting("library.group")
version = setting("library.version")

android {
    namespace = setting("onnx.namespace")
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        minSdk = libs.versions.minSdk.get().toInt()
        consumerProguardFiles("consumer-rules.pro")
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    publishing {
        singleVariant("release") {
            withSourcesJar()
        }
    }

    lint {
        warningsAsErrors = true
        lintConfig = rootDir.resolve("lint.xml")
    }

    sourceSets {
        // What the tests of several modules use.
        named("test") { kotlin.srcDir(rootDir.resolve("runtime/src/testShared/kotlin")) }
    }

    testOptions {
        unitTests.all {
            it.environment("ORT_DISABLE_TELEMETRY", "1")
            it.systemProperty("mimo.golden", rootDir.resolve("../tests/golden").path)
            it.systemProperty("mimo.npu", providers.gradleProperty("mimo.npu").getOrElse(rootDir.resolve("../build/android/npu").path))
            it.systemProperty("mimo.hot", providers.gradleProperty("mimo.hot").getOrElse(rootDir.resolve("../build/android/hot").path))
            it.systemProperty("mimo.conversations", rootDir.resolve("../build/android/conversations").path)
            it.systemProperty("mimo.model", providers.gradleProperty("mimo.model").getOrElse(rootDir.resolve("../out/mimo-nano").path))
        }
    }
}

kotlin {
    explicitApi()
    compilerOptions {
        jvmTarget = JvmTarget.JVM_17
    }
}

// What is internal in :runtime is so for all modules of the library.
val runtimeFolder = rootDir.resolve("runtime")
tasks.withType<KotlinCompile>().configureEach {
    friendPaths.from(libraries.filter { it.startsWith(runtimeFolder) })
}

dependencies {
    api(project(":runtime"))
    implementation(libs.bundles.onnx.implementation)

    testImplementation(libs.junit)
    // The same classes with native libraries for the computer that runs the tests.
    testImplementation(libs.onnxruntime.jvm)
}

publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = setting("onnx.artifact")
            pom {
                name = setting("onnx.name")
                description = setting("onnx.description")
                licenses {
                    license {
                        name = setting("library.license")
                        url = setting("library.licenseUrl")
                    }
                }
            }
            afterEvaluate { from(components["release"]) }
        }
    }
}
