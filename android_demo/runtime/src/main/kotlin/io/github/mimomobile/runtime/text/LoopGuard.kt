package io.github.mimomobile.runtime.text

/**
 * Follows a text, and tells when its end has become a loop, as models' thinking does when it gets stuck.
 *
 * Rules and numbers are runtime/text/loop_guard.py's, which says what counts as a loop and what does not. Characters are
 * Unicode's.
 */
internal class LoopGuard {
    private var tail = IntArray(0)
    private var new = 0

    /** Whether it has. */
    var found: Boolean = false
        private set

    /** Goes on with some more of the text. */
    fun feed(text: String) {
        val points = text.codePoints().toArray()
        tail += points
        if (tail.size > WINDOW) tail = tail.copyOfRange(tail.size - WINDOW, tail.size)
        new += points.size
        if (new >= EVERY && !found) {
            new = 0
            found = isLoop(tail)
        }
    }

    internal companion object {
        /** Characters at the end of the text that are looked at. */
        const val WINDOW = 8192

        /** The text is looked at each time that it has grown by so many characters. */
        const val EVERY = 256

        /** A piece that is there so often, with so many characters in all, is a loop. */
        const val PIECE_TIMES = 4
        const val PIECE_LENGTH = 2000

        /** The same for a piece whose numbers count. */
        const val COUNT_TIMES = 100
        const val COUNT_LENGTH = 3000

        /** So many lines or sentences, of which so few differ, with so many characters in all. */
        const val LINES = 120
        const val DISTINCT_LINES = 6
        const val LINES_LENGTH = 2000

        /** Of so many words the last third says nothing new when this share of its phrases was there twice before. */
        const val WORDS = 900
        const val PHRASE = 8
        const val KNOWN = 0.92

        /** A number has so many digits at most; what follows is another one. */
        const val DIGITS = 15

        /** These end a sentence. */
        val ENDS = setOf('.'.code, '!'.code, '?'.code)

        /** Whether the end of a text is a loop. */
        fun isLoop(tail: IntArray): Boolean =
            tail.size >= PIECE_LENGTH && (repeats(tail) || counts(tail) || hasSameLines(tail) || hasSamePhrases(tail))

        /** Whether the text ends with one piece, several times. */
        private fun repeats(tail: IntArray): Boolean {
            val periods = periods(tail.reversed())
            return periods.indices.any { it + 1 >= PIECE_LENGTH && it + 1 >= PIECE_TIMES * periods[it] }
        }

        /** Whether the text ends with one piece, many times, in which numbers change, each by its own step. */
        private fun counts(tail: IntArray): Boolean {
            var end = tail.size // the last number may go on
            while (end > 0 && isDigit(tail[end - 1])) end--
            val symbols = symbols(tail, end).reversed()
            val periods = periods(symbols.map { if (it.isNumber) "0" else it.text })
            var length = 0
            for ((place, symbol) in symbols.withIndex()) {
                length += symbol.length
                val period = periods[place]
                if (length >= COUNT_LENGTH && place + 1 >= COUNT_TIMES * period) {
                    return areInSteps(symbols.take((place + 1) / period * period), period)
                }
            }
            return false
        }

        /** Whether each number of a piece changes by the same amount from one time to the next. */
        private fun areInSteps(symbols: List<Symbol>, period: Int): Boolean {
            val columns = (0 until period).filter { symbols[it].isNumber }
                .map { start -> (start until symbols.size step period).map { symbols[it].text.toLong() } }
            return columns.isNotEmpty() && columns.all { each -> each.zipWithNext { a, b -> b - a }.toSet().size == 1 }
        }

        /** Whether the last lines or sentences are the same few. */
        private fun hasSameLines(tail: IntArray): Boolean {
            val all = mutableListOf<String>()
            var start = 0
            var place = 0
            while (place < tail.size) {
                val ends = tail[place] in ENDS && place + 1 < tail.size && isStripped(tail[place + 1])
                if (ends || tail[place] == '\n'.code) {
                    all += text(tail, start, place)
                    place += if (ends) 2 else 1
                    start = place
                } else {
                    place++
                }
            }
            val whole = all.map { it.withoutLeadingSpace().withoutTrailingSpace() }.filter { it.isNotEmpty() }
            val lines = whole.takeLast(LINES)
            return lines.size == LINES && lines.distinct().size <= DISTINCT_LINES && lines.sumOf(::count) >= LINES_LENGTH
        }

        /** Whether the last words are phrases, of words and not of numbers alone, that were there twice before. */
        private fun hasSamePhrases(tail: IntArray): Boolean {
            val words = words(tail).takeLast(WORDS)
            if (words.size < WORDS) return false
            val phrases = words.windowed(PHRASE)
            val earlier = phrases.take(WORDS * 2 / 3).groupingBy { it }.eachCount()
            val last = phrases.drop(WORDS * 2 / 3)
            val known = last.count { phrase -> (earlier[phrase] ?: 0) >= 2 && phrase.count(::isWord) >= PHRASE / 2 }
            return known >= KNOWN * last.size
        }

        private fun words(tail: IntArray): List<String> {
            val words = mutableListOf<String>()
            var start = 0
            for (place in 0..tail.size) {
                if (place < tail.size && !isStripped(tail[place])) continue
                if (place > start) words += text(tail, start, place)
                start = place + 1
            }
            return words
        }

        private fun isWord(text: String): Boolean = text.codePoints().allMatch(::isLetter)

        /** Numbers and single other characters. */
        private fun symbols(tail: IntArray, end: Int): List<Symbol> {
            val symbols = mutableListOf<Symbol>()
            var place = 0
            while (place < end) {
                var next = place
                while (next < end && next - place < DIGITS && isDigit(tail[next])) next++
                val isNumber = next > place
                if (!isNumber) next++
                symbols += Symbol(text(tail, place, next), next - place, isNumber)
                place = next
            }
            return symbols
        }

        private class Symbol(val text: String, val length: Int, val isNumber: Boolean)

        /** For each beginning of a sequence the shortest period it has (by Knuth, Morris and Pratt). */
        private fun periods(symbols: List<Any>): IntArray {
            val borders = IntArray(symbols.size)
            var border = 0
            for (place in 1 until symbols.size) {
                while (border > 0 && symbols[place] != symbols[border]) border = borders[border - 1]
                if (symbols[place] == symbols[border]) border++
                borders[place] = border
            }
            return IntArray(symbols.size) { it + 1 - borders[it] }
        }

        private fun text(points: IntArray, start: Int, end: Int) = String(points, start, end - start)

        private fun count(text: String): Int = text.codePointCount(0, text.length)

        private fun isDigit(point: Int): Boolean = point in '0'.code..'9'.code
    }
}
