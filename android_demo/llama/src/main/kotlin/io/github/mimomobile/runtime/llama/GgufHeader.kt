package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.files.untrustedInput
import java.io.EOFException
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * One tensor of a file.
 *
 * @property shape Rows first, the other way round than ggml.
 * @property offset Where its data begins, from the file's beginning.
 * @property bytes How many it takes.
 */
internal class GgufTensor(val type: GgufType, val shape: List<Long>, val offset: Long, val bytes: Long)

/**
 * A GGUF file's metadata and tensors, read by a bounded reader of our own: what a file claims is compared with what it holds
 * first.
 *
 * ggml's own parser aborts the process on some values, and takes gigabytes or no end of time over others. This one refuses
 * all that ggml refuses or asserts, and knows no single model: [checked] says what a MiMo-7B must be. Weights are not touched.
 *
 * Sources: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and
 * https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/src/gguf.cpp
 *
 * @throws MimoException.ModelLoad The file is no GGUF, is damaged, or holds more than any model's header has.
 */
internal class GgufHeader(val file: File) {
    private val reader = GgufReader(file)
    private val values = LinkedHashMap<String, Value>()
    private val found = LinkedHashMap<String, GgufTensor>()
    private var elements = 0L

    init {
        reader.whole(::read)
        reader.trim()
    }

    /** By name, in the file's order. */
    val tensors: Map<String, GgufTensor> get() = found

    /** The metadata's keys, in the file's order. */
    val keys: Set<String> get() = values.keys

    /** Of the whole file. */
    val fileBytes: Long get() = reader.fileBytes

    /** The type of a value, such as `uint32` or `array of string`; `nothing` when the key is not there. */
    fun kind(key: String): String {
        val value = values[key] ?: return "nothing"
        return if (value.count < 0) value.type.label else "array of ${value.type.label}"
    }

    /** A Long, Double, Boolean or String; null when the key is not there or holds an array. */
    fun value(key: String): Any? = values[key]?.takeIf { it.count < 0 }?.content

    /** A text; null when the key is not there or holds something else. */
    fun text(key: String): String? = value(key) as? String

    /** How many elements an array has; 0 when the key is not there or holds no array. */
    fun count(key: String): Int = maxOf(0, values[key]?.count ?: 0)

    /**
     * Gives an array's texts in turns, which must be UTF-8.
     *
     * @throws MimoException.ModelLoad The key is not there or holds something else, or a text is not UTF-8.
     */
    fun strings(key: String, take: (index: Int, text: String) -> Unit) {
        val value = array(key, ValueType.STRING)
        var place = value.place
        for (index in 0 until value.count) {
            val end = place + 8 + reader.longAt(place).toInt()
            take(index, reader.decoded(place + 8, end) ?: throw reader.error("${shown(key)}: text $index is not UTF-8"))
            place = end
        }
    }

    /** @throws MimoException.ModelLoad The key is not there or holds something else. */
    fun integers(key: String): IntArray =
        array(key, ValueType.INT32).let { value -> IntArray(value.count) { reader.intAt(value.place + 4 * it) } }

    /** @throws MimoException.ModelLoad The key is not there or holds something else. */
    fun floats(key: String): FloatArray = array(key, ValueType.FLOAT32).let { value ->
        FloatArray(value.count) { Float.fromBits(reader.intAt(value.place + 4 * it)) }
    }

    /** @throws MimoException.ModelLoad The key is not there or holds something else. */
    fun truths(key: String): BooleanArray = array(key, ValueType.BOOL).let { value ->
        BooleanArray(value.count) { reader.data[value.place + it] != 0.toByte() }
    }

    /** What tells two values apart: of an array its bytes. */
    fun fingerprint(key: String): Any? {
        val value = values[key] ?: return null
        return if (value.count < 0) value.content else ByteBuffer.wrap(reader.data, value.place, value.bytes)
    }

    /**
     * A tensor of float32 numbers, flat.
     *
     * @throws MimoException.ModelLoad It is not there or of another type, or the file was cut off meanwhile.
     */
    fun float32(name: String): FloatArray {
        val tensor = found[name]?.takeIf { it.type == GgufType.F32 }
            ?: throw MimoException.ModelLoad("$file: $name in float32 expected; convert the checkpoint again")
        val bytes = ByteArray(Math.toIntExact(tensor.bytes))
        try {
            untrustedInput(file, Long.MAX_VALUE).use { input ->
                input.channel.position(tensor.offset)
                var count = 0
                while (count < bytes.size) {
                    val got = input.read(bytes, count, bytes.size - count)
                    if (got < 0) throw EOFException("it ends before $name")
                    count += got
                }
            }
        } catch (error: IOException) {
            throw MimoException.ModelLoad("$file: cannot be read (${error.message}); copy it again", error)
        }
        return FloatArray(bytes.size / 4).also { ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(it) }
    }

    private fun array(key: String, type: ValueType): Value =
        values[key]?.takeIf { it.count >= 0 && it.type == type } ?: throw MimoException.ModelLoad(
            "$file: ${shown(key)}: ${kind(key)} found, array of ${type.label} expected; convert the checkpoint again",
        )

    private fun read() {
        values.clear()
        found.clear()
        elements = 0
        if (reader.i32() != MAGIC) throw reader.error("it does not begin with GGUF")
        val version = reader.i32()
        if (version !in 2..3) throw reader.error("version $version found, 2 or 3 (of little-endian numbers) expected")
        val tensors = counted("tensors", MOST_TENSORS)
        repeat(counted("keys", MOST_KEYS)) {
            val key = reader.text("a key", MOST_KEY_BYTES)
            if (key.isEmpty()) throw reader.error("a key without a name")
            if (key in values) throw reader.error("the key ${shown(key)} is there twice")
            values[key] = readValue(key)
        }
        val alignment = alignment()
        val read = List(tensors) { tensor() }
        val start = reader.place + (-reader.place).mod(alignment)
        place(read, start.toLong(), alignment)
    }

    private fun counted(what: String, most: Int): Int {
        val count = reader.i64()
        if (count < 0 || count > most) throw reader.error("${count.toULong()} $what promised, at most $most expected")
        return count.toInt()
    }

    private fun readValue(key: String): Value {
        val number = reader.i32()
        val type = ValueType.of(number) ?: throw reader.error("${shown(key)}: type $number found, which GGUF does not have")
        return when (type) {
            ValueType.STRING -> Value(type, reader.text(shown(key), Int.MAX_VALUE))
            ValueType.ARRAY -> elements(key)
            else -> Value(type, scalar(key, type))
        }
    }

    private fun scalar(key: String, type: ValueType): Any = when (type) {
        ValueType.UINT8 -> reader.u8().toLong()
        ValueType.INT8 -> reader.u8().toByte().toLong()
        ValueType.UINT16 -> reader.u16().toLong()
        ValueType.INT16 -> reader.u16().toShort().toLong()
        ValueType.UINT32 -> reader.i32().toLong() and 0xFFFFFFFFL
        ValueType.INT32 -> reader.i32().toLong()
        ValueType.FLOAT32 -> Float.fromBits(reader.i32()).toDouble()
        ValueType.BOOL -> truth(key, reader.u8())
        ValueType.UINT64, ValueType.INT64 -> reader.i64()
        ValueType.FLOAT64 -> Double.fromBits(reader.i64())
        ValueType.STRING, ValueType.ARRAY -> error("no scalar")
    }

    private fun truth(key: String, byte: Int): Boolean {
        if (byte > 1) throw reader.error("${shown(key)}: a truth value that is neither 0 nor 1")
        return byte == 1
    }

    private fun elements(key: String): Value {
        val number = reader.i32()
        val long = reader.i64()
        if (long < 0 || long > MOST_ELEMENTS - elements) {
            throw reader.error("${shown(key)}: ${long.toULong()} values promised, $MOST_ELEMENTS in all arrays are the most")
        }
        elements += long
        val count = long.toInt()
        val type = ValueType.of(number)?.takeIf { it != ValueType.ARRAY } ?: throw reader.error(
            "${shown(key)}: an array of type $number found; one of numbers, truths or texts expected",
        )
        val start = reader.place
        if (type == ValueType.STRING) {
            repeat(count) {
                val size = reader.i64()
                reader.take(if (size in 0..Int.MAX_VALUE) size.toInt() else Int.MAX_VALUE)
            }
        } else {
            reader.take(type.bytes * count)
            if (type == ValueType.BOOL) for (at in start until reader.place) truth(key, reader.data[at].toInt() and 0xFF)
        }
        return Value(type, null, count, start, reader.place - start)
    }

    private fun alignment(): Int {
        val (kind, value) = Pair(kind(ALIGNMENT), value(ALIGNMENT))
        if (kind == "nothing") return LEAST_ALIGNMENT
        val found = value as? Long ?: 0L
        if (kind != "uint32" || found !in LEAST_ALIGNMENT..(1 shl 30) || found and found - 1 != 0L) {
            throw reader.error("$ALIGNMENT $value ($kind) found, a power of 2 from $LEAST_ALIGNMENT on expected")
        }
        return found.toInt()
    }

    /** A tensor whose offset counts from the first one. */
    private fun tensor(): Pair<String, GgufTensor> {
        val name = reader.text("a tensor's name", MOST_NAME_BYTES)
        if (name.isEmpty()) throw reader.error("a tensor without a name")
        val dimensions = reader.i32()
        if (dimensions !in 1..MOST_DIMENSIONS) {
            throw reader.error("tensor ${shown(name)} has $dimensions dimensions, 1 to $MOST_DIMENSIONS expected")
        }
        val shape = List(dimensions) { reader.i64() }.asReversed()
        val number = reader.i32()
        val offset = reader.i64()
        val type = GgufType.of(number)
            ?: throw reader.error("tensor ${shown(name)} has type $number, which is not known here")
        if (shape.any { it <= 0 } || shape.last() % type.block != 0L) {
            val text = shape.joinToString("×")
            throw reader.error("tensor ${shown(name)} is $text in $type, of which a block has ${type.block} values")
        }
        val bytes = try {
            Math.multiplyExact(shape.reduce(Math::multiplyExact) / type.block, type.blockBytes.toLong())
        } catch (_: ArithmeticException) {
            Long.MAX_VALUE
        }
        return name to GgufTensor(type, shape, offset, bytes)
    }

    /** Checks that tensors lie one after the other, as ggml wants them, and inside the file. */
    private fun place(read: List<Pair<String, GgufTensor>>, start: Long, alignment: Int) {
        var offset = 0L
        for ((name, each) in read) {
            if (name in found) throw reader.error("tensor ${shown(name)} is there twice")
            if (each.offset != offset) {
                throw reader.error("tensor ${shown(name)} begins at ${each.offset.toULong()}, $offset (its turn) expected")
            }
            if (each.bytes > fileBytes - start - offset) {
                throw reader.error("it ends after $fileBytes bytes, within tensor ${shown(name)}")
            }
            found[name] = GgufTensor(each.type, each.shape, start + offset, each.bytes)
            offset += each.bytes + (-each.bytes).mod(alignment.toLong())
        }
    }

    /** One value; of an array, [place] and [bytes] say where its elements are. */
    private class Value(
        val type: ValueType,
        val content: Any?,
        val count: Int = -1,
        val place: Int = 0,
        val bytes: Int = 0,
    )

    private companion object {
        const val MAGIC = 0x46554747 // "GGUF"
        const val ALIGNMENT = "general.alignment"

        /** GGUF's default; and ggml computes on mapped weights only when their beginning is aligned so. */
        const val LEAST_ALIGNMENT = 32

        /** MiMo-7B's files have about 40 keys and 450 tensors; 512 layers, the most that llama.cpp takes, have 6,100. */
        const val MOST_KEYS = 4096
        const val MOST_TENSORS = 16_384

        /** So many values all arrays of a header may have together; MiMo-7B's have 455,000. */
        const val MOST_ELEMENTS = 2_000_000L

        /** ggml's limits, and the specification's. */
        const val MOST_NAME_BYTES = 63
        const val MOST_DIMENSIONS = 4
        const val MOST_KEY_BYTES = 65_535
    }
}

/** enum gguf_type. */
internal enum class ValueType(val bytes: Int) {
    UINT8(1), INT8(1), UINT16(2), INT16(2), UINT32(4), INT32(4), FLOAT32(4), BOOL(1), STRING(0), ARRAY(0), UINT64(8), INT64(8),
    FLOAT64(8);

    /** As errors call it, and Python's library. */
    val label: String = name.lowercase()

    companion object {
        fun of(number: Int): ValueType? = entries.getOrNull(number)
    }
}
