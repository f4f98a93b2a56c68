package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.MimoException
import java.nio.FloatBuffer

/**
 * The MTP layer beside a trunk: which rows it has read, which hidden states wait for it, what it drafts.
 *
 * Row p of the layer reads the trunk's hidden state at position p and the token at p + 1, and gives logits of the token
 * at p + 2. Rows are read when their token is certain, so the layer's KV cache never has to forget one.
 *
 * @param batch Tokens that a backend computes at once, at most.
 */
internal class MtpHead(private val layer: MtpLayer, batch: Int) {
    private val size = layer.hiddenSize
    private val hidden = FloatArray((WAITING_ROWS + batch) * size)
    private val ids = IntArray(WAITING_ROWS + batch)
    private var waiting = 0

    /** Position of the first row that waits; those before it are in the layer's cache. */
    private var first = 0

    /** The tokens that are scored. */
    val draftIds: IntArray get() = layer.draftIds

    /** Keeps the first [count] tokens; returns how many the trunk may keep so that no hidden state is missed. */
    fun resume(count: Int): Int {
        if (count > first) {
            cut(count)
            return count
        }
        // The last kept token's row was read with a token that may not follow now; it must be made again.
        waiting = 0
        first = maxOf(0, count - 1)
        return first
    }

    /**
     * Keeps a copy of what the trunk computed for [count] of [tokens], from [start] on, at [position].
     *
     * All before [position] is certain by now.
     */
    fun observe(position: Int, tokens: IntArray, start: Int, count: Int, states: FloatBuffer) {
        cut(position)
        if (position !in first..first + waiting) {
            // Begun anew, or rows before are missing: attention does without them.
            first = position
            waiting = 0
        }
        if (waiting >= WAITING_ROWS) read(tokens[start])
        states.get(hidden, waiting * size, count * size)
        tokens.copyInto(ids, waiting, start, start + count)
        waiting += count
    }

    /** Logits of the token after [token], which is the one at [position]. */
    fun draft(position: Int, token: Int): FloatArray {
        cut(position)
        return read(token)
    }

    /** What it knows of the first [tokens] tokens: the layer's cache, and the rows that wait. */
    fun state(tokens: Int): List<StateArray> {
        cut(tokens)
        first = minOf(first, tokens)
        val waits = StateArray.of(IDS, ArrayType.I64, 1L + waiting) { out ->
            out.putLong(first.toLong())
            for (row in 0 until waiting) out.putLong(ids[row].toLong())
        }
        val states = StateArray.of(HIDDEN, ArrayType.F32, waiting.toLong(), size.toLong()) {
            it.asFloatBuffer().put(hidden, 0, waiting * size)
        }
        return layer.state(first) + waits + listOfNotNull(states.takeIf { waiting > 0 })
    }

    /**
     * Goes on from such a state of [tokens] tokens; after one without an MTP layer, drafts begin anew.
     *
     * @throws MimoException.ConversationFile It is another model's, or its parts do not go together.
     */
    fun restore(arrays: List<StateArray>, tokens: Int) {
        resume(0)
        val waits = arrays.firstOrNull { it.name == IDS } ?: return
        val states = arrays.firstOrNull { it.name == HIDDEN }
        val count = (waits.shape.singleOrNull() ?: 0) - 1
        if (waits.type != ArrayType.I64 || count !in 0..ids.size) unlike()
        val found = LongArray(count.toInt() + 1).also { waits.bytes().asLongBuffer().get(it) }
        val isThere = states != null && states.type == ArrayType.F32 && states.shape == listOf(count, size.toLong())
        if (found.any { it !in 0..Int.MAX_VALUE } || found[0] + count > tokens || count > 0 && !isThere) unlike()
        layer.restore(arrays, found[0].toInt())
        first = found[0].toInt()
        waiting = count.toInt()
        for (row in 0 until waiting) ids[row] = found[row + 1].toInt()
        if (waiting > 0) checkNotNull(states).bytes().asFloatBuffer().get(hidden, 0, waiting * size)
    }

    private fun unlike(): Nothing = wrongState("what waits for its MTP layer does not go with this one")

    private fun read(token: Int): FloatArray {
        ids.copyInto(ids, 0, 1, waiting)
        ids[waiting - 1] = token
        val logits = layer.read(hidden, ids, waiting, first)
        first += waiting
        waiting = 0
        return logits
    }

    /** Drops rows that wait at [position] and later. */
    private fun cut(position: Int) {
        waiting = minOf(waiting, maxOf(0, position - first))
    }

    private companion object {
        const val IDS = "head.ids"
        const val HIDDEN = "head.hidden"

        /** So many rows are read in one run while nothing is drafted: by the row this costs a fraction of a draft. */
        const val WAITING_ROWS = 128
    }
}
