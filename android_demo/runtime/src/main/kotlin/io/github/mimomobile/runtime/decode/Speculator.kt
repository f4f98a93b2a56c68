package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.Speculation
import kotlin.math.max

/** Who drafts. */
internal enum class Drafter { NONE, MTP, NGRAM, FORCED }

/** Tokens to verify together with the last one. */
internal class Draft(val ids: IntArray, val drafter: Drafter) {
    companion object {
        val NONE: Draft = Draft(IntArray(0), Drafter.NONE)
    }
}

/**
 * Decides who drafts the next tokens, and how many: by what runs cost now and by how many drafts were right lately.
 *
 * There are two drafters: the MTP layer, and a look-up of what followed the same tokens before (prompt lookup). Text that
 * a structure forces comes before both. Whether a draft is right the trunk decides: nothing here can change a token.
 *
 * @param head The MTP layer, if there is one.
 * @param clock Nanoseconds.
 */
internal class Speculator(
    private val mode: Speculation,
    head: MtpHead?,
    private val costs: Costs,
    private val clock: () -> Long = System::nanoTime,
) {
    private val head = head?.takeIf { mode != Speculation.NGRAM }
    private val lookup = Lookup()
    private val looksUp = mode != Speculation.MTP
    private val mtp = Success(MTP_PRIOR)
    private val ngram = Success(NGRAM_PRIOR)
    private val forced = Success(FORCED_PRIOR)
    private val pace = Pace(costs.rowsS)
    private var draftS = costs.draftS
    private var couldPay = couldPay()
    private var shadowTokens = SHADOW_TOKENS
    private var drafting = Drafter.NONE
    private var silentTokens = 0
    private var mtpShadow = Generation.END
    private var ngramShadow = Generation.END
    private var forcedShadow = Generation.END

    /** A generation begins that goes on after [ids]. */
    fun begin(ids: IntArray) {
        if (looksUp) lookup.reset(ids)
        forgetShadows()
    }

    /** The text went on by [token]. */
    fun follow(token: Int) {
        if (mtpShadow != Generation.END) mtp.first.learn(mtpShadow == token, SHADOW_WEIGHT)
        if (ngramShadow != Generation.END) ngram.first.learn(ngramShadow == token, 1.0)
        if (forcedShadow != Generation.END) forced.first.learn(forcedShadow == token, 1.0)
        forgetShadows()
        if (looksUp) lookup.append(token)
        silentTokens++
    }

    /** A run of one token and [draft], of which the first [accepted] were right, took so long. */
    fun learn(draft: Draft, accepted: Int, seconds: Double) {
        if (pace.learn(draft.ids.size + 1, seconds)) {
            // What held drafts up is over by and by.
            if (drafting != Drafter.MTP) draftS += Pace.LEARNT * (costs.draftS - draftS)
            couldPay = couldPay()
        }
        if (draft.drafter == Drafter.MTP) mtp.learn(draft.ids.size, accepted)
        if (draft.drafter == Drafter.NGRAM) ngram.learn(draft.ids.size, accepted)
        if (draft.drafter == Drafter.FORCED) forced.learn(draft.ids.size, accepted)
    }

    /**
     * At most [room] tokens to verify together with [token], the last one, at [position]; none when they would not pay.
     *
     * @throws NotFinite The MTP layer gave NaN or infinity.
     */
    fun propose(generation: Generation, position: Int, token: Int, room: Int): Draft {
        val most = room.coerceIn(0, costs.rowsS.size - 1)
        val certain = generation.certain()
        if (most > 0 && certain.isNotEmpty()) return forced(certain.copyOf(minOf(most, certain.size)))
        val found = if (looksUp) lookup.following(most) else IntArray(0)
        val layer = head?.takeIf { couldPay && most > 0 }
        val count = choose(found.size, layer != null)
        if (found.isNotEmpty() && drafting != Drafter.NGRAM) ngramShadow = found[0]
        if (layer != null && (drafting == Drafter.MTP || silentTokens >= shadowTokens)) {
            val started = clock()
            val draft = layer.draftIds[generation.guess(layer.draft(position, token), layer.draftIds)]
            val seconds = (clock() - started) / 1e9
            silentTokens = 0
            if (drafting == Drafter.MTP) {
                draftS += Pace.LEARNT * (minOf(seconds, Pace.MOST_CHANGE * costs.draftS) - draftS)
                return Draft(intArrayOf(draft), Drafter.MTP)
            }
            // Now and then it is seen whether it would be right again: with all rows that waited, of weights that are
            // no longer at hand.
            mtpShadow = draft
            shadowTokens = max(SHADOW_TOKENS, seconds / pace.seconds(1) / SHADOW_SHARE)
        }
        return if (drafting == Drafter.NGRAM) Draft(found.copyOf(count), Drafter.NGRAM) else Draft.NONE
    }

    /** The draft that pays most of tokens whose text is certain, though it is cut anew after each of them. */
    private fun forced(certain: IntArray): Draft {
        drafting = Drafter.NONE
        val count = (0..certain.size).maxBy { speed(forced.expected(it), it, 0.0) }
        if (count > 0) return Draft(certain.copyOf(count), Drafter.FORCED)
        forcedShadow = certain[0]
        return Draft.NONE
    }

    /** Chooses who drafts now, and returns how many tokens: what is expected to give most tokens a second. */
    private fun choose(found: Int, hasLayer: Boolean): Int {
        var best = Drafter.NONE
        var count = 0
        if (mode == Speculation.AUTO) {
            var speed = 1 / pace.seconds(1)
            fun consider(drafter: Drafter, drafts: Int, right: Double, draftS: Double) {
                val expected = speed(right, drafts, draftS) / if (drafter == drafting) 1.0 else MARGIN
                if (expected > speed) {
                    speed = expected
                    best = drafter
                    count = drafts
                }
            }
            for (drafts in 1..found) consider(Drafter.NGRAM, drafts, ngram.expected(drafts), 0.0)
            if (hasLayer) consider(Drafter.MTP, 1, mtp.expected(1), draftS)
        } else if (hasLayer) {
            best = Drafter.MTP
            count = 1
        } else if (found > 0) {
            best = Drafter.NGRAM
            count = found
        }
        drafting = best
        return count
    }

    /** Whether the MTP layer's drafts were faster than going without if every one were right. */
    private fun couldPay(): Boolean =
        mode != Speculation.AUTO || costs.rowsS.size > 1 && speed(1.0, 1, draftS) > MARGIN / pace.seconds(1)

    /** Tokens a second when [right] of [drafts] drafts are right, and each takes [draftS] to make. */
    private fun speed(right: Double, drafts: Int, draftS: Double): Double =
        (1 + right) / (pace.seconds(drafts + 1) + drafts * draftS)

    private fun forgetShadows() {
        mtpShadow = Generation.END
        ngramShadow = Generation.END
        forcedShadow = Generation.END
    }

    private companion object {
        /** What is expected of each drafter at first. */
        const val MTP_PRIOR = 0.7
        const val NGRAM_PRIOR = 0.5
        const val FORCED_PRIOR = 0.95

        /** By so much drafting must look faster than going without to be begun; to be ended it must look slower. */
        const val MARGIN = 1.05

        /** While it does not pay, one draft in so many tokens is made; less often where it costs much of a step. */
        const val SHADOW_TOKENS = 20.0
        const val SHADOW_SHARE = 0.01

        /** What is seen that rarely counts for more. */
        const val SHADOW_WEIGHT = 2.0
    }
}
