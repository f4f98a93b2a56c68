package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.MimoException
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** What arrays of a state are made of. */
internal enum class ArrayType(val word: String, val bytes: Int) {
    U8("u8", 1),
    I8("i8", 1),
    I32("i32", 4),
    I64("i64", 8),
    F16("f16", 2),
    F32("f32", 4),
}

/**
 * One array of a copy of a KV cache. Its bytes are little-endian, and may be more than the Java heap holds or than an Int
 * counts: they are read piece by piece.
 *
 * @property parts Its bytes, one piece after the other, each valid until the next one is taken; all of them until the
 *   backend computes again, or the file that they come from is closed.
 */
internal class StateArray(
    val name: String,
    val type: ArrayType,
    val shape: List<Long>,
    val parts: Sequence<ByteBuffer>,
) {
    /** Bytes of all parts. */
    val size: Long get() = if (0L in shape) 0 else shape.fold(type.bytes.toLong(), Math::multiplyExact)

    /** The bytes of a small array, in the Java heap. */
    fun bytes(): ByteBuffer {
        val made = ByteBuffer.allocate(Math.toIntExact(size)).order(ByteOrder.LITTLE_ENDIAN)
        parts.forEach { made.put(it.duplicate()) }
        return made.apply { rewind() }
    }

    companion object {
        /** An array that [fill] writes to memory of the Java heap, for small ones. */
        fun of(name: String, type: ArrayType, vararg shape: Long, fill: (ByteBuffer) -> Unit): StateArray {
            val size = shape.fold(type.bytes.toLong(), Math::multiplyExact)
            val made = ByteBuffer.allocate(Math.toIntExact(size)).order(ByteOrder.LITTLE_ENDIAN)
            fill(made)
            return StateArray(name, type, shape.toList(), sequence { yield(made.duplicate().apply { rewind() }) })
        }
    }
}

/** A copy does not go with this model, or its parts do not go together. */
internal fun wrongState(problem: String): Nothing =
    throw MimoException.ConversationFile("the state of another model or KV cache: $problem")
