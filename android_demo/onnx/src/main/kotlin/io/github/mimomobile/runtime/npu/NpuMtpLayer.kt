package io.github.mimomobile.runtime.npu

import io.github.mimomobile.runtime.decode.MtpLayer
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.onnx.MTP
import io.github.mimomobile.runtime.onnx.between

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
    private val cache = model.cacheOf(piece)

    /** What it has of the model's. */
    val parts: List<AutoCloseable> get() = listOf(piece, head, embedded, states, out, last, scores, cache)

    override val draftIds: IntArray = model.npu.draftIds()

    override val hiddenSize: Int get() = model.hiddenSize

    init {
        model.join(piece, cache)
        piece.bind("x", embedded::tensor)
        piece.bind("hidden_states", states::tensor)
        piece.bind("x_out", out::tensor)
        head.bind("x", last::tensor)
        head.bind("logits", scores::tensor)
    }

    /** Makes its KV cache anew, full of zeros. */
    fun emptyCache() {
        cache.empty()
        piece.bind(cache)
    }

    override fun state(rows: Int): List<StateArray> = cache.state(rows, MTP)

    override fun restore(arrays: List<StateArray>, rows: Int) = cache.restore(arrays, rows, MTP)

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
