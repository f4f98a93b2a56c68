package io.github.mimomobile.runtime.files

import java.io.InputStream
import java.math.BigInteger

/** Text that is no JSON, or other JSON than expected. */
internal class JsonException(message: String) : Exception(message)

/**
 * JSON read value by value from a stream of UTF-8.
 *
 * Only the string being read is in memory, so that a vocabulary of 150,000 tokens costs no more than its own tables.
 *
 * @param wholeNumbers Whether [readValue] gives Long or BigInteger for numbers without a point and an exponent.
 * @param mostChars Of a string.
 */
internal class JsonReader(
    private val input: InputStream,
    private val wholeNumbers: Boolean = false,
    private val mostChars: Int = MOST_CHARS,
) {
    private val buffer = ByteArray(1 shl 16)
    private var position = 0
    private var limit = 0
    private var consumed = 0L
    private var depth = 0
    private var values = 0

    /** The characters of the name or string read last; how many of them count was returned by the reading call. */
    var chars: CharArray = CharArray(256)
        private set

    /** Calls [field] at each value of an object, its name in [chars]; the value must be read. */
    fun readFields(field: (nameLength: Int) -> Unit) = nested('{', '}') {
        val length = readChars()
        expect(':')
        field(length)
    }

    /** Calls [field] at each value of an object; the value must be read. */
    fun readObject(field: (name: String) -> Unit) = readFields { field(String(chars, 0, it)) }

    /** Calls [element] at each value of an array; the value must be read. */
    fun readArray(element: () -> Unit) = nested('[', ']', element)

    /** The next string, as characters in [chars]; returns their number. */
    fun readChars(): Int {
        expect('"')
        var length = 0
        var halves = false
        while (true) {
            if (length + 2 > chars.size) chars = chars.copyOf(2 * chars.size)
            if (length > mostChars) fail("a string of more than $mostChars characters")
            val byte = next()
            when {
                byte == '"'.code -> return length.also { if (halves) checkPairs(length) }
                byte == '\\'.code -> chars[length++] = escaped().also { halves = halves || it.isSurrogate() }
                byte < 0x20 -> fail("a control character in a string")
                byte < 0x80 -> chars[length++] = byte.toChar()
                else -> length += Character.toChars(codePoint(byte), chars, length)
            }
        }
    }

    /** The next value, a string. */
    fun readString(): String {
        val length = readChars() // may replace the array
        return String(chars, 0, length)
    }

    /** The next value, a whole number. */
    fun readInt(): Int {
        val number = readDouble()
        return number.toInt().takeIf { it.toDouble() == number } ?: fail("$number, a whole number expected")
    }

    /** The next value, a number. */
    fun readDouble(): Double {
        val text = readNumber()
        return text.toDouble().takeIf { it.isFinite() } ?: fail("'$text', a number expected")
    }

    private fun readNumber(): String {
        peek()
        val text = StringBuilder()
        while (fill() && buffer[position].toInt().toChar().let { it.isLetterOrDigit() || it in "+-." }) {
            if (text.length == MOST_DIGITS) fail("a number of more than $MOST_DIGITS characters")
            text.append(next().toChar())
        }
        return text.takeIf(::isNumber)?.toString() ?: fail("'$text', a number expected")
    }

    /** The whole text as one value, as [readValue] gives it; nothing may come after it. */
    fun readDocument(): Any? = readValue().also { readEnd() }

    /** Passes over the blanks behind the last value; nothing else may come. */
    fun readEnd() {
        while (fill()) {
            if (buffer[position].toInt().toChar() !in BLANKS) fail("more than one value")
            position++
        }
    }

    /** The next value of any kind: Map, List, String, a number, Boolean or null. For small texts. */
    fun readValue(): Any? = when (peek().also { count() }) {
        '{' -> buildMap { readObject { name -> if (name in this) fail("'$name' twice") else put(name, readValue()) } }
        '[' -> buildList { readArray { add(readValue()) } }
        '"' -> readString()
        't' -> true.also { word("true") }
        'f' -> false.also { word("false") }
        'n' -> null.also { word("null") }
        else -> if (wholeNumbers) readExact() else readDouble()
    }

    private fun readExact(): Number {
        val text = readNumber()
        if (text.any { it in ".eE" }) return text.toDouble().takeIf { it.isFinite() } ?: fail("'$text', a number expected")
        return text.toLongOrNull() ?: BigInteger(text)
    }

    /** Passes over the next value. */
    fun skipValue() {
        when (peek()) {
            '{' -> readFields { skipValue() }
            '[' -> readArray { skipValue() }
            '"' -> readChars()
            else -> readValue()
        }
    }

    /** The first character of the next value. */
    fun peek(): Char {
        while (true) {
            if (!fill()) fail("the end")
            val char = buffer[position].toInt().toChar()
            if (char !in BLANKS) return char
            position++
        }
    }

    private inline fun nested(open: Char, close: Char, element: () -> Unit) {
        expect(open)
        if (++depth > MOST_DEPTH) fail("more than $MOST_DEPTH levels")
        if (peek() == close) {
            position++
        } else {
            while (true) {
                element()
                val separator = peek()
                position++
                if (separator == close) break
                if (separator != ',') fail("'$separator', ',' or '$close' expected")
            }
        }
        depth--
    }

    private fun count() {
        if (++values > MOST_VALUES) fail("more than $MOST_VALUES values")
    }

    /** Half a surrogate pair is no text. */
    private fun checkPairs(length: Int) {
        var at = 0
        while (at < length) {
            val pair = chars[at].isHighSurrogate() && at + 1 < length && chars[at + 1].isLowSurrogate()
            if (chars[at].isSurrogate() && !pair) fail("half a surrogate pair in a string")
            at += if (pair) 2 else 1
        }
    }

    private fun escaped(): Char = when (val char = next().toChar()) {
        '"', '\\', '/' -> char
        'b' -> '\b'
        'f' -> '\u000c'
        'n' -> '\n'
        'r' -> '\r'
        't' -> '\t'
        'u' -> (1..4).fold(0) { code, _ ->
            val digit = Character.digit(next(), 16)
            if (digit < 0) fail("no hexadecimal digit after \\u")
            16 * code + digit
        }.toChar()
        else -> fail("'\\$char' in a string")
    }

    private fun codePoint(first: Int): Int {
        val more = if (first >= 0xF0) 3 else if (first >= 0xE0) 2 else 1
        var code = first and (0x3F shr more)
        repeat(more) {
            val byte = next()
            if (byte and 0xC0 != 0x80) fail("bytes that are no UTF-8")
            code = code shl 6 or (byte and 0x3F)
        }
        val isHalf = code in 0xD800..0xDFFF
        if (first < 0xC0 || code < LEAST_CODES[more] || isHalf || !Character.isValidCodePoint(code)) {
            fail("bytes that are no UTF-8")
        }
        return code
    }

    private fun word(word: String) {
        for (char in word) if (next() != char.code) fail("no JSON value")
    }

    private fun expect(char: Char) {
        val found = peek()
        if (found != char) fail("'$found', '$char' expected")
        position++
    }

    private fun next(): Int = if (fill()) buffer[position++].toInt() and 0xFF else fail("the end")

    private fun fill(): Boolean {
        if (position == limit) {
            consumed += limit
            position = 0
            limit = maxOf(0, input.read(buffer))
        }
        return limit > 0
    }

    private fun fail(found: String): Nothing = throw JsonException("at byte ${consumed + position}: $found")

    private companion object {
        const val MOST_DEPTH = 64

        /** Of the values that [readValue] keeps in memory. */
        const val MOST_VALUES = 200_000
        const val MOST_CHARS = 1 shl 20
        const val MOST_DIGITS = 1000

        /** The least code point that is written with so many more bytes. */
        val LEAST_CODES = intArrayOf(0, 0x80, 0x800, 0x10000)
        const val BLANKS = " \n\r\t"

        /** Java takes other numbers, too. */
        fun isNumber(text: CharSequence): Boolean {
            var at = 0
            fun digits(): Int {
                val from = at
                while (at < text.length && text[at] in '0'..'9') at++
                return at - from
            }
            fun passes(chars: String) = (at < text.length && text[at] in chars).also { if (it) at++ }
            passes("-")
            val isZero = at < text.length && text[at] == '0'
            val whole = digits()
            if (whole == 0 || isZero && whole > 1 || passes(".") && digits() == 0) return false
            if (passes("eE")) {
                passes("+-")
                if (digits() == 0) return false
            }
            return at == text.length
        }
    }
}
