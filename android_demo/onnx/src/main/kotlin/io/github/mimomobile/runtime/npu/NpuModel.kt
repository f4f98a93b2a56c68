package io.github.mimomobile.runtime.npu

import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.onnx.CacheTensors
import io.github.mimomobile.runtime.onnx.FloatRows
import io.github.mimomobile.runtime.onnx.IntCell
import io.github.mimomobile.runtime.onnx.LongRow
import io.github.mimomobile.runtime.onnx.OrtRuntime
import io.github.mimomobile.runtime.onnx.firstLine
import java.nio.FloatBuffer

/**
 * The trunk of a model for an NPU: its pieces one after the other, in windows of fixed size, with their KV caches.
 *
 * What is shorter than its window is padded at the end: those rows of the cache lie beyond the text and are overwritten
 * by what comes next.
 *
 * @param fits Called with the size of the KV cache before it is made.
 */
internal class NpuModel(
    val npu: NpuFolder,
    private val runtime: OrtRuntime,
    private val open: OpenPiece,
    fits: (kvBytes: Long) -> Unit,
) : AutoCloseable {
    private val environment = runtime.environment
    private val owned = ArrayList<AutoCloseable>()
    private val embedding: OrtSession
    private val ids = LongRow(environment, npu.windows[0]).also(owned::add)
    private val layers: List<NpuPiece>
    private val length = IntCell(environment).also(owned::add)

    /** Written and read in turns by one piece after the other. */
    private val states: List<FloatRows>

    /** The trunk's KV cache, which a graph on the CPU can have in common. */
    val cache: CacheTensors

    /** What scores hidden states; null where the CPU computes tokens. */
    val head: NpuHead?

    /** The MTP layer, once [openMtp] has made it. */
    private var mtp: NpuMtpLayer? = null

    /** Floats in a hidden state. */
    val hiddenSize: Int

    init {
        try {
            embedding = runtime.openPlain(npu.embedding).also(owned::add).session
            layers = List(npu.parts) { piece("layers-$it", npu.windows) }
            hiddenSize = layers[0].width("x")
            head = if (npu.computesTokens) NpuHead(this) else null
            states = List(2) { rows(npu.windows[0], hiddenSize) }
            val shapes = layers.map { it.cacheShapes() }.reduce { all, each -> all + each }
            fits(shapes.values.sumOf { it.bytes })
            cache = CacheTensors(environment, shapes).also(owned::add)
            layers.forEachIndexed { part, piece ->
                piece.bind("x", states[part % 2]::tensor)
                piece.bind("x_out", states[(part + 1) % 2]::tensor)
                join(piece, cache)
            }
        } catch (error: MimoException) {
            close()
            throw error
        }
    }

    /** One more piece, closed with the model. */
    fun piece(name: String, windows: List<Int>): NpuPiece = NpuPiece(npu, name, windows, open).also(owned::add)

    /** So many rows, closed with the model. */
    fun rows(count: Int, width: Int): FloatRows = FloatRows(environment, count, width).also(owned::add)

    /** Gives a layer its KV cache and the input that all layers share. */
    fun join(layer: NpuPiece, cache: CacheTensors) {
        layer.bind(cache)
        layer.bind("seqlens_k") { length.tensor }
    }

    /** A KV cache for one more layer, closed with the model. */
    fun cacheOf(layer: NpuPiece): CacheTensors = CacheTensors(environment, layer.cacheShapes()).also(owned::add)

    /** Makes the MTP layer, closed with the model unless [closeMtp] comes before. */
    fun openMtp(): NpuMtpLayer = NpuMtpLayer(this).also { mtp = it }

    /** Frees the MTP layer, which is not used. */
    fun closeMtp() {
        mtp?.run { parts.asReversed().forEach { owned -= it; it.close() } }
        mtp = null
    }

    /** Makes all KV caches anew, full of zeros. */
    fun emptyCaches() {
        cache.empty()
        layers.forEach { it.bind(cache) }
        mtp?.emptyCache()
    }

    /** The window for so many tokens at a position: the smallest that holds them, else the largest with room. */
    fun window(tokens: Int, position: Int): Int {
        val fitting = npu.windows.filter { position + it <= npu.contextLength }
        return fitting.lastOrNull { it >= tokens } ?: fitting.first()
    }

    /** How many of so many tokens at a position go through windows; near the context's end a prompt's do not fit. */
    fun reach(tokens: Int, position: Int): Int {
        val smallest = npu.windows.last()
        return minOf(tokens, (npu.contextLength - position) / smallest * smallest)
    }

    /** Rows of the embedding of [count] of [tokens], from [start] on, and zeros up to the window's end. */
    fun embed(tokens: IntArray, start: Int, count: Int, window: Int, out: FloatRows) {
        for (index in 0 until count) ids.buffer.put(index, tokens[start + index].toLong())
        for (index in count * hiddenSize until window * hiddenSize) out.buffer.put(index, 0f)
        try {
            val inputs = mapOf("input_ids" to ids.tensor(count))
            embedding.run(inputs, emptySet(), mapOf("x" to out.tensor(count))).close()
        } catch (error: OrtException) {
            throw MimoException.Inference("${npu.embedding}: ONNX Runtime failed: ${firstLine(error)}", error)
        }
    }

    /** Tells the pieces where a window begins. */
    fun place(position: Int, window: Int) = length.set(position + window - 1)

    /** The hidden states of one window of tokens, put at a position; valid until the next call. */
    fun hidden(tokens: IntArray, start: Int, count: Int, position: Int, window: Int): FloatBuffer {
        embed(tokens, start, count, window, states[0])
        place(position, window)
        layers.forEach { it.run(window) }
        return states[layers.size % 2].buffer.duplicate()
    }

    /** Where the nodes of the smallest window are; rows of the embedding are looked up on the CPU. */
    fun placement(): Map<String, Int> {
        hidden(IntArray(1), 0, 1, 0, npu.windows.last())
        head?.score(FloatArray(hiddenSize), 0, 1)
        val found = (layers + listOfNotNull(head?.piece)).map { it.placement() }.flatMap { it.entries }.groupBy({ it.key }, { it.value })
        return (found.mapValues { it.value.sum() } + (CPU to 1 + found[CPU].orEmpty().sum())).toSortedMap()
    }

    override fun close() = owned.asReversed().forEach { it.close() }

    private companion object {
        const val CPU = "CPUExecutionProvider"
    }
}

/** The last norm and the matrix of the vocabulary on an NPU. */
internal class NpuHead(private val model: NpuModel) {
    val piece: NpuPiece = model.piece("head", listOf(MOST_ROWS, 1))

    /** Tokens that get logits. */
    val logitsSize: Int = piece.width("logits")
    private val normed = model.rows(MOST_ROWS, model.hiddenSize)

    /** Logits of the last rows. */
    val logits: FloatRows = model.rows(MOST_ROWS, logitsSize)

    init {
        piece.bind("x", normed::tensor)
        piece.bind("logits", logits::tensor)
    }

    /** Puts into [logits] those of [rows] of [states], from row [first] on; at most [MOST_ROWS]. */
    fun score(states: FloatArray, first: Int, rows: Int) {
        normed.buffer.duplicate().put(states, first * model.hiddenSize, rows * model.hiddenSize)
        piece.run(rows)
    }

    companion object {
        /** The larger of the two windows that it is compiled for. */
        const val MOST_ROWS: Int = 2
    }
}
