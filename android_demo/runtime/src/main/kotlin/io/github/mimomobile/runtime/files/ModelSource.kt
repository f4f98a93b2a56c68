package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import java.io.File
import java.io.IOException

/** What can be loaded: a model in a folder with a manifest, or one in a file. */
internal sealed interface ModelSource {
    /** The folder or the file. */
    val path: File

    /** As manifests name it. */
    val format: String
}

/** A model in one file, of which no manifest tells anything. */
internal class LoneFile private constructor(override val path: File, override val format: String) : ModelSource {
    companion object {
        private val MAGICS = mapOf("GGUF" to "gguf")
        private const val MAGIC_BYTES = 4

        /**
         * The file at [path], by what it begins with: one that an app was given by its descriptor has no name.
         *
         * @throws MimoException.ModelLoad It is no model.
         */
        fun read(path: File): LoneFile {
            val magic = try {
                val start = ByteArray(MAGIC_BYTES)
                untrustedInput(path, Long.MAX_VALUE).use { start.decodeToString(0, maxOf(0, it.read(start))) }
            } catch (error: IOException) {
                throw MimoException.ModelLoad("$path: cannot be read (${error.message})", error)
            }
            val format = MAGICS[magic] ?: throw MimoException.ModelLoad(
                "$path: no GGUF file; give one, or the folder that `mimo quantize` wrote",
            )
            return LoneFile(path, format)
        }
    }
}
