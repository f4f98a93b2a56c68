package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.Speculation
import java.util.Locale

/**
 * What runs take on this device, in seconds.
 *
 * @property rowsS A run of 1, 2, … rows: a token and its drafts.
 * @property draftS A draft of the MTP layer; 0 without one.
 */
internal data class Costs(val rowsS: List<Double>, val draftS: Double) {
    override fun toString(): String {
        val rows = rowsS.joinToString { "%.1f".format(Locale.ROOT, 1e3 * it) }
        val draft = if (draftS > 0) ", %.1f ms for the MTP layer's draft".format(Locale.ROOT, 1e3 * draftS) else ""
        return "runs of 1 to ${rowsS.size} tokens take $rows ms$draft"
    }

    companion object {
        /** The costs of a backend, as far as who drafts asks for them; null where nothing drafts. Its KV cache is lost by it. */
        fun measure(backend: Backend, speculation: Speculation): Costs? = when (speculation) {
            Speculation.OFF -> null
            Speculation.MTP -> backend.mtp?.let { measure(backend, 2) }
            else -> measure(backend, minOf(Pace.MOST_ROWS, backend.contextLength))
        }

        /** The costs of a backend in runs of at most [most] rows; its KV cache is lost by it. */
        fun measure(backend: Backend, most: Int): Costs {
            fun step(rows: Int) = backend.decode(IntArray(rows), 0, rows)
            step(minOf(2, most)) // warms up
            // Somebody waits for this at each load, so that rows between these are reckoned.
            val measured = listOf(1, 2, 4, 8).filter { it <= most }.associateWith { medianSeconds { step(it) } }
            val draftS = backend.mtp?.let { head ->
                medianSeconds(before = { step(1) }) { head.draft(1, 0) }.also { head.resume(0) }
            }
            return Costs((1..measured.keys.max()).map { between(measured, it) }, draftS ?: 0.0)
        }

        private fun between(measured: Map<Int, Double>, rows: Int): Double {
            val (below, least) = measured.entries.last { it.key <= rows }
            val (above, most) = measured.entries.first { it.key >= rows }
            return if (above == below) least else least + (most - least) * (rows - below) / (above - below)
        }
    }
}

/** What [run] takes: the median of several times. */
internal fun medianSeconds(before: () -> Unit = {}, run: () -> Unit): Double {
    val times = mutableListOf<Double>()
    while (times.size < REPEATS || times.sum() < REPEATS_S) {
        before()
        val started = System.nanoTime()
        run()
        times += (System.nanoTime() - started) / 1e9
    }
    return times.sorted()[times.size / 2]
}

private const val REPEATS = 3
private const val REPEATS_S = 0.02
