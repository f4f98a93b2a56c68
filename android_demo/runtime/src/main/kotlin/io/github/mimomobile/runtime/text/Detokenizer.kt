package io.github.mimomobile.runtime.text

/**
 * Token bytes in, whole UTF-8 characters out; malformed bytes become U+FFFD, as in Python.
 *
 * Java's decoder and Android's differ in how many of them they write; this is the Encoding Standard's UTF-8 decoder,
 * https://encoding.spec.whatwg.org/#utf-8-decoder.
 */
internal class Detokenizer {
    private var codePoint = 0
    private var needed = 0
    private var lowest = 0x80
    private var highest = 0xBF

    /** The characters that are whole now. */
    fun feed(data: ByteArray): String = buildString {
        for (byte in data) accept(byte.toInt() and 0xFF)
    }

    /** What was held back, at the end. */
    fun flush(): String = if (needed > 0) REPLACEMENT.also { needed = 0 } else ""

    private fun StringBuilder.accept(byte: Int) {
        if (needed > 0 && byte !in lowest..highest) {
            append(REPLACEMENT)
            needed = 0
        }
        if (needed > 0) {
            codePoint = codePoint shl 6 or (byte and 0x3F)
            lowest = 0x80
            highest = 0xBF
            if (--needed == 0) appendCodePoint(codePoint)
            return
        }
        lowest = if (byte == 0xE0) 0xA0 else if (byte == 0xF0) 0x90 else 0x80
        highest = if (byte == 0xED) 0x9F else if (byte == 0xF4) 0x8F else 0xBF
        when (byte) {
            in 0x00..0x7F -> append(byte.toChar())
            in 0xC2..0xDF -> begin(byte and 0x1F, 1)
            in 0xE0..0xEF -> begin(byte and 0x0F, 2)
            in 0xF0..0xF4 -> begin(byte and 0x07, 3)
            else -> append(REPLACEMENT)
        }
    }

    private fun begin(bits: Int, more: Int) {
        codePoint = bits
        needed = more
    }

    private companion object {
        const val REPLACEMENT = "\uFFFD"
    }
}
