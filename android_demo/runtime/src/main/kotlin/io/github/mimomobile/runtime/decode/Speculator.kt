package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.Speculation
import java.util.Locale
import kotlin.math.max

/**
 * What runs take on this device, in seconds.
 *
 * @property stepS One token.
 * @property verifyS A token and a draft.
 * @property draftS Making the draft.
 */
internal data class Costs(val stepS: Double, val verifyS: Double, val draftS: Double) {
    override fun toString(): String = "%.1f ms a token, %.1f ms with a draft, %.1f ms for the draft"
        .format(Locale.ROOT, 1e3 * stepS, 1e3 * verifyS, 1e3 * draftS)

    companion object {
        /** The costs of a backend with an MTP layer, whose KV cache is lost by it. */
        fun measure(backend: Backend, head: MtpHead): Costs {
            fun step(rows: Int) = backend.decode(IntArray(rows), 0, rows)
            step(2) // warms up
            return Costs(
                stepS = medianSeconds { step(1) },
                verifyS = medianSeconds { step(2) },
                draftS = medianSeconds(before = { step(1) }) { head.draft(1, 0) },
            ).also { head.resume(0) }
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

/**
 * Decides whether the MTP layer drafts the next token: by what runs cost now and by how many drafts were right lately.
 *
 * Whether a draft is right the trunk decides: nothing here can change a token.
 *
 * @param clock Nanoseconds.
 */
internal class Speculator(
    private val mode: Speculation,
    private val head: MtpHead,
    private val costs: Costs,
    private val clock: () -> Long = System::nanoTime,
) {
    private val rate = Rate()
    private val pace = Pace(listOf(costs.stepS, costs.verifyS))
    private var draftS = costs.draftS
    private var couldPay = couldPay()
    private var shadowTokens = SHADOW_TOKENS
    private var drafting = false
    private var silentTokens = 0
    private var shadow = Generation.END

    /** A generation begins. */
    fun begin() {
        shadow = Generation.END
    }

    /** The text went on by [token]. */
    fun follow(token: Int) {
        if (shadow != Generation.END) rate.learn(shadow == token, SHADOW_WEIGHT)
        shadow = Generation.END
        silentTokens++
    }

    /** A run of one token, or of it and a draft that was [right] or not, took so long. */
    fun learn(drafted: Boolean, right: Boolean, seconds: Double) {
        if (pace.learn(if (drafted) 2 else 1, seconds)) {
            if (!drafting) draftS += Pace.LEARNT * (costs.draftS - draftS) // what held drafts up is over by and by
            couldPay = couldPay()
        }
        if (drafted) rate.learn(right, 1.0)
    }

    /**
     * A draft to verify together with [token], the last one, at [position]; [Generation.END] when it would not pay.
     *
     * @throws NotFinite The MTP layer gave NaN or infinity.
     */
    fun propose(generation: Generation, position: Int, token: Int): Int {
        drafting = couldPay && (mode == Speculation.MTP || speedup(rate.value) > if (drafting) 1.0 else MARGIN)
        if (!couldPay || !drafting && silentTokens < shadowTokens) return Generation.END
        val started = clock()
        val draft = head.draftIds[generation.guess(head.draft(position, token), head.draftIds)]
        val seconds = (clock() - started) / 1e9
        silentTokens = 0
        if (drafting) {
            draftS += Pace.LEARNT * (minOf(seconds, Pace.MOST_CHANGE * costs.draftS) - draftS)
            return draft
        }
        // Now and then it is seen whether it would be right again: with all rows that waited, of weights that are no
        // longer at hand.
        shadow = draft
        shadowTokens = max(SHADOW_TOKENS, seconds / pace.seconds(1) / SHADOW_SHARE)
        return Generation.END
    }

    /** Whether drafts were faster than going without if every one were right. */
    private fun couldPay(): Boolean = mode == Speculation.MTP || speedup(1.0) > MARGIN

    /** By how much drafting is faster when this share of drafts is right. */
    private fun speedup(right: Double): Double = (1 + right) / (pace.seconds(2) + draftS) * pace.seconds(1)

    private companion object {
        /** By so much drafting must look faster than going without to be begun; to be ended it must look slower. */
        const val MARGIN = 1.05

        /** While it does not pay, one draft in so many tokens is made; less often where it costs much of a step. */
        const val SHADOW_TOKENS = 20.0
        const val SHADOW_SHARE = 0.01

        /** What is seen that rarely counts for more. */
        const val SHADOW_WEIGHT = 2.0
    }
}

/** How often drafts were right lately, from 0 to 1; some of the first expectation stays in it. */
internal class Rate {
    private var right = PRIOR * PRIOR_DRAFTS
    private var all = PRIOR_DRAFTS

    val value: Double get() = right / all

    /** Takes in one more draft, which counts as [weight] of them. */
    fun learn(wasRight: Boolean, weight: Double) {
        val kept = 1 - weight / WINDOW_DRAFTS
        right = kept * right + if (wasRight) weight else 0.0
        all = kept * all + weight
    }

    private companion object {
        const val PRIOR = 0.7
        const val PRIOR_DRAFTS = 2.0
        const val WINDOW_DRAFTS = 32
    }
}
