package io.github.mimomobile.runtime.npu

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtException
import ai.onnxruntime.TensorInfo
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.onnx.readPlacement
import io.github.mimomobile.runtime.onnx.CacheShape
import io.github.mimomobile.runtime.onnx.CacheTensors
import io.github.mimomobile.runtime.onnx.OpenedSession
import io.github.mimomobile.runtime.onnx.OrtRuntime
import io.github.mimomobile.runtime.onnx.cacheShapes
import io.github.mimomobile.runtime.onnx.firstLine
import java.io.File
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/** Opens one piece's graph; `profiled` and `shared` as in [OrtRuntime]. */
internal typealias OpenPiece = (graph: File, profiled: Boolean, shared: Boolean) -> OpenedSession

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

    /** In the order of loading. */
    private val bound = LinkedHashMap<Int, Bound>()
    private val smallest = windows.last()

    init {
        try {
            val graphs = windows.associateWith { npu.piece(name, it) }
            graphs.values.firstOrNull { !it.isFile }?.let {
                throw MimoException.ModelLoad("$it: missing; compile again, or copy it")
            }
            val shared = npu.shares(name, windows)
            fun openAll() = graphs.forEach { (window, graph) ->
                bound[window] = Bound(open(graph, window == smallest, shared))
            }
            // ONNX Runtime's QNN provider loads a shared binary for the first session and keeps its other graphs for the
            // next ones, in a place that all of the process has:
            // https://github.com/onnxruntime/onnxruntime-qnn/blob/cee6c0d91e583d43f5ecef6391e93c19b4042c0f/onnxruntime/core/providers/qnn/qnn_execution_provider.cc#L1500
            if (shared) LOADING.withLock { openAll() } else openAll()
        } catch (error: MimoException) {
            close()
            throw error
        }
    }

    /** The floats in one row of an input or output. */
    fun width(value: String): Int {
        val session = bound.getValue(smallest).opened.session
        val info = (session.inputInfo[value] ?: session.outputInfo[value])?.info as? TensorInfo
        if (info?.type != OnnxJavaType.FLOAT) {
            throw MimoException.ModelLoad("${npu.piece(name, smallest)}: $value is $info, float32 expected; compile again")
        }
        return info.shape.last().toInt()
    }

    /** What it reads of KV caches. */
    fun cacheShapes(): Map<String, CacheShape> = bound.getValue(smallest).opened.session.cacheShapes(npu.contextLength)

    /** Gives [tensor] to the sessions as [value] in every window. */
    fun bind(value: String, tensor: (window: Int) -> OnnxTensor) = bound.forEach { (window, each) ->
        val session = each.opened.session
        if (value in session.inputNames) each.inputs[value] = tensor(window)
        if (value in session.outputNames) each.outputs[value] = tensor(window)
    }

    /** Gives those tensors of [cache] to the sessions that they read. */
    fun bind(cache: CacheTensors) = cache.forEach { past, present, tensor ->
        bind(past) { tensor }
        bind(present) { tensor }
    }

    /** @throws MimoException.Inference The NPU failed. */
    fun run(window: Int) = bound.getValue(window).run {
        try {
            opened.session.run(inputs, emptySet(), outputs).close()
        } catch (error: OrtException) {
            throw MimoException.Inference("${npu.piece(name, window)}: the NPU failed: ${firstLine(error)}", error)
        }
    }

    /** Where the nodes of the smallest window are, after a run of it. */
    fun placement(): Map<String, Int> {
        val profile = bound.getValue(smallest).opened.session.endProfiling().ifEmpty { return emptyMap() }
        return File(profile).run { readPlacement(this).also { delete() } }
    }

    /** Frees the sessions: the one that loaded a shared binary came first, and goes last. */
    override fun close() {
        bound.values.toList().asReversed().forEach { it.opened.close() }
        bound.clear()
    }

    private companion object {
        /** Held while the sessions of a shared binary are made. */
        val LOADING = ReentrantLock()
    }
}
