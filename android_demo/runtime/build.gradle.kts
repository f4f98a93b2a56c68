import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.library)
    `maven-publish`
}

group = "io.github.mimomobile"
version = "0.1.0"

android {
    namespace = "io.github.mimomobile.runtime"
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
    api(libs.kotlinx.coroutines.core)
    implementation(libs.onnxruntime.android)

    testImplementation(libs.junit)
    // The same classes with native libraries for the computer that runs the tests.
    testImplementation(libs.onnxruntime.jvm)
}

publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = "mimo-mobile-runtime"
            pom {
                name = "MiMo Mobile runtime"
                description = "Runs Xiaomi's MiMo-7B in int4 on Android phones, on ONNX Runtime"
                licenses {
                    license {
                        name = "Apache-2.0"
                        url = "https://www.apache.org/licenses/LICENSE-2.0.txt"
                    }
                }
            }
            afterEvaluate { from(components["release"]) }
        }
    }
}
