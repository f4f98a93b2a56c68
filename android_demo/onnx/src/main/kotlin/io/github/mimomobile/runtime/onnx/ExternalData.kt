package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.files.untrustedInput
import java.io.File
import java.io.IOException

/** Bytes of the data file that a model's graph uses; other graphs beside it may use others of it. 0 of no model. */
internal fun weightBytes(model: File): Long = try {
    var total = 0L
    externalData(model) { key, value -> if (key == "length") total += value.toLong() }
    total
} catch (_: IOException) { // ONNX Runtime says so better
    0
} catch (_: NumberFormatException) {
    0
}

/**
 * Whether all prepacked weights of a saved model are where kernels find them.
 *
 * Kernels begin at the first address in a buffer that is a multiple of 64. ONNX Runtime 1.29 writes buffers anywhere
 * behind weights of less than 1 MiB, 1.32 does not: mapped from there, they give wrong numbers and no error.
 */
internal fun isAligned(model: File): Boolean = try {
    var aligned = true
    externalData(model) { key, value ->
        // A name, then `offset;length;checksum` of each buffer.
        if (key.startsWith("prepacked")) {
            aligned = aligned && value.split("|").drop(1).all { it.substringBefore(";").toLong() % ALIGNMENT == 0L }
        }
    }
    aligned
} catch (_: IOException) {
    false
} catch (_: NumberFormatException) {
    false
}

private const val ALIGNMENT = 64

/**
 * Calls [use] with keys and values that say where initializers are.
 *
 * Reads ModelProto.graph (7) → initializer (5) → external_data (13), pairs of texts (1, 2), of
 * https://github.com/onnx/onnx/blob/v1.16.0/onnx/onnx.proto and knows nothing else of it.
 */
private fun externalData(model: File, use: (key: String, value: String) -> Unit) = try {
    Fields(untrustedInput(model).use { it.readBytes() }).each(7) { graph ->
        graph.each(5) { tensor ->
            tensor.each(13) { pair ->
                var key = ""
                pair.each(1) { key = it.text() }
                pair.each(2) { use(key, it.text()) }
            }
        }
    }
} catch (error: IndexOutOfBoundsException) {
    throw IOException("$model: no ONNX model", error)
}

/** The fields of one protobuf message. */
private class Fields(private val bytes: ByteArray, private val begin: Int = 0, private val end: Int = bytes.size) {
    private var at = begin

    fun text(): String = String(bytes, begin, end - begin)

    /** Calls [use] with every field of a number, which must be texts or messages. */
    fun each(number: Int, use: (Fields) -> Unit) {
        at = begin
        while (at < end) {
            val tag = varint()
            when ((tag and 7).toInt()) {
                0 -> varint()
                1 -> at += 8
                2 -> {
                    val length = varint()
                    if (length < 0 || length > end - at) throw IndexOutOfBoundsException("a field of $length bytes")
                    if (tag ushr 3 == number.toLong()) use(Fields(bytes, at, at + length.toInt()))
                    at += length.toInt()
                }
                5 -> at += 4
                else -> throw IndexOutOfBoundsException("wire type ${tag and 7}")
            }
        }
    }

    private fun varint(): Long {
        var value = 0L
        for (shift in 0 until 64 step 7) {
            val byte = bytes[at++].toLong()
            value = value or ((byte and 0x7F) shl shift)
            if (byte >= 0) break
        }
        return value
    }
}
