package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Verification
import java.io.File
import java.io.IOException
import java.security.MessageDigest

/** One file of a model; [path] is relative to the manifest. */
internal data class Part(val path: String, val sizeBytes: Long, val sha256: String)

/** A model that ONNX Runtime can load: the folder [path], relative to the manifest. */
internal data class Entry(val recipe: String, val path: String, val parts: List<Part>)

/** What a folder that `mimo quantize` wrote holds for ONNX Runtime. */
internal class Manifest private constructor(
    private val folder: File,
    val model: String,
    private val entries: List<Entry>,
) {
    /**
     * The entry of [recipe], or the first.
     *
     * @throws MimoException.ModelLoad There is none.
     */
    fun entry(recipe: String?): Entry = entries.firstOrNull { recipe == null || it.recipe == recipe } ?: run {
        val found = entries.joinToString { it.recipe }.ifEmpty { "none" }
        fail("recipe ${recipe ?: "for ONNX Runtime"} asked for, $found found")
    }

    /** The folder of an entry. */
    fun folder(entry: Entry): File = resolve(entry.path)

    /**
     * Checks every file of an entry, and tells how many bytes of how many were checked.
     *
     * @throws MimoException.ModelLoad One is missing or differs.
     */
    fun verify(entry: Entry, how: Verification, progress: (doneBytes: Long, totalBytes: Long) -> Unit) {
        val total = entry.parts.sumOf { it.sizeBytes }
        for (part in entry.parts) {
            val file = resolve(part.path)
            if (!file.isFile) fail("${part.path} is missing; copy the whole folder again")
            if (file.length() != part.sizeBytes) {
                fail("${part.path} has ${file.length()} bytes, ${part.sizeBytes} expected; copy it again")
            }
        }
        var done = 0L
        if (how == Verification.SHA256) {
            for (part in entry.parts) {
                val found = sha256(resolve(part.path)) { progress(done + it, total) }
                if (found != part.sha256) {
                    fail("${part.path} is damaged: SHA-256 $found, ${part.sha256} expected; copy it again")
                }
                done += part.sizeBytes
            }
        }
        progress(total, total)
    }

    private fun resolve(path: String): File {
        val file = File(folder, path)
        val root = folder.canonicalFile
        if (File(path).isAbsolute || !file.canonicalFile.startsWith(root)) fail("$path leads out of the folder")
        return file
    }

    private fun fail(problem: String): Nothing = throw MimoException.ModelLoad("${File(folder, NAME)}: $problem")

    companion object {
        const val NAME: String = "manifest.json"
        private const val VERSION = 1L

        /**
         * The manifest in [folder].
         *
         * @throws MimoException.ModelLoad It is missing or damaged.
         */
        fun read(folder: File): Manifest {
            val file = File(folder, NAME)
            try {
                val data = file.inputStream().use { JsonReader(it).readValue() } as Map<*, *>
                if (data.long("manifest_version") != VERSION) throw JsonException("another manifest_version")
                val entries = data.list("entries").filter { it["format"] == "onnx" }.map { entry ->
                    Entry(entry.text("recipe"), entry.text("path"), entry.list("parts").map(::part))
                }
                return Manifest(folder, data.text("model"), entries)
            } catch (error: IOException) {
                throw MimoException.ModelLoad("$file: cannot be read; give what `mimo quantize` wrote", error)
            } catch (error: JsonException) {
                throw MimoException.ModelLoad("$file: no manifest of version $VERSION (${error.message})", error)
            } catch (error: ClassCastException) {
                throw MimoException.ModelLoad("$file: no manifest of version $VERSION", error)
            }
        }

        private fun part(data: Map<*, *>) = Part(data.text("path"), data.long("size_bytes"), data.text("sha256"))
    }
}

/** The SHA-256 of a file, in hexadecimal; [progress] is told how many bytes were read. */
internal fun sha256(file: File, progress: (Long) -> Unit = {}): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val buffer = ByteArray(1 shl 20)
    var done = 0L
    file.inputStream().use { input ->
        while (true) {
            val count = input.read(buffer)
            if (count < 0) break
            digest.update(buffer, 0, count)
            done += count
            progress(done)
        }
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}

/** A value of parsed JSON, which must be a text. */
internal fun Map<*, *>.text(name: String): String = this[name] as? String ?: throw JsonException("$name missing")

/** A value of parsed JSON, which must be a whole number. */
internal fun Map<*, *>.long(name: String): Long =
    (this[name] as? Double ?: throw JsonException("$name missing")).toLong()

private fun Map<*, *>.list(name: String): List<Map<*, *>> =
    (this[name] as? List<*> ?: throw JsonException("$name missing")).map { it as Map<*, *> }
