package io.github.mimomobile.runtime.onnx

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import io.github.mimomobile.runtime.MimoException
import java.io.File

/**
 * One ONNX graph of ours with a preallocated KV cache, given as past and as present: runs extend it in place.
 *
 * Trunk and MTP layer are both such graphs.
 *
 * @param lastRows Of the rows of a run, so many of the last get logits.
 * @param others The names of inputs beside ours.
 * @param profiled Whether [placement] will be asked for.
 * @param common The KV cache of other graphs, which is taken for this one's if it has the same types and sizes.
 * @param fits Called with the size of the KV cache before it is made.
 */
internal class CachedGraph(
    runtime: OrtRuntime,
    private val model: File,
    val contextLength: Int,
    private val lastRows: Int,
    others: Set<String> = emptySet(),
    profiled: Boolean = false,
    common: CacheTensors? = null,
    fits: (kvBytes: Long) -> Unit,
) : AutoCloseable {
    private val opened = runtime.open(model, lastRows, profiled)
    private val session = opened.session
    private val environment = runtime.environment
    private val inputs = HashMap<String, OnnxTensor>()
    private val outputs = HashMap<String, OnnxTensor>()
    private val ids = LongRow(environment, BATCH_TOKENS)

    /** Ones: a run sees as many as the cache holds tokens by then. */
    private val mask = LongRow(environment, contextLength).apply { for (at in 0 until contextLength) buffer.put(at, 1) }

    /** The KV cache. */
    val cache: CacheTensors

    /** Logits of the last rows. */
    val logits: FloatRows

    /** Tokens that get logits. */
    val logitsSize: Int

    /** Floats in a hidden state. */
    val hiddenSize: Int

    /** Memory of the KV cache. */
    val kvBytes: Long get() = cache.bytes

    /** Whether the KV cache is that of other graphs, which close it. */
    val hasCommonCache: Boolean

    /** For the run under way. */
    val runOptions: OrtSession.RunOptions = OrtSession.RunOptions()

    init {
        try {
            val past = session.cacheShapes(contextLength)
            val found = session.inputNames - past.keys
            val expected = setOf("input_ids", MASK) + others
            val logitsInfo = floats("logits")
            val hiddenInfo = session.outputNames.firstOrNull { it.startsWith("hidden_states") }?.let(::floats)
            if (past.isEmpty() || found != expected || logitsInfo == null || hiddenInfo == null) {
                throw MimoException.ModelLoad(
                    "$model: inputs ${found.joinToString()} and ${past.size} of a KV cache found;" +
                        " ${expected.joinToString()} and a KV cache expected, and float32 logits and hidden states, which" +
                        " recipes for GPUs lack: take another recipe, or convert the checkpoint again",
                )
            }
            logitsSize = logitsInfo.shape.last().toInt()
            hiddenSize = hiddenInfo.shape.last().toInt()
            logits = FloatRows(environment, lastRows, logitsSize)
            hasCommonCache = common != null && common.holds(past)
            cache = if (common != null && hasCommonCache) common else {
                fits(past.values.sumOf { it.bytes })
                CacheTensors(environment, past)
            }
            bindCache()
        } catch (error: OrtException) {
            opened.close()
            throw MimoException.ModelLoad("$model: ONNX Runtime cannot make its KV cache: ${firstLine(error)}", error)
        } catch (error: MimoException) {
            opened.close()
            throw error
        }
    }

    /** Takes the tensors of the KV cache, again when others have emptied it. */
    fun bindCache() = cache.forEach { past, present, tensor ->
        inputs[past] = tensor
        outputs[present] = tensor
    }

    /**
     * Puts [count] of [tokens], from [start] on, at a position, forgetting later entries; at most [BATCH_TOKENS].
     *
     * @param others Inputs and outputs of this run beside ours.
     * @throws MimoException.Inference ONNX Runtime failed, or the run was ended.
     */
    fun run(tokens: IntArray, start: Int, count: Int, position: Int, others: Others = Others()) {
        for (index in 0 until count) ids.buffer.put(index, tokens[start + index].toLong())
        inputs["input_ids"] = ids.tensor(count)
        inputs += others.inputs
        outputs["logits"] = logits.tensor(minOf(lastRows, count))
        outputs += others.outputs
        try {
            inputs.put(MASK, mask.view(position + count))?.close()
            session.run(inputs, emptySet(), outputs, runOptions).close()
        } catch (error: OrtException) {
            throw MimoException.Inference("$model: ONNX Runtime failed: ${firstLine(error)}", error)
        }
    }

    /** The output [name], integers, of the last run's inputs. */
    fun integers(name: String): LongArray = session.run(inputs, setOf(name), runOptions).use { result ->
        (result.get(0) as OnnxTensor).longBuffer.let { buffer -> LongArray(buffer.remaining()).also { buffer.get(it) } }
    }

    /** How many nodes each provider computes, from one run; empty when the session does not profile itself. */
    fun placement(): Map<String, Int> {
        run(IntArray(1), 0, 1, 0)
        val profile = session.endProfiling().ifEmpty { return emptyMap() }
        return File(profile).run { readPlacement(this).also { delete() } }
    }

    override fun close() {
        opened.close()
        if (!hasCommonCache) cache.close()
        inputs[MASK]?.close()
        listOf(ids, mask, logits, runOptions).forEach { it.close() }
    }

    private fun floats(output: String): TensorInfo? =
        (session.outputInfo[output]?.info as? TensorInfo)?.takeIf { it.type == OnnxJavaType.FLOAT }

    /** Inputs and outputs that only one of the graphs has. */
    class Others(val inputs: Map<String, OnnxTensor> = emptyMap(), val outputs: Map<String, OnnxTensor> = emptyMap())

    companion object {
        /** Tokens per run, at most. */
        const val BATCH_TOKENS: Int = 128

        private const val MASK = "attention_mask"
    }
}
