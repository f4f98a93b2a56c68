import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.library)
    `maven-publish`
}

/** What gradle.properties says, to Gradle and to build.sh. */
fun setting(name: String): String = providers.gradleProperty("mimo.$name").get()

group = setting("library.group")
version = setting("library.version")

android {
    namespace = setting("library.namespace")
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

    testOptions {
        unitTests.all {
            it.environment("ORT_DISABLE_TELEMETRY", "1")
            it.systemProperty("mimo.golden", rootDir.resolve("../tests/golden").path)
            it.systemProperty("mimo.npu", providers.gradleProperty("mimo.npu").getOrElse(rootDir.resolve("../build/android/npu").path))
            it.systemProperty("mimo.hot", providers.gradleProperty("mimo.hot").getOrElse(rootDir.resolve("../build/android/hot").path))
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

dependencies {
    api(libs.bundles.runtime.api)
    implementation(libs.bundles.runtime.implementation)

    testImplementation(libs.junit)
    // The same classes with native libraries for the computer that runs the tests.
    testImplementation(libs.onnxruntime.jvm)
}

publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = setting("library.artifact")
            pom {
                name = setting("library.name")
                description = setting("library.description")
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
