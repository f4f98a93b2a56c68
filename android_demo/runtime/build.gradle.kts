import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.library)
    `maven-publish`
}

group = "io.github.mimomobile"
version = "0.1.0"

android {
    namespace = "io.github.mimomobile.runtime"
    compileSdk = 36

    defaultConfig {
        minSdk = 26
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
            afterEvaluate { from(components["release"]) }
        }
    }
}
