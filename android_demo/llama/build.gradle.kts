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

/** llama.cpp for Android, which build.sh fetches: no Maven repository has it. */
val nativeLibraries = rootDir.resolve(providers.gradleProperty("mimo.native").getOrElse("../build/android/llama/jni"))
tasks.named("preBuild") {
    val needed = nativeLibraries
    doFirst {
        if (!needed.isDirectory) throw GradleException("$needed: not there; run `android_demo/build.sh native build/android` first")
    }
}

android {
    namespace = setting("llama.namespace")
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
        named("main") { jniLibs.srcDir(nativeLibraries) }
        // What the tests of several modules use.
        named("test") { kotlin.srcDir(rootDir.resolve("runtime/src/testShared/kotlin")) }
    }

    testOptions {
        unitTests.all {
            it.systemProperty("mimo.golden", rootDir.resolve("../tests/golden").path)
            // The folder of libllama.so for the computer that runs the tests, and those with llama.cpp's headers: as in build.sh.
            for (name in listOf("mimo.llama", "mimo.llama.headers")) {
                it.systemProperty(name, providers.gradleProperty(name).getOrElse(""))
            }
            it.systemProperty("mimo.gguf", providers.gradleProperty("mimo.gguf").getOrElse(rootDir.resolve("../build/android/gguf").path))
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
    implementation(libs.jna) { artifact { type = "aar" } }

    testImplementation(libs.junit)
    // The same classes with native libraries for the computer that runs the tests.
    testImplementation(libs.jna)
}

publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = setting("llama.artifact")
            pom {
                name = setting("llama.name")
                description = setting("llama.description")
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
