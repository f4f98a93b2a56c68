package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Cancelled
import io.github.mimomobile.runtime.decode.MtpHead
import io.github.mimomobile.runtime.decode.MtpLayer
import io.github.mimomobile.runtime.decode.Pace
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.decode.medianSeconds
import io.github.mimomobile.runtime.devices.LayerTimes

/**
 * The trunk, and the MTP layer beside it when drafts are wanted.
 *
 * @param batch Tokens that the layer is shown at once, at most.
 */
internal class OrtBackend(
    private val trunk: CachedGraph,
    private val layer: OrtMtpLayer?,
    runtime: OrtRuntime,
    batch: Int = CachedGraph.BATCH_TOKENS,
) : Backend {
    private val hidden = FloatRows(runtime.environment, CachedGraph.BATCH_TOKENS, trunk.hiddenSize)
    private val rows = List(Pace.MOST_ROWS) { FloatArray(trunk.logitsSize) }

    @Volatile
    private var cancelled = false
    private var closed = false

    override val contextLength: Int get() = trunk.contextLength

    override val mtp: MtpHead? = layer?.let { MtpHead(it, maxOf(batch, CachedGraph.BATCH_TOKENS)) }

    /** As in [CachedGraph]. */
    val hasCommonCache: Boolean get() = trunk.hasCommonCache

    /** As in [CachedGraph]. */
    fun bindCache() = trunk.bindCache()

    override fun decode(ids: IntArray, position: Int, rows: Int): List<FloatArray> {
        var done = 0
        try {
            while (done < ids.size && !cancelled) {
                val count = minOf(CachedGraph.BATCH_TOKENS, ids.size - done)
                run(ids, done, count, position + done)
                done += count
            }
        } catch (error: MimoException.Inference) {
            if (!cancelled) throw error
        }
        if (cancelled) throw Cancelled(done)
        // Fewer rows where the last chunk has fewer; with drafts it has as many as are asked for.
        val first = minOf(Pace.MOST_ROWS, (ids.size - 1) % CachedGraph.BATCH_TOKENS + 1) - rows
        val logits = trunk.logits.buffer.duplicate().between(first * trunk.logitsSize)
        return this.rows.take(rows).onEach { logits.get(it) }
    }

    override val kvBytesPerToken: Long get() = trunk.kvBytes / contextLength

    override fun state(tokens: Int): List<StateArray> =
        trunk.cache.state(tokens, TRUNK) + mtp?.state(tokens).orEmpty()

    override fun restore(arrays: List<StateArray>, tokens: Int) {
        trunk.cache.restore(arrays, tokens, TRUNK)
        mtp?.restore(arrays, tokens)
    }

    /** Nothing is to be done: what attention reads ends where the text ends. */
    override fun forget() = Unit

    @Synchronized
    override fun cancel() {
        cancelled = true
        if (!closed) trunk.runOptions.setTerminate(true)
    }

    override fun renew() {
        trunk.runOptions.setTerminate(false)
        cancelled = false
    }

    @Synchronized
    override fun close() {
        closed = true
        trunk.close()
        layer?.close()
        hidden.close()
    }

    private fun run(ids: IntArray, start: Int, count: Int, position: Int) {
        val head = mtp ?: return trunk.run(ids, start, count, position)
        trunk.run(ids, start, count, position, CachedGraph.Others(outputs = mapOf(HIDDEN to hidden.tensor(count))))
        head.observe(position, ids, start, count, hidden.buffer.duplicate())
    }
}

/** The MTP layer's graph. */
internal class OrtMtpLayer(private val graph: CachedGraph, runtime: OrtRuntime) : MtpLayer, AutoCloseable {
    private val states = FloatRows(runtime.environment, CachedGraph.BATCH_TOKENS, graph.hiddenSize)
    private val logits = FloatArray(graph.logitsSize)

    override val hiddenSize: Int get() = graph.hiddenSize

    override val draftIds: IntArray

    init {
        read(FloatArray(hiddenSize), IntArray(1), 1, 0)
        draftIds = graph.integers("draft_ids").map { it.toInt() }.toIntArray()
    }

    override fun read(hidden: FloatArray, ids: IntArray, count: Int, position: Int): FloatArray {
        for (start in 0 until count step CachedGraph.BATCH_TOKENS) {
            val rows = minOf(CachedGraph.BATCH_TOKENS, count - start)
            states.buffer.duplicate().put(hidden, start * hiddenSize, rows * hiddenSize)
            val input = CachedGraph.Others(inputs = mapOf(HIDDEN to states.tensor(rows)))
            graph.run(ids, start, rows, position + start, input)
        }
        graph.logits.buffer.duplicate().get(logits)
        return logits
    }

    override fun state(rows: Int): List<StateArray> = graph.cache.state(rows, MTP)

    override fun restore(arrays: List<StateArray>, rows: Int) = graph.cache.restore(arrays, rows, MTP)

    /** What it takes, by the median of some runs. */
    fun times(): LayerTimes {
        val batch = CachedGraph.BATCH_TOKENS
        val hidden = FloatArray(batch * hiddenSize)
        val ids = IntArray(batch)
        read(hidden, ids, batch, 0) // warms up
        return LayerTimes(
            decodeS = medianSeconds { read(hidden, ids, 1, batch) },
            prefillS = medianSeconds { read(hidden, ids, batch, 0) },
        )
    }

    override fun close() {
        graph.close()
        states.close()
    }
}

/** What names of arrays in a state begin with. */
internal const val TRUNK: String = "trunk."

/** The same of the MTP layer's. */
internal const val MTP: String = "mtp."
private const val HIDDEN = "hidden_states"
