import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.application)
}

/** What gradle.properties says, to Gradle and to build.sh. */
fun setting(name: String): String = providers.gradleProperty("mimo.$name").get()

android {
    namespace = setting("app.id")
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        applicationId = setting("app.id")
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = setting("app.versionCode").toInt()
        versionName = setting("app.versionName")
        testInstrumentationRunner = "io.github.mimomobile.demo.test.MimoInstrumentation"
        ndk {
            abiFilters += setting("abis").split(",")
        }
    }

    buildTypes {
        release {
            isMinifyEnabled = true
            // So that it can be installed. What is published wants a key of its own.
            signingConfig = signingConfigs.getByName("debug")
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"), "proguard-rules.pro")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    packaging {
        jniLibs {
            useLegacyPackaging = false
        }
    }

    sourceSets {
        named("androidTest") { assets.srcDir(rootDir.resolve("../tests/golden")) }
        // The checks for devices run under Robolectric, too.
        named("test") { kotlin.srcDir("src/androidTest/kotlin") }
    }

    lint {
        warningsAsErrors = true
        lintConfig = rootDir.resolve("lint.xml")
    }

    testOptions {
        unitTests.isIncludeAndroidResources = true
        unitTests.all {
            it.environment("ORT_DISABLE_TELEMETRY", "1")
            it.jvmArgs("--add-opens=java.base/java.io=ALL-UNNAMED")
            it.systemProperty("mimo.llama", providers.gradleProperty("mimo.llama").getOrElse(""))
            it.systemProperty("mimo.golden", rootDir.resolve("../tests/golden").path)
            it.systemProperty("mimo.model", rootDir.resolve(providers.gradleProperty("mimo.model").getOrElse("../out/mimo-nano")).path)
        }
    }
}

kotlin {
    compilerOptions {
        jvmTarget = JvmTarget.JVM_17
    }
}

/** The model for ONNX Runtime that `make quantize` wrote, without what NPUs were given, into the app's assets. */
abstract class BundleModel : DefaultTask() {
    // Not InputDirectory, with which Gradle's own message would come before ours.
    @get:InputFiles
    @get:PathSensitive(PathSensitivity.RELATIVE)
    abstract val model: DirectoryProperty

    @get:OutputDirectory
    abstract val assets: DirectoryProperty

    @TaskAction
    fun bundle() {
        val source = model.get().asFile
        val manifest = source.resolve("manifest.json")
        if (!manifest.isFile) throw GradleException("$source: no manifest.json; run `make quantize` first")
        @Suppress("UNCHECKED_CAST")
        val data = JsonSlurper().parse(manifest) as Map<String, Any>
        val entry = entries(data, "entries").firstOrNull { it["format"] == "onnx" }
            ?: throw GradleException("$source: no model for ONNX Runtime; run `mimo quantize --recipe int4_b32`")
        val parts = entries(entry, "parts").filter { File(it["path"] as String).parent == entry["path"] }
        val target = assets.get().asFile.resolve("models/${data["model"]}")
        target.deleteRecursively()
        for (part in parts) source.resolve(part["path"] as String).copyTo(target.resolve(part["path"] as String))
        val bundled = entry + mapOf("parts" to parts, "size_bytes" to parts.sumOf { (it["size_bytes"] as Number).toLong() })
        target.resolve("manifest.json").writeText(JsonOutput.toJson(data + ("entries" to listOf(bundled))))
    }

    @Suppress("UNCHECKED_CAST")
    private fun entries(data: Map<String, Any>, name: String) = data[name] as List<Map<String, Any>>
}

val bundleModel = tasks.register<BundleModel>("bundleModel") {
    model = rootDir.resolve(providers.gradleProperty("mimo.model").getOrElse("../out/mimo-nano"))
}

androidComponents {
    onVariants { variant ->
        variant.sources.assets?.addGeneratedSourceDirectory(bundleModel, BundleModel::assets)
    }
}

dependencies {
    implementation(project(":onnx"))
    implementation(project(":llama"))
    implementation(libs.kotlinx.coroutines.android)

    testImplementation(libs.junit)
    testImplementation(libs.robolectric)
    // The same classes with native libraries for the computer that runs the tests.
    testImplementation(libs.onnxruntime.jvm)
    testImplementation(libs.jna)
}
