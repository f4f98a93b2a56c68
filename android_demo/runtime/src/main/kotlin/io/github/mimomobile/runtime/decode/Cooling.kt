package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.Heat
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.withTimeoutOrNull
import kotlin.time.Duration.Companion.nanoseconds

/**
 * Rests between tokens while the device is hot, for a share of the time: slower on purpose, so that Android neither
 * slows everything down nor ends the app.
 *
 * @param heat Asked at most once a second.
 * @param changed Told when the answer is another one.
 * @param clock Nanoseconds.
 */
internal class Cooling(
    private val heat: () -> Heat,
    private val changed: (Heat) -> Unit = {},
    private val clock: () -> Long = System::nanoTime,
) {
    private val woken = Channel<Unit>(Channel.CONFLATED)
    private var asked: Long? = null
    private var known = Heat.NONE

    /** A generation begins, in which nothing has woken anyone yet. */
    fun begin() {
        woken.tryReceive()
        asked = null
        known = Heat.NONE
    }

    /** Rests as [due] says, until [wake] or cancellation; returns the seconds of it. */
    suspend fun rest(workedNs: Long): Double {
        val wanted = due(workedNs)
        if (wanted == 0L) return 0.0
        val started = clock()
        withTimeoutOrNull(wanted.nanoseconds) { woken.receive() }
        return (clock() - started) / 1e9
    }

    /** Ends a rest at once, the next one too; called from any thread. */
    fun wake() {
        woken.trySend(Unit)
    }

    /** Nanoseconds of rest that belong to so many of work. */
    fun due(workedNs: Long): Long {
        val now = clock()
        if (asked.let { it == null || now - it >= INTERVAL_NS }) {
            asked = now
            val found = heat()
            if (found != known) changed(found)
            known = found
        }
        val share = SHARES.getValue(known)
        return minOf(MOST_NS, (workedNs * share / (1 - share)).toLong())
    }

    private companion object {
        /** Of the time, so much is rest. */
        val SHARES = mapOf(
            Heat.NONE to 0.0,
            Heat.LIGHT to 0.0,
            Heat.MODERATE to 0.25,
            Heat.SEVERE to 0.5,
            Heat.CRITICAL to 0.75,
        )

        const val INTERVAL_NS = 1_000_000_000L

        /** After a long prompt, too, the next token is not kept back for longer. */
        const val MOST_NS = 3_000_000_000L
    }
}
