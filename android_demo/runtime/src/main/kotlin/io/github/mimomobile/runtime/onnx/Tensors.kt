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

    private companion object {
        /** TensorProto.DataType. */
        const val FLOAT = 1
        const val INT8 = 3
        const val INT64 = 7
        const val FLOAT16 = 10

        fun bytesOf(element: Int) = if (element == FLOAT) 4 else if (element == FLOAT16) 2 else 1
    }
}

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
