package io.github.mimomobile.runtime.decode

import kotlinx.coroutines.Job

/**
 * One generation that is under way: who ends it when it is over leaves the next one alone.
 *
 * @property job What it runs in.
 */
internal class Turn(private val decoder: Decoder, val job: Job) {
    private var over = false

    init {
        decoder.renew()
    }

    /** Ends the generation within a token; called from any thread. */
    @Synchronized
    fun cancel() {
        if (!over) decoder.cancel()
    }

    /** The generation is over; the next one may begin. */
    @Synchronized
    fun end() {
        over = true
    }
}
