package io.github.mimomobile.runtime.devices

import io.github.mimomobile.runtime.MimoException
import java.io.File
import java.util.Locale

/** Says beforehand that a model would not fit. */
internal class MemoryCheck(private val model: File, private val availableBytes: () -> Long?) {
    /** What is read from a file's own pages at every token. It is never missing from what is available, yet needed. */
    var mapped: Long = 0
        private set

    /** @throws MimoException.MemoryFull [bytes] more are not available. */
    fun fits(what: String, bytes: Long) {
        val available = availableBytes() ?: return
        if (mapped + bytes > available) {
            val beside = if (mapped > 0) " beside ${size(mapped)} of mapped weights" else ""
            throw MimoException.MemoryFull(
                "$model: ${size(bytes)} of memory needed for $what$beside, ${size(available)} available;" +
                    " take a shorter contextLength or a smaller recipe, or close other apps",
            )
        }
    }

    /** So many bytes are mapped from a file from now on. */
    fun maps(bytes: Long) {
        mapped += bytes
    }

    /** Nothing is mapped any more. */
    fun unmap() {
        mapped = 0
    }

    private fun size(bytes: Long): String =
        if (bytes < 100_000_000) "%.1f MB".format(Locale.ROOT, bytes / 1e6) else "%.2f GB".format(Locale.ROOT, bytes / 1e9)
}
