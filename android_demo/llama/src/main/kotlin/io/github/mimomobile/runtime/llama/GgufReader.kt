package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.files.untrustedInput
import java.io.File
import java.io.IOException

/** The beginning of a GGUF file, number by number; [GgufHeader] knows what they mean. */
internal class GgufReader(val file: File) {
    /** Of the whole file. */
    val fileBytes: Long = file.length()

    /** What was read of it. */
    var data: ByteArray
        private set

    /** The next byte. */
    var place: Int = 0

    init {
        try {
            data = read(FIRST_BYTES)
        } catch (error: IOException) {
            throw unreadable(error)
        }
    }

    /**
     * What [parse] makes of the header. It gets more bytes, and begins anew, when the first ones do not suffice.
     *
     * @throws MimoException.ModelLoad The file ends within its header, or the header within no reasonable size.
     */
    fun <T> whole(parse: () -> T): T {
        try {
            return parse()
        } catch (_: End) {
            if (data.size.toLong() == fileBytes) throw endsEarly()
        }
        try {
            data = read(MOST_BYTES)
        } catch (error: IOException) {
            throw unreadable(error)
        }
        try {
            place = 0
            return parse()
        } catch (_: End) {
            if (data.size.toLong() == fileBytes) throw endsEarly()
            throw error("its header has more than ${MOST_BYTES / 1_000_000} MB, which no model needs")
        }
    }

    /** Forgets what follows the header. */
    fun trim() {
        data = data.copyOf(place)
    }

    fun u8(): Int = data[take(1)].toInt() and 0xFF

    fun u16(): Int = u8() or (u8() shl 8)

    fun i32(): Int = intAt(take(4))

    fun i64(): Long = longAt(take(8))

    /** Steps over [bytes], and tells where they begin. */
    fun take(bytes: Int): Int {
        if (bytes > data.size - place) throw End
        return place.also { place += bytes }
    }

    fun intAt(at: Int): Int = (0..3).fold(0) { sum, byte -> sum or (data[at + byte].toInt() and 0xFF shl 8 * byte) }

    fun longAt(at: Int): Long = intAt(at).toLong() and 0xFFFFFFFFL or (intAt(at + 4).toLong() shl 32)

    /** A text of at most [most] bytes, which [what] is. */
    fun text(what: String, most: Int): String {
        val size = i64()
        if (size < 0 || size > most) {
            throw error("$what: a text of ${size.toULong()} bytes promised, at most $most expected")
        }
        val start = take(size.toInt())
        return decoded(start, place) ?: throw error("$what: a text that is not UTF-8")
    }

    /** The text of some bytes; null when they are not UTF-8. */
    fun decoded(start: Int, end: Int): String? = try {
        data.decodeToString(start, end, throwOnInvalidSequence = true)
    } catch (_: CharacterCodingException) {
        null
    }

    fun error(found: String) =
        MimoException.ModelLoad("$file: no valid GGUF file: $found; download or convert it again")

    private fun endsEarly() = error("it ends after $fileBytes bytes, within its header")

    private fun unreadable(error: IOException) =
        MimoException.ModelLoad("$file: cannot be read (${error.message}); copy it again", error)

    private fun read(most: Int): ByteArray = untrustedInput(file, Long.MAX_VALUE).use { input ->
        val made = ByteArray(minOf(most.toLong(), fileBytes).toInt())
        var count = 0
        while (count < made.size) {
            val got = input.read(made, count, made.size - count)
            if (got < 0) throw IOException("it was cut off meanwhile")
            count += got
        }
        made
    }

    /** The header goes on after the bytes that were read. */
    private object End : Exception() {
        private fun readResolve(): Any = End

        override fun fillInStackTrace(): Throwable = this
    }

    private companion object {
        /** So much of a file is read at first; MiMo-7B's header has 6 MB. */
        const val FIRST_BYTES = 8_000_000

        /** And at most. */
        const val MOST_BYTES = 64_000_000
    }
}

/** A text from the file, as messages show it: short, and without what steers a terminal. */
internal fun shown(text: String): String {
    val short = if (text.length <= 64) text else text.take(63) + "…"
    return short.map { if (it.isISOControl() || Character.getType(it) in HIDDEN) '\uFFFD' else it }.joinToString("")
}

private val HIDDEN = setOf(Character.FORMAT, Character.LINE_SEPARATOR, Character.PARAGRAPH_SEPARATOR)
    .map { it.toInt() }
