package io.github.mimomobile.runtime.text

/** How Qwen2's tokenizer cuts a text before merging, as tokenizer.json writes it. */
internal const val QWEN2_PATTERN: String =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" +
        "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/**
 * [QWEN2_PATTERN] as a scanner.
 *
 * Java's and Android's regular expressions disagree about `\s` and are slow on long texts; this has one meaning
 * everywhere. Every text is covered: letters by the second alternative, numbers by the third, white space by the last
 * three and all else by the fourth.
 */
internal object PreTokenizer {
    /** Calls [word] with the bounds of each word of [text], in order and without gaps. */
    inline fun forEachWord(text: String, word: (start: Int, end: Int) -> Unit) {
        var start = 0
        while (start < text.length) {
            val end = wordEnd(text, start)
            word(start, end)
            start = end
        }
    }

    /** Where the word that begins at [start] ends. */
    fun wordEnd(text: String, start: Int): Int {
        val contraction = contractionEnd(text, start)
        if (contraction > start) return contraction
        val first = text.codePointAt(start)
        val second = start + Character.charCount(first)
        if (isNumber(first)) return second
        val letters = if (isLetter(first)) start else second
        if (!isNewline(first) && letters < text.length && isLetter(text.codePointAt(letters))) {
            return skip(text, letters, ::isLetter)
        }
        val otherBegin = if (first == ' '.code) second else start
        if (otherBegin < text.length && isOther(text.codePointAt(otherBegin))) {
            return skip(text, skip(text, otherBegin, ::isOther), ::isNewline)
        }
        return spaceEnd(text, start)
    }

    /** White space up to its last line break; without one, all but what belongs to the next word. */
    private fun spaceEnd(text: String, start: Int): Int {
        val end = skip(text, start, ::isSpace)
        val newline = (end - 1 downTo start).firstOrNull { isNewline(text[it].code) }
        return when {
            newline != null -> newline + 1
            end == text.length || end - start == 1 -> end
            else -> end - 1
        }
    }

    private fun contractionEnd(text: String, start: Int): Int {
        if (text[start] != '\'' || start + 1 == text.length) return start
        val one = folded(text[start + 1])
        val two = if (start + 2 < text.length) folded(text[start + 2]) else ' '
        return when {
            one == 's' || one == 't' || one == 'm' || one == 'd' -> start + 2
            (one == 'r' || one == 'v') && two == 'e' || one == 'l' && two == 'l' -> start + 3
            else -> start
        }
    }

    /** Letters that differ in case only are one; ſ is a small s. */
    private fun folded(char: Char): Char = if (char == 'ſ') 's' else char.lowercaseChar()

    private inline fun skip(text: String, start: Int, holds: (Int) -> Boolean): Int {
        var end = start
        while (end < text.length) {
            val codePoint = text.codePointAt(end)
            if (!holds(codePoint)) break
            end += Character.charCount(codePoint)
        }
        return end
    }

    private fun isOther(codePoint: Int): Boolean = !isSpace(codePoint) && !isLetter(codePoint) && !isNumber(codePoint)

    private fun isNewline(codePoint: Int): Boolean = codePoint == '\r'.code || codePoint == '\n'.code
}
