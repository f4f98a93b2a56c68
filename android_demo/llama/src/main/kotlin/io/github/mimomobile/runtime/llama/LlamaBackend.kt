package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.ArrayType
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Cancelled
import io.github.mimomobile.runtime.decode.MtpHead
import io.github.mimomobile.runtime.decode.MtpLayer
import io.github.mimomobile.runtime.decode.Pace
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.decode.wrongState
import java.nio.FloatBuffer

/**
 * The trunk on llama.cpp, and the MTP layer beside it when drafts are wanted.
 *
 * @param weights The model that [context] computes; freed last.
 * @param windows Of each of the trunk's layers, whether llama.cpp keeps it in a cache of its own, as if it had a window.
 * @param norm The weight of the trunk's last norm, one float for each of a hidden state; only with [layer].
 */
internal class LlamaBackend(
    private val weights: AutoCloseable,
    private val context: LlamaContext,
    private val flag: Flag,
    override val contextLength: Int,
    private val layer: LlamaMtpLayer? = null,
    private val norm: FloatArray? = null,
    override val kvBytesPerToken: Long = 0,
    windows: List<Boolean> = emptyList(),
) : Backend {
    private val layers = StateCheck.partsOfLayers(windows)
    private val rows = List(minOf(Pace.MOST_ROWS, contextLength)) { FloatArray(context.vocabSize) }
    private val hidden = FloatArray(if (layer == null) 0 else OUTPUT_ROWS * context.hiddenSize)
    private val batchTokens = minOf(BATCH_TOKENS, contextLength)

    @Volatile
    private var cancelled = false

    override val mtp: MtpHead? = layer?.let { MtpHead(it, OUTPUT_ROWS) }

    override fun decode(ids: IntArray, position: Int, rows: Int): List<FloatArray> {
        context.forget(position)
        // llama.cpp gives hidden states only with logits, which cost more: of a prompt's end, as far as they fit.
        val shown = if (mtp == null) 0 else minOf(ids.size, OUTPUT_ROWS, contextLength)
        var done = 0
        while (done < ids.size) {
            if (cancelled) throw cut(position, done)
            val unseen = ids.size - shown
            val stop = if (done < unseen) unseen else ids.size
            val count = minOf(batchTokens, stop - done)
            val showing = shown > 0 && done >= unseen
            context.giveHidden(showing)
            val status = context.run(ids, done, count, position + done, if (done + count == ids.size) rows else 0)
            if (status != 0) throw if (cancelled) cut(position, done) else failure(status)
            if (showing) show(ids, done, count, position + done)
            done += count
        }
        if (cancelled) throw cut(position, done)
        val first = if (shown > 0) shown - rows else 0
        return this.rows.take(rows).onEachIndexed { row, target -> context.logits(first + row, target) }
    }

    /** Shows the MTP layer hidden states before the norm, but for a factor that its own norm takes out again. */
    private fun show(ids: IntArray, start: Int, count: Int, position: Int) {
        val (head, norm) = Pair(checkNotNull(mtp), checkNotNull(norm))
        context.hidden(count, hidden)
        for (index in 0 until count * norm.size) hidden[index] /= norm[index % norm.size]
        head.observe(position, ids, start, count, FloatBuffer.wrap(hidden, 0, count * norm.size))
    }

    private fun cut(position: Int, done: Int): Cancelled {
        context.forget(position + done)
        return Cancelled(done)
    }

    /** Attention multiplies what lies behind the text by 0, which leaves NaN as it is. */
    override fun forget() {
        context.wipe()
        layer?.wipe()
    }

    override fun state(tokens: Int): List<StateArray> {
        context.forget(tokens)
        val order = layers.flatten()
        val divided = StateArray.of(ORDER, ArrayType.I32, order.size.toLong()) { it.asIntBuffer().put(order.toIntArray()) }
        return listOf(context.stateArray("trunk")) + listOfNotNull(divided.takeIf { layers.size > 1 }) + mtp?.state(tokens).orEmpty()
    }

    override fun restore(arrays: List<StateArray>, tokens: Int) {
        val kept = arrays.firstOrNull { it.name == ORDER }
        if (kept != null && (kept.type != ArrayType.I32 || kept.shape != listOf(layers.sumOf { it.size }.toLong()))) {
            wrongState("the order of its layers is not that of this one")
        }
        val order = kept?.bytes()?.asIntBuffer()?.let { ints -> List(ints.remaining()) { ints.get() } }
        context.restore(arrays, "trunk", tokens, gaps = false) { copy, check ->
            check.arranged(order ?: layers.flatten().sorted(), layers)
        }
        mtp?.restore(arrays, tokens)
    }

    override fun cancel() {
        cancelled = true
        flag.set(true)
    }

    override fun renew() {
        flag.set(false)
        cancelled = false
    }

    override fun close() {
        layer?.close()
        context.close()
        weights.close()
    }

    companion object {
        /** Tokens that are computed at once. */
        const val BATCH_TOKENS: Int = 512

        /** A run gives at most so many rows of logits: room for 512 rows would take 311 MB. */
        const val OUTPUT_ROWS: Int = 64

        /** The array that says in which order a copy of the trunk has its layers, where that is not their own. */
        private const val ORDER = "trunk.layers"
    }
}

/**
 * The MTP layer in a context of its own, with weights from the trunk's model.
 *
 * @param tokens So many ids of the vocabulary are in use, the first ones.
 */
internal class LlamaMtpLayer(private val context: LlamaContext, tokens: Int) : MtpLayer, AutoCloseable {
    private val logits = FloatArray(minOf(tokens, context.vocabSize))

    /** The position after the last row. */
    private var next = 0

    override val draftIds: IntArray = IntArray(logits.size) { it }

    override val hiddenSize: Int get() = context.hiddenSize

    override fun read(hidden: FloatArray, ids: IntArray, count: Int, position: Int): FloatArray {
        // llama.cpp refuses rows that leave a gap; attention does without those before it.
        context.forget(if (position > next) 0 else position)
        for (start in 0 until count step BATCH_TOKENS) {
            val rows = minOf(BATCH_TOKENS, count - start)
            val status = context.run(ids, start, rows, position + start, 1, hidden)
            if (status != 0) {
                wipe()
                throw failure(status)
            }
        }
        next = position + count
        context.logits(0, logits)
        return logits
    }

    override fun state(rows: Int): List<StateArray> {
        context.forget(if (rows > next) 0 else rows)
        next = minOf(next, rows)
        return listOf(context.stateArray("mtp"))
    }

    override fun restore(arrays: List<StateArray>, rows: Int) {
        context.restore(arrays, "mtp", rows, gaps = true)
        next = rows
    }

    /** As [LlamaContext.wipe]. */
    fun wipe() {
        context.wipe()
        next = 0
    }

    override fun close() = context.close()

    companion object {
        /** Rows that are computed at once. */
        const val BATCH_TOKENS: Int = 128
    }
}

private fun failure(status: Int) =
    MimoException.Inference("llama_decode failed with status $status: ${LlamaLibrary.log.text()}")
