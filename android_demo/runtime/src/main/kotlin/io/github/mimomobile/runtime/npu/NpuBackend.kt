package io.github.mimomobile.runtime.npu

import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Cancelled
import io.github.mimomobile.runtime.decode.MtpHead
import io.github.mimomobile.runtime.onnx.between

/** The trunk on an NPU, and its MTP layer when drafts are wanted. A window that is under way is not cut off. */
internal class NpuBackend(val model: NpuModel, layer: NpuMtpLayer?) : Backend {
    private val size = model.hiddenSize

    /** The last two hidden states. */
    private val tail = FloatArray(2 * size)
    private val rows = List(2) { FloatArray(model.head?.logitsSize ?: 0) }

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
            tail.copyInto(tail, 0, size)
            val kept = minOf(2, count)
            hidden.between((count - kept) * size).get(tail, (2 - kept) * size, kept * size)
            start += count
        }
        if (cancelled) throw Cancelled(start)
        val head = model.head?.takeIf { rows > 0 } ?: return emptyList()
        head.score(tail, rows)
        val logits = head.logits.buffer.duplicate()
        return this.rows.take(rows).onEach { logits.get(it) }
    }

    /** An NPU multiplies what lies behind the text by 0 instead of leaving it out, and 0 times NaN is no 0. */
    override fun forget() = model.emptyCaches()

    override fun cancel() {
        cancelled = true
    }

    override fun renew() {
        cancelled = false
    }

    override fun close() = model.close()
}
