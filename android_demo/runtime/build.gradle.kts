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
    namespace = setting("runtime.namespace")
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
    api(libs.bundles.runtime.api)

    testImplementation(libs.junit)
}

publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = setting("runtime.artifact")
            pom {
                name = setting("runtime.name")
                description = setting("runtime.description")
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
