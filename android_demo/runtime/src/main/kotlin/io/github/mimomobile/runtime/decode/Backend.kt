package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.MimoException

/**
 * A computation was cut off; between a backend and the decoder only, never seen by users.
 *
 * @property computed So many of the ids were computed before that, and are in the KV cache.
 */
internal class Cancelled(val computed: Int) : Exception() {
    override fun fillInStackTrace(): Throwable = this
}

/** A loaded model with one KV cache. Positions from 0; not thread safe, but for [cancel]. */
internal interface Backend : AutoCloseable {
    /** Tokens that the KV cache holds. */
    val contextLength: Int

    /** Memory of one token in the trunk's KV cache. */
    val kvBytesPerToken: Long

    /** What drafts; it is shown all that [decode] computes. */
    val mtp: MtpHead?

    /**
     * Puts [ids] at [position], forgetting later entries; the logits of the last [rows] of them, at most [Pace.MOST_ROWS],
     * until the next call.
     *
     * @throws Cancelled [cancel] was called meanwhile; it says how many of [ids] the cache holds.
     */
    fun decode(ids: IntArray, position: Int, rows: Int = 1): List<FloatArray>

    /**
     * Leaves no trace of NaN in the KV caches, also of the MTP layer, where what lies behind the text can be read; what
     * they hold is lost.
     */
    fun forget()

    /** A copy, or a view, of what the KV caches hold of the first [tokens] positions; what comes after may be forgotten. */
    fun state(tokens: Int): List<StateArray>

    /**
     * Puts such arrays back, which may be a stranger's.
     *
     * @throws MimoException.ConversationFile They are another model's; what the caches hold then is lost.
     */
    fun restore(arrays: List<StateArray>, tokens: Int)

    /** Ends a running [decode] soon, and all later ones until [renew]; called from any thread. */
    fun cancel()

    /** Makes [decode] possible again after [cancel]. */
    fun renew()
}

/** The MTP layer on a backend, with a KV cache of its own. */
internal interface MtpLayer {
    /** The tokens that it scores. */
    val draftIds: IntArray

    /** Floats in a hidden state. */
    val hiddenSize: Int

    /**
     * Puts rows from [count] hidden states and their next tokens at [position], forgetting later ones.
     *
     * Returns the last row's logits, one for each of [draftIds].
     */
    fun read(hidden: FloatArray, ids: IntArray, count: Int, position: Int): FloatArray

    /** As [Backend.state], of the first [rows] rows; names begin with `mtp`. */
    fun state(rows: Int): List<StateArray>

    /** As [Backend.restore]. */
    fun restore(arrays: List<StateArray>, rows: Int)
}
