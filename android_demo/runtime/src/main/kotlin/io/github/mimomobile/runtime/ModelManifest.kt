package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.JsonReader
import io.github.mimomobile.runtime.files.list
import io.github.mimomobile.runtime.files.long
import io.github.mimomobile.runtime.files.text
import java.io.IOException

/** One file of a model; [path] is relative to the manifest, and stays inside its folder. */
public data class ModelFile(val path: String, val sizeBytes: Long, val sha256: String)

/**
 * A model for ONNX Runtime in a folder that `mimo quantize` wrote, as its manifest.json has it: for apps that bring models
 * to the phone by themselves. [MimoEngine.load] needs the manifest and the [files], nothing else of the folder.
 *
 * @property text The manifest as it stands.
 * @property model Name of the checkpoint.
 * @property recipe How it was quantized.
 * @property path Of the folder with the graphs, relative to the manifest.
 * @property files All files of the model.
 */
public class ModelManifest private constructor(
    public val text: String,
    public val model: String,
    public val recipe: String,
    public val path: String,
    public val files: List<ModelFile>,
) {
    /** Of all files. */
    public val sizeBytes: Long get() = files.sumOf { it.sizeBytes }

    public companion object {
        /** Of the file. */
        public const val NAME: String = "manifest.json"
        private const val VERSION = 1L

        /**
         * The model of [recipe] in a manifest, or the first for ONNX Runtime.
         *
         * @throws MimoException.ModelLoad There is none, or this is no manifest.
         */
        public fun parse(text: String, recipe: String? = null): ModelManifest = try {
            val data = JsonReader(text.byteInputStream()).readValue() as Map<*, *>
            if (data.long("manifest_version") != VERSION) throw JsonException("another manifest_version")
            val model = data.text("model")
            val entries = data.list("entries").filter { it["format"] == "onnx" }
            val entry = entries.firstOrNull { recipe == null || it.text("recipe") == recipe } ?: run {
                val found = entries.joinToString { it.text("recipe") }.ifEmpty { "none" }
                throw MimoException.ModelLoad(
                    "$NAME: recipe ${recipe ?: "for ONNX Runtime"} asked for, $found found;" +
                        " make one with `mimo quantize --recipe ${recipe ?: "int4_b32"}`",
                )
            }
            val files = entry.list("parts").map { file(it) }
            ModelManifest(text, model, entry.text("recipe"), inside(entry.text("path")), files)
        } catch (error: JsonException) {
            throw MimoException.ModelLoad("$NAME: no manifest of version $VERSION (${error.message})", error)
        } catch (error: ClassCastException) {
            throw MimoException.ModelLoad("$NAME: no manifest of version $VERSION", error)
        } catch (error: IOException) {
            throw MimoException.ModelLoad("$NAME: no manifest of version $VERSION", error)
        }

        private fun file(data: Map<*, *>) =
            ModelFile(inside(data.text("path")), data.long("size_bytes"), data.text("sha256"))

        private fun inside(path: String): String {
            if (path.startsWith("/") || ".." in path.split('/')) {
                throw MimoException.ModelLoad("$NAME: $path leads out of the folder")
            }
            return path
        }
    }
}
