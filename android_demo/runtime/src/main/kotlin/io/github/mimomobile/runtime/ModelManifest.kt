package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.FileFormat
import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.long
import io.github.mimomobile.runtime.files.objects
import io.github.mimomobile.runtime.files.path
import io.github.mimomobile.runtime.files.text

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
        private val FORMAT = FileFormat("manifest", 2)
        private val SHA256 = Regex("[0-9a-f]{64}")

        /**
         * The model of [recipe] in a manifest, or the first for ONNX Runtime.
         *
         * @throws MimoException.ModelLoad There is none, or this is no manifest.
         */
        public fun parse(text: String, recipe: String? = null): ModelManifest =
            FORMAT.read(text.byteInputStream(), NAME, "run `mimo quantize` again") { found ->
                val model = found.text("model")
                val entries = found.objects("entries").filter { it.text("format") == "onnx" }
                val entry = entries.firstOrNull { recipe == null || it.text("recipe") == recipe } ?: run {
                    val names = entries.joinToString { it.text("recipe") }.ifEmpty { "none" }
                    throw MimoException.ModelLoad(
                        "$NAME: recipe ${recipe ?: "for ONNX Runtime"} asked for, $names found;" +
                            " make one with `mimo quantize --recipe ${recipe ?: "int4_b32"}`",
                    )
                }
                val files = entry.objects("parts").map {
                    ModelFile(it.path("path"), it.long("size_bytes"), it.sha256("sha256"))
                }
                val path = entry.path("path")
                checkPlaces(path, files.map { it.path })
                ModelManifest(text, model, entry.text("recipe"), path, files)
            }

        /** Every file lies in the model's folder, and none of them in another one. */
        private fun checkPlaces(folder: String, files: List<String>) {
            for (file in files) {
                if (!file.startsWith("$folder/")) throw JsonException("parts: $file is no file of $folder")
            }
            val ways = files.map { it.replace('/', '\u0000') }.sorted() // what lies in a path follows it in this order
            for ((first, second) in ways.zipWithNext()) {
                if (second == first || second.startsWith("$first\u0000")) {
                    throw JsonException("parts: ${second.replace('\u0000', '/')} is there twice, or in another file")
                }
            }
        }

        private fun Map<*, *>.sha256(name: String): String = text(name).takeIf(SHA256::matches)
            ?: throw JsonException("$name: 64 hexadecimal digits expected, ${text(name).take(70)} found")
    }
}
