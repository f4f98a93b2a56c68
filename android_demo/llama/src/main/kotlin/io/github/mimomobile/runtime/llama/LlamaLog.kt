package io.github.mimomobile.runtime.llama

import com.sun.jna.Pointer
import io.github.mimomobile.runtime.llama.LlamaEnums.GGML_LOG_LEVEL_ERROR
import io.github.mimomobile.runtime.llama.LlamaEnums.GGML_LOG_LEVEL_INFO
import io.github.mimomobile.runtime.llama.LlamaEnums.GGML_LOG_LEVEL_WARN

/**
 * llama.cpp's last warnings and errors, kept for errors instead of printed. It has no log of its own for each model, so
 * this is the process's one; who loads a model has it alone meanwhile.
 */
internal class LlamaLog {
    private val lines = ArrayDeque<Pair<Int, String>>()

    /** What llama.cpp is given. It must not be collected while llama.cpp is loaded, which is as long as the process is. */
    val listener: LogListener = LogListener { level, text, _ ->
        if (text == null) return@LogListener
        if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) add(level, text)
        // There is no function that tells it.
        if (level == GGML_LOG_LEVEL_INFO) OFFLOADED.find(text.getString(0, "UTF-8"))?.let { offloaded = it.groupValues[1].toInt() }
    }

    /** So many layers of the model that was loaded last were put on devices, by llama.cpp's own account. */
    @Volatile
    var offloaded: Int = 0

    /** Does something with a log that tells of nothing else: only one thread at a time. */
    fun <T> listening(work: () -> T): T = synchronized(this) {
        synchronized(lines) { lines.clear() }
        work()
    }

    /** The last two errors, or the last warning when there was no error. */
    fun text(): String = synchronized(lines) {
        val errors = lines.filter { it.first == GGML_LOG_LEVEL_ERROR }.takeLast(2)
        errors.ifEmpty { lines.takeLast(1) }.joinToString("; ") { it.second }.ifEmpty { "no reason given" }.take(LONG)
    }

    private fun add(level: Int, text: Pointer) {
        val line = text.getString(0, "UTF-8").trim().map { if (it.isISOControl()) ' ' else it }.joinToString("")
        // What it says after every error tells nothing.
        if (line.isEmpty() || line.endsWith("failed to load model")) return
        synchronized(lines) {
            if (lines.size == MOST_LINES) lines.removeFirst()
            lines += level to line.take(LONG)
        }
    }

    private companion object {
        const val MOST_LINES = 5
        val OFFLOADED = Regex("offloaded (\\d{1,6})/\\d{1,6} layers to GPU")

        /** Characters. */
        const val LONG = 400
    }
}
