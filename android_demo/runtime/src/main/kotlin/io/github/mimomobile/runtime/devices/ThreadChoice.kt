package io.github.mimomobile.runtime.devices

import java.io.File
import java.io.IOException
import java.util.Locale

/**
 * What one layer of a model takes with some number of threads, in seconds.
 *
 * @property decodeS One token.
 * @property prefillS A chunk of a prompt.
 */
internal data class LayerTimes(val decodeS: Double, val prefillS: Double) {
    /** Of what people do: a prompt of four chunks and an answer of a thousand tokens. */
    val typicalS: Double get() = 4 * prefillS + 1000 * decodeS
}

/**
 * Which number of threads computes a model fastest on this device, measured once and kept.
 *
 * @param folder Where it is kept.
 * @param key What it depends on: device, model, heat.
 * @param measure Times with so many threads.
 */
internal class ThreadChoice(
    private val folder: File,
    private val key: String,
    private val measure: (threads: Int) -> LayerTimes,
) {
    private val file = File(folder, "threads-$key.txt")

    /** The number of threads among [candidates]; those that are hardly slower and fewer are taken for the fastest. */
    fun choose(candidates: List<Int>, tell: (String) -> Unit = {}): Int {
        kept()?.takeIf { it in candidates }?.let { return it }
        val times = candidates.associateWith(measure)
        val best = times.values.minOf { it.typicalS }
        val chosen = candidates.sorted().first { times.getValue(it).typicalS <= MARGIN * best }
        tell("$chosen threads are the fastest of ${times.entries.joinToString { (count, took) -> told(count, took) }}.")
        keep(chosen)
        return chosen
    }

    private fun told(threads: Int, took: LayerTimes) = "%d (%.2f ms a token, %.1f ms a chunk of a prompt)"
        .format(Locale.ROOT, threads, 1e3 * took.decodeS, 1e3 * took.prefillS)

    private fun kept(): Int? = try {
        file.takeIf { it.isFile && it.length() < MOST_BYTES }?.readText()?.trim()?.toIntOrNull()
    } catch (_: IOException) {
        null
    }

    private fun keep(threads: Int) {
        try {
            folder.mkdirs()
            file.writeText("$threads\n")
        } catch (_: IOException) { // it will be measured once more
        }
    }

    companion object {
        private const val MARGIN = 1.03
        private const val MOST_BYTES = 100

        /** What is tried on a device with [count] cores, of which [fast] are fast. */
        fun candidates(count: Int, fast: Int): List<Int> =
            listOf(1, 2, 4, 6, 8, fast).filter { it <= count }.distinct().sorted()
    }
}
