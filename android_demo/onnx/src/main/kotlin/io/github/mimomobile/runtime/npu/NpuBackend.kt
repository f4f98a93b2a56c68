package io.github.mimomobile.runtime.npu

import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Cancelled
import io.github.mimomobile.runtime.decode.MtpHead
import io.github.mimomobile.runtime.decode.Pace
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.onnx.TRUNK
import io.github.mimomobile.runtime.onnx.between

/** The trunk on an NPU, and its MTP layer when drafts are wanted. A window that is under way is not cut off. */
internal class NpuBackend(val model: NpuModel, layer: NpuMtpLayer?) : Backend {
    private val size = model.hiddenSize

    /** The last hidden states, as many as can be scored at once. */
    private val tail = FloatArray(Pace.MOST_ROWS * size)
    private val rows = List(Pace.MOST_ROWS) { FloatArray(model.head?.logitsSize ?: 0) }

    @Volatile
    private var cancelled = false

    override val contextLength: Int get() = model.npu.contextLength

    override var mtp: MtpHead? = layer?.let { MtpHead(it, model.npu.windows[0]) }
        private set

    /** Shows hidden states to the MTP layer of another backend from now on; its own is freed. */
    fun show(other: MtpHead?) {
        model.closeMtp()
        mtp = other
    }

    /** As in [Backend]; with no [rows] nothing is scored. */
    override fun decode(ids: IntArray, position: Int, rows: Int): List<FloatArray> {
        var start = 0
        while (start < ids.size) {
            if (cancelled) throw Cancelled(start)
            val at = position + start
            val window = model.window(ids.size - start, at)
            val count = minOf(window, ids.size - start)
            val hidden = model.hidden(ids, start, count, at, window)
            mtp?.observe(at, ids, start, count, hidden.duplicate())
            val kept = minOf(Pace.MOST_ROWS, count)
            tail.copyInto(tail, 0, kept * size)
            hidden.between((count - kept) * size).get(tail, tail.size - kept * size, kept * size)
            start += count
        }
        if (cancelled) throw Cancelled(start)
        val head = model.head?.takeIf { rows > 0 } ?: return emptyList()
        val first = Pace.MOST_ROWS - rows
        for (done in 0 until rows step NpuHead.MOST_ROWS) {
            val count = minOf(NpuHead.MOST_ROWS, rows - done)
            head.score(tail, first + done, count)
            val logits = head.logits.buffer.duplicate()
            for (row in done until done + count) logits.get(this.rows[row])
        }
        return this.rows.take(rows)
    }

    /** An NPU multiplies what lies behind the text by 0 instead of leaving it out, and 0 times NaN is no 0. */
    override fun forget() = model.emptyCaches()

    override val kvBytesPerToken: Long get() = model.cache.bytes / contextLength

    override fun state(tokens: Int): List<StateArray> = model.cache.state(tokens, TRUNK) + mtp?.state(tokens).orEmpty()

    override fun restore(arrays: List<StateArray>, tokens: Int) {
        model.cache.restore(arrays, tokens, TRUNK)
        mtp?.restore(arrays, tokens)
    }

    override fun cancel() {
        cancelled = true
    }

    override fun renew() {
        cancelled = false
    }

    override fun close() = model.close()
}
