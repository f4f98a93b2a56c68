package io.github.mimomobile.runtime.npu

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.devices.readPlacement
import io.github.mimomobile.runtime.onnx.FloatRows
import io.github.mimomobile.runtime.onnx.IntCell
import io.github.mimomobile.runtime.onnx.LongRow
import io.github.mimomobile.runtime.onnx.OpenedSession
import io.github.mimomobile.runtime.onnx.OrtRuntime
import io.github.mimomobile.runtime.onnx.ZeroTensors
import io.github.mimomobile.runtime.onnx.firstLine
import java.io.File
import java.nio.FloatBuffer

/** Opens one piece's graph; `profiled` as in [OrtRuntime]. */
internal typealias OpenPiece = (graph: File, profiled: Boolean) -> OpenedSession

/** One piece of a model for an NPU: a session for each window, all on the same tensors. */
internal class NpuPiece(
    private val npu: NpuFolder,
    private val name: String,
    windows: List<Int>,
    open: OpenPiece,
) : AutoCloseable {
    private class Bound(val opened: OpenedSession) {
        val inputs = HashMap<String, OnnxTensor>()
        val outputs = HashMap<String, OnnxTensor>()
    }

    private val bound = HashMap<Int, Bound>()
    private val cache = ArrayList<OnnxTensor>()

    init {
        try {
            for (window in windows) {
                val graph = npu.piece(name, window)
                if (!graph.isFile) throw MimoException.ModelLoad("$graph: missing; compile again, or copy it")
                bound[window] = Bound(open(graph, window == 1))
            }
        } catch (error: MimoException) {
            close()
            throw error
        }
    }

    /** The floats in one row of an input or output. */
    fun width(value: String): Int {
        val session = bound.getValue(1).opened.session
        val info = (session.inputInfo[value] ?: session.outputInfo[value])?.info as? TensorInfo
        if (info?.type != OnnxJavaType.FLOAT) {
            throw MimoException.ModelLoad("${npu.piece(name, 1)}: $value is $info, float32 expected; compile again")
        }
        return info.shape.last().toInt()
    }

    /** Gives [tensor] to the sessions as [value] in every window. */
    fun bind(value: String, tensor: (window: Int) -> OnnxTensor) = bound.forEach { (window, each) ->
        val session = each.opened.session
        if (value in session.inputNames) each.inputs[value] = tensor(window)
        if (value in session.outputNames) each.outputs[value] = tensor(window)
    }

    /** Bytes of its KV cache. */
    val kvBytes: Long get() = past().values.sumOf { it.shape.fold(it.type.size.toLong(), Long::times) }

    /** Makes its KV cache, given as past and as present, in place of the one before. */
    fun makeCache(environment: OrtEnvironment) {
        cache.forEach { it.close() }
        cache.clear()
        val past = past()
        if (past.isEmpty()) return
        ZeroTensors(environment, past.values.first().type).use { zeros ->
            for ((name, info) in past) {
                val tensor = zeros.make(info.shape).also(cache::add)
                bind(name) { tensor }
                bind(name.replace("past_key_values.", "present.")) { tensor }
            }
        }
    }

    /** @throws MimoException.Inference The NPU failed. */
    fun run(window: Int) = bound.getValue(window).run {
        try {
            opened.session.run(inputs, emptySet(), outputs).close()
        } catch (error: OrtException) {
            throw MimoException.Inference("${npu.piece(name, window)}: the NPU failed: ${firstLine(error)}", error)
        }
    }

    /** Where the nodes of the window of one token are, after a run of it. */
    fun placement(): Map<String, Int> {
        val profile = bound.getValue(1).opened.session.endProfiling().ifEmpty { return emptyMap() }
        return File(profile).run { readPlacement(this).also { delete() } }
    }

    override fun close() {
        bound.values.forEach { it.opened.close() }
        cache.forEach { it.close() }
    }

    private fun past(): Map<String, TensorInfo> = bound.getValue(1).opened.session.inputInfo
        .filterKeys { it.startsWith("past_key_values.") }.mapValues { it.value.info as TensorInfo }
}

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
    private val joined = ArrayList<NpuPiece>()
    private val head: NpuPiece
    private val length = IntCell(environment).also(owned::add)

    /** Written and read in turns by one piece after the other. */
    private val states: List<FloatRows>
    private val normed: FloatRows

    /** Logits of the last rows. */
    val logits: FloatRows

    /** Floats in a hidden state. */
    val hiddenSize: Int

    /** Tokens that get logits. */
    val logitsSize: Int

    /** Memory of the trunk's KV cache. */
    val kvBytes: Long

    init {
        try {
            embedding = runtime.openPlain(npu.embedding).also(owned::add).session
            layers = List(npu.parts) { piece("layers-$it", npu.windows) }
            head = piece("head", listOf(2, 1))
            hiddenSize = layers[0].width("x")
            logitsSize = head.width("logits")
            states = List(2) { FloatRows(environment, npu.windows[0], hiddenSize).also(owned::add) }
            normed = FloatRows(environment, 2, hiddenSize).also(owned::add)
            logits = FloatRows(environment, 2, logitsSize).also(owned::add)
            kvBytes = layers.sumOf { it.kvBytes }
            fits(kvBytes)
            layers.forEachIndexed { part, piece ->
                piece.makeCache(environment)
                piece.bind("x", states[part % 2]::tensor)
                piece.bind("x_out", states[(part + 1) % 2]::tensor)
                piece.bind("seqlens_k") { length.tensor }
            }
            head.bind("x", normed::tensor)
            head.bind("logits", logits::tensor)
        } catch (error: MimoException) {
            close()
            throw error
        }
    }

    /** One more piece, closed with the model. */
    fun piece(name: String, windows: List<Int>): NpuPiece = NpuPiece(npu, name, windows, open).also(owned::add)

    /** So many rows, closed with the model. */
    fun rows(count: Int, width: Int): FloatRows = FloatRows(environment, count, width).also(owned::add)

    /** [NpuPiece.makeCache] and the input that all layers share. */
    fun join(layer: NpuPiece) {
        joined += layer
        layer.makeCache(environment)
        layer.bind("seqlens_k") { length.tensor }
    }

    /** Makes all KV caches anew, full of zeros. */
    fun emptyCaches() = (layers + joined).forEach { it.makeCache(environment) }

    /** The window for so many tokens at a position: the smallest that holds them, else the largest with room. */
    fun window(tokens: Int, position: Int): Int {
        val fitting = npu.windows.filter { position + it <= npu.contextLength }
        return fitting.lastOrNull { it >= tokens } ?: fitting.first()
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

    /** Puts into [logits] those of the last [rows] of two hidden states. */
    fun score(tail: FloatArray, rows: Int) {
        normed.buffer.duplicate().put(tail, (2 - rows) * hiddenSize, rows * hiddenSize)
        head.run(rows)
    }

    /** Where the nodes of one step are; rows of the embedding are looked up on the CPU. */
    fun placement(): Map<String, Int> {
        hidden(IntArray(1), 0, 1, 0, 1)
        score(FloatArray(2 * hiddenSize), 1)
        val found = (layers + head).map { it.placement() }.flatMap { it.entries }.groupBy({ it.key }, { it.value })
        return (found.mapValues { it.value.sum() } + (CPU to 1 + found[CPU].orEmpty().sum())).toSortedMap()
    }

    override fun close() = owned.asReversed().forEach { it.close() }

    private companion object {
        const val CPU = "CPUExecutionProvider"
    }
}
