package io.github.mimomobile.runtime.onnx

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.ArrayType
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.decode.wrongState

/** Type and sizes of one cache, `[1, K, C, D]`. */
internal data class CacheShape(val type: OnnxJavaType, val sizes: List<Long>) {
    val bytes: Long get() = sizes.fold(type.size.toLong(), Long::times)
}

/** What a graph reads of KV caches with [context] rows, by the names of its inputs. */
internal fun OrtSession.cacheShapes(context: Int): Map<String, CacheShape> =
    inputInfo.filterKeys { it.startsWith(PAST) }.mapValues { (_, value) ->
        val info = value.info as TensorInfo
        CacheShape(info.type, listOf(1, info.shape[1], context.toLong(), info.shape[3]))
    }

/**
 * KV caches by the names of the graph's inputs, such as `past_key_values.0.key`, which graphs extend in place. Graphs that
 * have them in common go on where another one ended.
 */
internal class CacheTensors(
    private val environment: OrtEnvironment,
    private val shapes: Map<String, CacheShape>,
) : AutoCloseable {
    private val tensors = HashMap<String, OnnxTensor>()

    /** Memory of all caches. */
    val bytes: Long = shapes.values.sumOf { it.bytes }

    init {
        empty()
    }

    /** Whether the caches have these types and sizes. */
    fun holds(others: Map<String, CacheShape>): Boolean = shapes == others

    /** Makes all of them anew, full of zeros; graphs must be bound to them again. */
    fun empty() = shapes.entries.groupBy { it.value.type }.forEach { (type, entries) -> // some layers may have float32
        ZeroTensors(environment, type).use { zeros ->
            for ((name, shape) in entries) {
                tensors.remove(name)?.close()
                tensors[name] = zeros.make(shape.sizes.toLongArray())
            }
        }
    }

    /** Gives [bind] each cache's name as input, as output, and the tensor that is both. */
    fun forEach(bind: (past: String, present: String, tensor: OnnxTensor) -> Unit) =
        tensors.forEach { (name, tensor) -> bind(name, name.replace(PAST, PRESENT), tensor) }

    /** The first [tokens] rows, named with [prefix]. */
    fun state(tokens: Int, prefix: String): List<StateArray> = shapes.map { (name, shape) ->
        val parts = sequence {
            reached {
                CacheRows(environment, shape.type).use { rows ->
                    val piece = rows.rowsOf(shape.sizes).toLong()
                    for (head in 0 until shape.sizes[1]) for (from in 0 until tokens.toLong() step piece) {
                        val until = minOf(tokens.toLong(), from + piece)
                        yield(rows.read(tensors.getValue(name), shape.sizes, head, from, until))
                    }
                }
            }
        }
        StateArray(prefix + name, arrayType(shape.type), listOf(1, shape.sizes[1], tokens.toLong(), shape.sizes[3]), parts)
    }

    /**
     * Puts such arrays back; rows behind them keep what they hold.
     *
     * @throws MimoException.ConversationFile They are another model's.
     * @throws MimoException.Inference ONNX Runtime failed, for want of memory say.
     */
    fun restore(arrays: List<StateArray>, tokens: Int, prefix: String) {
        val found = arrays.filter { it.name.startsWith(prefix) }.associateBy { it.name.removePrefix(prefix) }
        val expected = shapes.mapValues { (_, shape) ->
            Pair(arrayType(shape.type), listOf(1, shape.sizes[1], tokens.toLong(), shape.sizes[3]))
        }
        if (found.mapValues { Pair(it.value.type, it.value.shape) } != expected) wrongState("its arrays are not those of this one")
        shapes.values.firstOrNull { tokens > it.sizes[2] }?.let {
            wrongState("it covers $tokens tokens, the context holds ${it.sizes[2]}")
        }
        for ((type, entries) in shapes.entries.groupBy { it.value.type }) {
            reached {
                CacheRows(environment, type).use { rows ->
                    for ((name, shape) in entries) {
                        rows.write(tensors.getValue(name), shape.sizes, tokens, found.getValue(name).parts)
                    }
                }
            }
        }
    }

    /** Nobody beyond this module knows ONNX Runtime's exceptions. */
    private inline fun reached(work: () -> Unit) = try {
        work()
    } catch (error: OrtException) {
        throw MimoException.Inference("the KV cache cannot be copied: ONNX Runtime failed: ${firstLine(error)}", error)
    }

    private fun arrayType(type: OnnxJavaType): ArrayType = when (type) {
        OnnxJavaType.FLOAT -> ArrayType.F32
        OnnxJavaType.FLOAT16 -> ArrayType.F16
        else -> ArrayType.I8
    }

    override fun close() = tensors.values.forEach { it.close() }
}

private const val PAST = "past_key_values."
private const val PRESENT = "present."
