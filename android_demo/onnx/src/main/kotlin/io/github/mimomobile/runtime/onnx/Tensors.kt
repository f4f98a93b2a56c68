package io.github.mimomobile.runtime.onnx

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.io.ByteArrayOutputStream
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer

/** The elements between two places. */
internal fun <T : Buffer> T.between(start: Int, end: Int = limit()): T = apply {
    limit(end)
    position(start)
}

/** Memory that ONNX Runtime reads and writes where it is, seen as `[1, rows, width]` for several numbers of rows. */
internal class FloatRows(private val environment: OrtEnvironment, rows: Int, private val width: Int) : AutoCloseable {
    private val views = HashMap<Int, OnnxTensor>()

    val buffer: FloatBuffer = direct(4 * rows * width).asFloatBuffer()

    /** The first [rows] rows. */
    fun tensor(rows: Int): OnnxTensor = views.getOrPut(rows) {
        val part = buffer.duplicate().between(0, rows * width)
        OnnxTensor.createTensor(environment, part, longArrayOf(1, rows.toLong(), width.toLong()))
    }

    override fun close() = views.values.forEach { it.close() }
}

/** The same for `[1, count]` integers. */
internal class LongRow(private val environment: OrtEnvironment, count: Int) : AutoCloseable {
    private val views = HashMap<Int, OnnxTensor>()

    val buffer: LongBuffer = direct(8 * count).asLongBuffer()

    /** The first [count] of them. */
    fun tensor(count: Int): OnnxTensor = views.getOrPut(count) { view(count) }

    /** The same, not kept for the next time: the caller closes it. */
    fun view(count: Int): OnnxTensor =
        OnnxTensor.createTensor(environment, buffer.duplicate().between(0, count), longArrayOf(1, count.toLong()))

    override fun close() = views.values.forEach { it.close() }
}

/** One integer of 32 bits, `[1]`. */
internal class IntCell(environment: OrtEnvironment) : AutoCloseable {
    private val buffer = direct(4).asIntBuffer()

    val tensor: OnnxTensor = OnnxTensor.createTensor(environment, buffer, longArrayOf(1))

    fun set(value: Int) {
        buffer.put(0, value)
    }

    override fun close() = tensor.close()
}

private fun direct(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

/**
 * Makes tensors of zeros in ONNX Runtime's own memory, which closing them frees.
 *
 * For KV caches: Android takes direct buffers from the app's Java heap, which is far too small for them. The memory
 * comes of running a model with a single node, ConstantOfShape.
 */
internal class ZeroTensors(private val environment: OrtEnvironment, type: OnnxJavaType) : AutoCloseable {
    private val options = OrtSession.SessionOptions().apply {
        setCPUArenaAllocator(false) // it would round sizes up to powers of two
        setIntraOpNumThreads(1)
    }
    private val session = environment.createSession(model(elementType(type)), options)

    fun make(shape: LongArray): OnnxTensor =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(shape), longArrayOf(shape.size.toLong())).use { wanted ->
            // The result is not closed, as the tensor would be closed with it.
            session.run(mapOf("shape" to wanted)).get(0) as OnnxTensor
        }

    override fun close() {
        session.close()
        options.close()
    }

    /** The protobuf of an ONNX model: https://github.com/onnx/onnx/blob/v1.16.0/onnx/onnx.proto. */
    private fun model(element: Int): ByteArray {
        val zero = message { field(1, 1); field(2, element); field(9, ByteArray(bytesOf(element))) } // dims, type, data
        val value = message { field(1, "value"); field(5, zero); field(20, 4) } // an attribute of type TENSOR
        val node = message { field(1, "shape"); field(2, "zeros"); field(4, "ConstantOfShape"); field(5, value) }
        val graph = message {
            field(1, node)
            field(2, "zeros")
            field(11, valueInfo("shape", INT64))
            field(12, valueInfo("zeros", element))
        }
        val opset = message { field(2, 9) }
        return message { field(1, 4); field(7, graph); field(8, opset) } // IR version 4
    }
}

/**
 * Reads and writes rows of tensors that ONNX Runtime owns, `[1, K, C, D]`, to which Java has no other way than a copy of
 * the whole: models with a single node, Slice and ScatterND. The latter writes into the tensor that it was given.
 */
internal class CacheRows(private val environment: OrtEnvironment, private val type: OnnxJavaType) : AutoCloseable {
    private val options = OrtSession.SessionOptions().apply {
        setCPUArenaAllocator(false)
        setIntraOpNumThreads(1)
    }
    private val slice = environment.createSession(sliceModel(elementType(type)), options)
    private val scatter = environment.createSession(scatterModel(elementType(type)), options)
    private val piece = direct(PIECE_BYTES)
    private val places = direct(PIECE_BYTES).asLongBuffer()

    /** The rows `[from, until)` of a head, which fit into one piece, in memory that the next call overwrites. */
    fun read(tensor: OnnxTensor, sizes: List<Long>, head: Long, from: Long, until: Long): ByteBuffer {
        val rows = piece.duplicate().between(0, ((until - from) * rowBytes(sizes)).toInt())
        val starts = longs(0, head, from, 0)
        val ends = longs(1, head + 1, until, sizes[3])
        val shape = longArrayOf(1, 1, until - from, sizes[3])
        starts.use { ends.use { OnnxTensor.createTensor(environment, rows.order(piece.order()), shape, type).use { target ->
            slice.run(mapOf("data" to tensor, "starts" to starts, "ends" to ends), emptySet(), mapOf("rows" to target)).close()
        } } }
        return rows
    }

    /** Writes the first [tokens] rows of each head from [parts], which are `[1, K, P, D]` together; others stay. */
    fun write(tensor: OnnxTensor, sizes: List<Long>, tokens: Int, parts: Sequence<ByteBuffer>) {
        val (bytes, most) = Pair(rowBytes(sizes), rowsOf(sizes))
        var written = 0L
        piece.clear()
        fun flush() {
            val count = piece.position() / bytes
            writePiece(tensor, sizes, tokens, written, count)
            written += count
            piece.clear()
        }
        for (part in parts) {
            val rest = part.duplicate()
            while (rest.hasRemaining()) {
                val count = minOf(rest.remaining(), most * bytes - piece.position())
                piece.put(rest.duplicate().between(rest.position(), rest.position() + count))
                rest.position(rest.position() + count)
                if (piece.position() == most * bytes) flush()
            }
        }
        if (piece.position() > 0) flush()
    }

    /** How many rows a piece has room for. */
    fun rowsOf(sizes: List<Long>): Int = minOf(PIECE_BYTES / rowBytes(sizes), PIECE_BYTES / (Long.SIZE_BYTES * DIMENSIONS))

    private fun writePiece(tensor: OnnxTensor, sizes: List<Long>, tokens: Int, first: Long, count: Int) {
        for (row in 0 until count) {
            places.put(DIMENSIONS * row, 0)
            places.put(DIMENSIONS * row + 1, (first + row) / tokens)
            places.put(DIMENSIONS * row + 2, (first + row) % tokens)
        }
        val rows = piece.duplicate().order(piece.order()).between(0, count * rowBytes(sizes))
        val where = places.duplicate().between(0, DIMENSIONS * count)
        OnnxTensor.createTensor(environment, rows, longArrayOf(count.toLong(), sizes[3]), type).use { updates ->
            OnnxTensor.createTensor(environment, where, longArrayOf(count.toLong(), DIMENSIONS.toLong())).use { indices ->
                val given = mapOf("data" to tensor, "places" to indices, "rows" to updates)
                scatter.run(given, emptySet(), mapOf("written" to tensor)).close()
            }
        }
    }

    private fun rowBytes(sizes: List<Long>): Int = (sizes[3] * type.size).toInt()

    private fun longs(vararg values: Long): OnnxTensor =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(values), longArrayOf(values.size.toLong()))

    override fun close() {
        slice.close()
        scatter.close()
        options.close()
    }

    private fun sliceModel(element: Int): ByteArray {
        val node = message { field(1, "data"); field(1, "starts"); field(1, "ends"); field(2, "rows"); field(4, "Slice") }
        return model(node, mapOf("data" to element, "starts" to INT64, "ends" to INT64), "rows", element)
    }

    private fun scatterModel(element: Int): ByteArray {
        val node = message { field(1, "data"); field(1, "places"); field(1, "rows"); field(2, "written"); field(4, "ScatterND") }
        return model(node, mapOf("data" to element, "places" to INT64, "rows" to element), "written", element)
    }

    private fun model(node: ByteArray, inputs: Map<String, Int>, output: String, element: Int): ByteArray {
        val graph = message {
            field(1, node)
            field(2, "rows")
            for ((name, type) in inputs) field(11, valueInfo(name, type))
            field(12, valueInfo(output, element))
        }
        return message { field(1, 4); field(7, graph); field(8, message { field(2, 13) }) }
    }

    private companion object {
        const val PIECE_BYTES = 1 shl 20

        /** Numbers that say where a row is: `[1, K, C]`. */
        const val DIMENSIONS = 3
    }
}

private fun valueInfo(name: String, element: Int): ByteArray {
    val tensor = message { field(1, element) }
    return message { field(1, name); field(2, message { field(1, tensor) }) }
}

private fun elementType(type: OnnxJavaType): Int = when (type) {
    OnnxJavaType.FLOAT -> FLOAT
    OnnxJavaType.FLOAT16 -> FLOAT16
    OnnxJavaType.INT8 -> INT8
    else -> throw IllegalArgumentException("no KV cache of $type")
}

/** TensorProto.DataType. */
private const val FLOAT = 1
private const val INT8 = 3
private const val INT64 = 7
private const val FLOAT16 = 10

private fun bytesOf(element: Int) = if (element == FLOAT) 4 else if (element == FLOAT16) 2 else 1

private class Message {
    private val out = ByteArrayOutputStream()

    fun field(number: Int, value: Int) {
        varint(number shl 3)
        varint(value)
    }

    fun field(number: Int, value: ByteArray) {
        varint(number shl 3 or 2)
        varint(value.size)
        out.write(value)
    }

    fun field(number: Int, value: String) = field(number, value.encodeToByteArray())

    fun bytes(): ByteArray = out.toByteArray()

    private fun varint(value: Int) {
        var rest = value
        while (rest >= 0x80) {
            out.write(rest and 0x7F or 0x80)
            rest = rest ushr 7
        }
        out.write(rest)
    }
}

private fun message(fields: Message.() -> Unit): ByteArray = Message().apply(fields).bytes()
