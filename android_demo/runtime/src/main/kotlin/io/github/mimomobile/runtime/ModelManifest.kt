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
 * A model in a folder that `mimo quantize` wrote, as its manifest.json has it: for apps that bring models
 * to the phone by themselves. [MimoEngine.load] needs the manifest and the [files], nothing else of the folder.
 *
 * @property text The manifest as it stands.
 * @property model Name of the checkpoint.
 * @property recipe How it was quantized.
 * @property format `onnx` or `gguf`.
 * @property path Of the folder with the graphs or of the GGUF file, relative to the manifest.
 * @property files All files of the model.
 */
public class ModelManifest private constructor(
    public val text: String,
    public val model: String,
    public val recipe: String,
    public val format: String,
    public val path: String,
    public val files: List<ModelFile>,
) {
    /** Of all files. */
    public val sizeBytes: Long get() = files.sumOf { it.sizeBytes }

    public companion object {
        /** Of the file. */
        public const val NAME: String = "manifest.json"
        private const val GGUF = "gguf"
        private val FORMAT = FileFormat("manifest", 2)
        private val SHA256 = Regex("[0-9a-f]{64}")

        /**
         * The model of [recipe] in a manifest, or the first that this app can load.
         *
         * @throws MimoException.ModelLoad There is none, or this is no manifest.
         */
        public fun parse(text: String, recipe: String? = null): ModelManifest =
            parse(text, recipe, Formats.ofThisApp.names)

        /** The same in an app that can load [formats]. */
        internal fun parse(text: String, recipe: String?, formats: Set<String>): ModelManifest =
            FORMAT.read(text.byteInputStream(), NAME, "run `mimo quantize` again") { found ->
                val model = found.text("model")
                val entry = choose(found.objects("entries"), recipe, formats)
                val files = entry.objects("parts").map {
                    ModelFile(it.path("path"), it.long("size_bytes"), it.sha256("sha256"))
                }
                val path = entry.path("path")
                checkPlaces(path, entry.text("format"), files.map { it.path })
                ModelManifest(text, model, entry.text("recipe"), entry.text("format"), path, files)
            }

        private fun choose(entries: List<Map<*, *>>, recipe: String?, formats: Set<String>): Map<*, *> {
            val all = entries.map { Triple(it.text("recipe"), it.text("format"), it) }
            val asked = all.filter { (name) -> recipe == null || name == recipe }
            asked.firstOrNull { (_, format) -> format in formats }?.let { return it.third }
            val names = all.joinToString { (name) -> name }.ifEmpty { "none" }
            val wish = if (recipe == null) "a model" else "recipe $recipe"
            throw MimoException.ModelLoad(
                if (asked.isEmpty()) {
                    "$NAME: $wish asked for, $names found; make one with `mimo quantize --recipe ${recipe ?: "int4_b32"}`"
                } else {
                    "$NAME: $wish asked for, $names found; ${Formats.lacking(asked.map { (_, format) -> format })}"
                },
            )
        }

        /** Every file lies in the model's folder or is a GGUF file and its MTP layer, and none of them is in another one. */
        private fun checkPlaces(path: String, format: String, files: List<String>) {
            val alone = if (format == GGUF) setOf(path, path.removeSuffix(".gguf") + "-mtp.gguf") else emptySet()
            for (file in files) {
                if (if (format == GGUF) file !in alone else !file.startsWith("$path/")) {
                    throw JsonException("parts: $file is no file of $path")
                }
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
