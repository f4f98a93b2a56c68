package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.LoneFile
import io.github.mimomobile.runtime.files.ModelFolder
import io.github.mimomobile.runtime.files.ModelSource
import java.io.File
import java.util.ServiceLoader

/** The formats that an app can load. */
internal class Formats(private val installed: List<ModelFormat>) {
    /** As manifests name them. */
    val names: Set<String> get() = installed.mapTo(LinkedHashSet()) { it.name }

    /**
     * The model at [path], which is a folder with a manifest or a file, and what loads it.
     *
     * @throws MimoException.ModelLoad There is none, or none that this app can load.
     */
    fun find(path: File, recipe: String?): Pair<ModelSource, ModelFormat> {
        val source = if (path.isFile) lone(path, recipe) else ModelFolder.read(path, recipe, names)
        return source to installed.first { it.name == source.format }
    }

    private fun lone(file: File, recipe: String?): LoneFile {
        val found = LoneFile.read(file)
        if (found.format !in names) {
            throw MimoException.ModelLoad("$file: a model in ${found.format.uppercase()}; ${lacking(listOf(found.format))}")
        }
        if (recipe != null) {
            throw MimoException.ModelLoad("$file: recipe $recipe asked for; a file alone has none to choose from, leave it out")
        }
        return found
    }

    companion object {
        private val ARTIFACTS = mapOf("onnx" to "mimo-mobile-onnx", "gguf" to "mimo-mobile-llama")

        /** Those whose modules are in this app. */
        val ofThisApp: Formats by lazy {
            Formats(ServiceLoader.load(ModelFormat::class.java, ModelFormat::class.java.classLoader).toList())
        }

        /** What an app must have to load one of [formats]. */
        fun lacking(formats: List<String>): String {
            val needed = formats.distinct().mapNotNull(ARTIFACTS::get)
            if (needed.isEmpty()) return "this version knows no such format; update the app"
            return "the app lacks " + needed.joinToString(" and ") { "io.github.mimomobile:$it" }
        }
    }
}
