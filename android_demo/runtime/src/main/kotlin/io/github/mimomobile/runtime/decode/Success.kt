package io.github.mimomobile.runtime.decode

/**
 * How often a drafter is right: its first draft, and the drafts after a right one.
 *
 * @param prior What is expected of both at first.
 */
internal class Success(prior: Double) {
    val first: Rate = Rate(prior)
    private val later = Rate(prior)

    /** Takes in a run in which the first [accepted] of [drafted] drafts were right. */
    fun learn(drafted: Int, accepted: Int) {
        for (index in 0 until minOf(accepted + 1, drafted)) {
            (if (index == 0) first else later).learn(index < accepted, 1.0)
        }
    }

    /** How many of so many drafts are expected to be right. */
    fun expected(drafts: Int): Double {
        var sum = 0.0
        var share = first.value
        repeat(drafts) {
            sum += share
            share *= later.value
        }
        return sum
    }
}

/**
 * How often drafts were right lately, from 0 to 1; some of the first expectation stays in it.
 *
 * @param prior The first expectation.
 */
internal class Rate(prior: Double) {
    private var right = prior * PRIOR_DRAFTS
    private var all = PRIOR_DRAFTS

    val value: Double get() = right / all

    /** Takes in one more draft, which counts as [weight] of them. */
    fun learn(wasRight: Boolean, weight: Double) {
        val kept = 1 - weight / WINDOW_DRAFTS
        right = kept * right + if (wasRight) weight else 0.0
        all = kept * all + weight
    }

    private companion object {
        const val PRIOR_DRAFTS = 2.0
        const val WINDOW_DRAFTS = 32
    }
}
