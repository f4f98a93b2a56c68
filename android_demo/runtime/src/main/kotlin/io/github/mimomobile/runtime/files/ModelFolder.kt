package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelManifest
import io.github.mimomobile.runtime.Verification
import java.io.File
import java.io.IOException
import java.security.MessageDigest

/** A folder that `mimo quantize` wrote, and one model in it. */
internal class ModelFolder private constructor(override val path: File, val manifest: ModelManifest) : ModelSource {
    override val format: String get() = manifest.format

    /** The folder or the file of the model. */
    val model: File get() = resolve(manifest.path)

    /**
     * Checks every file of the model, and tells how many bytes of how many were checked.
     *
     * @throws MimoException.ModelLoad One is missing or differs.
     */
    fun verify(how: Verification, progress: (doneBytes: Long, totalBytes: Long) -> Unit) {
        val total = manifest.sizeBytes
        for (expected in manifest.files) {
            val file = resolve(expected.path)
            if (!file.isFile) fail("${expected.path} is missing; copy the whole folder again")
            if (file.length() != expected.sizeBytes) {
                fail("${expected.path} has ${file.length()} bytes, ${expected.sizeBytes} expected; copy it again")
            }
        }
        var done = 0L
        if (how == Verification.SHA256) {
            for (expected in manifest.files) {
                val found = sha256(resolve(expected.path)) { progress(done + it, total) }
                if (found != expected.sha256) {
                    fail("${expected.path} is damaged: SHA-256 $found, ${expected.sha256} expected; copy it again")
                }
                done += expected.sizeBytes
            }
        }
        progress(total, total)
    }

    /** Links may lead out of the folder, too. */
    private fun resolve(path: String): File {
        val file = File(this.path, path)
        if (!file.canonicalFile.startsWith(this.path.canonicalFile)) fail("$path leads out of the folder")
        return file
    }

    private fun fail(problem: String): Nothing =
        throw MimoException.ModelLoad("${File(path, ModelManifest.NAME)}: $problem")

    companion object {
        /**
         * The model of [recipe] in the folder [root], or the first of [formats].
         *
         * @throws MimoException.ModelLoad There is none, or the manifest is missing or damaged.
         */
        fun read(root: File, recipe: String?, formats: Set<String>): ModelFolder {
            val file = File(root, ModelManifest.NAME)
            val text = try {
                untrustedText(file)
            } catch (error: IOException) {
                throw MimoException.ModelLoad(
                    "$file: cannot be read (${error.message}); give what `mimo quantize` wrote", error,
                )
            }
            try {
                return ModelFolder(root, ModelManifest.parse(text, recipe, formats))
            } catch (error: MimoException.ModelLoad) {
                throw MimoException.ModelLoad("$root: ${error.message}", error)
            }
        }
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
    return hexadecimal(digest.digest())
}

/** Two digits for each byte. */
internal fun hexadecimal(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(it) }
