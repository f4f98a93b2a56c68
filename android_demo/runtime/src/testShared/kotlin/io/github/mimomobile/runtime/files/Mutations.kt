package io.github.mimomobile.runtime.files

import kotlin.random.Random

/** Changes files at random, as damage and malice would; the same seed makes the same changes. */
internal class Mutations(seed: Int) {
    private val random = Random(seed)

    /** [content] with one to three changes. */
    fun change(content: ByteArray): ByteArray {
        var changed = content
        repeat(1 + random.nextInt(3)) { changed = changeOnce(changed) }
        return changed
    }

    /** [content] with one to three bits flipped. */
    fun flip(content: ByteArray): ByteArray = content.copyOf().also { changed ->
        repeat(1 + random.nextInt(3)) {
            val place = random.nextInt(changed.size)
            changed[place] = (changed[place].toInt() xor (1 shl random.nextInt(8))).toByte()
        }
    }

    private fun changeOnce(content: ByteArray): ByteArray {
        if (content.isEmpty()) return VALUES.random(random).encodeToByteArray()
        val from = random.nextInt(content.size)
        val until = minOf(content.size, from + 1 + random.nextInt(if (random.nextInt(4) == 0) 400 else 12))
        return when (random.nextInt(7)) {
            0 -> flip(content)
            1 -> splice(content, from, until, ByteArray(0))
            2 -> splice(content, from, from, content.copyOfRange(from, until))
            3 -> splice(content, from, from, TOKENS.random(random).encodeToByteArray())
            4 -> splice(content, from, until, TOKENS.random(random).encodeToByteArray())
            5 -> value(content)
            else -> content.copyOf(from)
        }
    }

    /** Another value in place of a number, a text or a word, so that the document is JSON still. */
    private fun value(content: ByteArray): ByteArray {
        val text = String(content, Charsets.ISO_8859_1)
        val places = VALUE.findAll(text, random.nextInt(content.size)).take(8).toList()
        if (places.isEmpty()) return content.copyOf(content.size / 2)
        val place = places.random(random).groups[1]!!.range
        return splice(content, place.first, place.last + 1, VALUES.random(random).encodeToByteArray())
    }

    private fun splice(content: ByteArray, from: Int, until: Int, part: ByteArray): ByteArray =
        content.copyOf(from) + part + content.copyOfRange(until, content.size)

    companion object {
        private val VALUE = Regex("""[:,\[]\s*("[^"]*+"|-?[0-9.eE+-]+|true|false|null)""")
        private val VALUES = listOf(
            "null", "true", "[]", "{}", "[[]]", "\"\"", "\"..\"", "\"../x\"", "\"/etc/passwd\"", "\"a\\u0000b\"", "\"\\ud800\"",
            "\"\\udc00\\ud800\"", "0", "-0", "-1", "1", "0.5", "2147483647", "2147483648", "4194303", "1048575", "9007199254740993",
            "9223372036854775808", "1e308", "1e309", "-1e-400", "1".repeat(5000), "\"${"x".repeat(5000)}\"", "\"<|im_end|>\"",
            "[".repeat(60) + "]".repeat(60), "[".repeat(10_000), "{\"a\":".repeat(10_000), "\"Ā\"", "\"Ġ Ġ\"", "\"🙂\"", "NaN", "Infinity",
        )
        private val TOKENS = VALUES + listOf(
            "{", "}", "[", "]", ":", ",", "\"", "\\", "\\u", "\\ud83d", "\u0000", "\ufeff", "//", "/*", "'", "\n", "\u2028",
            "\"type\":", "\"id\":", "\"vocab\":", "\"merges\":", "\"path\":", "\"windows\":", "1e", "-", ".", "t", "é",
        )
    }
}
