package io.github.mimomobile.runtime.decode

/**
 * Which tokens may come next in one answer; nothing here knows what for.
 *
 * It is asked wherever a token is chosen, verified drafts included, so that it restricts drafts as well.
 */
internal interface Constraint : AutoCloseable {
    /** Whether the answer is whole and nothing can follow. */
    val over: Boolean

    /** Puts [MASKED] in the place of every logit whose token may not come next, end tokens included. */
    fun mask(logits: FloatArray)

    /** The tokens that come next in any case, of text that can be one only: [mask] leaves the first of them alone. */
    fun certain(): IntArray

    /** Goes on by [token], which is part of the text now, and which [mask] left as it was. */
    fun accept(token: Int)

    companion object {
        /** No token of such a logit is chosen; samplers take infinity for an error of the model. */
        const val MASKED: Float = -Float.MAX_VALUE
    }
}
