package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.files.JsonReader
import java.math.BigDecimal
import java.math.BigInteger
import java.math.MathContext
import java.math.RoundingMode
import kotlin.math.abs

/** JSON of tools, calls and structures, read and written as Python's json does. */
internal object Json {
    /**
     * What a text says: Map, List, String, Boolean, null, and numbers as Long or BigInteger where they are whole.
     *
     * @throws io.github.mimomobile.runtime.files.JsonException It is no JSON, nested too deeply, or names a key twice.
     */
    fun parse(text: String): Any? = JsonReader(text.encodeToByteArray().inputStream(), wholeNumbers = true).readDocument()

    /**
     * A value as one line.
     *
     * @throws IllegalArgumentException Something in it is no JSON.
     */
    fun text(value: Any?): String = StringBuilder().also { write(value, it) }.toString()

    private fun write(value: Any?, out: StringBuilder) {
        when (value) {
            null, is Boolean, is Int, is Long, is BigInteger -> out.append(value)
            is Double -> out.append(number(value))
            is String -> quote(value, out)
            is List<*> -> list(value, '[', ']', out) { write(it, out) }
            is Map<*, *> -> list(value.entries, '{', '}', out) { (name, each) ->
                require(name is String) { "the key $name of JSON: a text expected" }
                quote(name, out)
                out.append(": ")
                write(each, out)
            }
            else -> throw IllegalArgumentException("${value.javaClass.simpleName} found, no value of JSON")
        }
    }

    private inline fun <T> list(items: Collection<T>, open: Char, close: Char, out: StringBuilder, each: (T) -> Unit) {
        out.append(open)
        items.forEachIndexed { index, item ->
            if (index > 0) out.append(", ")
            each(item)
        }
        out.append(close)
    }

    private fun quote(text: String, out: StringBuilder) {
        out.append('"')
        for (char in text) {
            when (char) {
                '"', '\\' -> out.append('\\').append(char)
                '\n' -> out.append("\\n")
                '\r' -> out.append("\\r")
                '\t' -> out.append("\\t")
                '\b' -> out.append("\\b")
                '\u000c' -> out.append("\\f")
                else -> if (char < ' ') out.append("\\u%04x".format(char.code)) else out.append(char)
            }
        }
        out.append('"')
    }

    /** The shortest text that stands for this number, in Python's form, which Java's is not. */
    private fun number(value: Double): String {
        require(value.isFinite()) { "$value found, no number of JSON" }
        if (value == 0.0) return if (1 / value < 0) "-0.0" else "0.0"
        val exact = BigDecimal(value)
        val shortest = (1..MOST_DIGITS).asSequence().map { exact.round(MathContext(it, RoundingMode.HALF_EVEN)) }
            .first { it.toDouble() == value }.stripTrailingZeros()
        val digits = shortest.unscaledValue().abs().toString()
        val exponent = digits.length - shortest.scale() - 1
        val sign = if (value < 0) "-" else ""
        if (exponent in LEAST_EXPONENT until MOST_EXPONENT) {
            return shortest.toPlainString().let { if ('.' in it) it else "$it.0" }
        }
        val fraction = if (digits.length > 1) ".${digits.drop(1)}" else ""
        // Not by format, whose digits are those of the phone's language.
        val size = "${abs(exponent)}".padStart(2, '0')
        return "$sign${digits[0]}${fraction}e${if (exponent < 0) '-' else '+'}$size"
    }

    /** So many digits tell every double. */
    private const val MOST_DIGITS = 17

    /** Python writes numbers of other sizes with an exponent. */
    private const val LEAST_EXPONENT = -4
    private const val MOST_EXPONENT = 16
}
