package io.github.mimomobile.runtime.npu

import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Cancelled
import io.github.mimomobile.runtime.decode.MtpHead
import io.github.mimomobile.runtime.decode.MtpLayer
import io.github.mimomobile.runtime.onnx.between

/** The trunk on an NPU, and its MTP layer when drafts are wanted. A window that is under way is not cut off. */
internal class NpuBackend(private val model: NpuModel, layer: NpuMtpLayer?) : Backend {
    private val size = model.hiddenSize

    /** The last two hidden states. */
    private val tail = FloatArray(2 * size)
    private val rows = List(2) { FloatArray(model.logitsSize) }

    @Volatile
    private var cancelled = false

    override val contextLength: Int get() = model.npu.contextLength

    override val mtp: MtpHead? = layer?.let { MtpHead(it, model.npu.windows[0]) }

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
        model.score(tail, rows)
        val logits = model.logits.buffer.duplicate()
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

/** The MTP layer on an NPU. */
internal class NpuMtpLayer(private val model: NpuModel) : MtpLayer {
    private val windows = model.npu.windows
    private val piece = model.piece("mtp", windows)
    private val head = model.piece("draft_head", listOf(1))
    private val embedded = model.rows(windows[0], model.hiddenSize)
    private val states = model.rows(windows[0], model.hiddenSize)
    private val out = model.rows(windows[0], model.hiddenSize)
    private val last = model.rows(1, model.hiddenSize)
    private val scores = model.rows(1, head.width("logits"))
    private val logits = FloatArray(head.width("logits"))

    override val draftIds: IntArray = model.npu.draftIds()

    override val hiddenSize: Int get() = model.hiddenSize

    init {
        model.join(piece)
        piece.bind("x", embedded::tensor)
        piece.bind("hidden_states", states::tensor)
        piece.bind("x_out", out::tensor)
        head.bind("x", last::tensor)
        head.bind("logits", scores::tensor)
    }

    override fun read(hidden: FloatArray, ids: IntArray, count: Int, position: Int): FloatArray {
        val size = hiddenSize
        var start = 0
        while (start < count) {
            val window = model.window(count - start, position + start)
            val rows = minOf(window, count - start)
            model.embed(ids, start, rows, window, embedded)
            states.buffer.duplicate().put(hidden, start * size, rows * size)
            model.place(position + start, window)
            piece.run(window)
            last.buffer.duplicate().put(out.buffer.duplicate().between((rows - 1) * size, rows * size))
            start += rows
        }
        head.run(1)
        scores.buffer.duplicate().get(logits)
        return logits
    }
}
