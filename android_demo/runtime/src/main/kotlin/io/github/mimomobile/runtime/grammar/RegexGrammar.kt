package io.github.mimomobile.runtime.grammar

import io.github.mimomobile.runtime.MimoException

/**
 * A regular expression, in the part of Rust's syntax that says the same everywhere, in GBNF.
 *
 * Classes such as `\w` mean what they do in Python's library: all of Unicode's, but in the `pattern` of a JSON schema
 * `\d` and `\w` are ASCII's.
 *
 * @param what The expression, for errors.
 * @param chars Writes a set of characters in GBNF.
 * @param isUnicode Whether `\d` and `\w` mean Unicode's characters.
 */
internal class RegexGrammar private constructor(
    private val text: String,
    private val what: String,
    private val isUnicode: Boolean,
    private val chars: (CharSet) -> String,
) {
    private var at = 0

    private fun whole(free: String?): String {
        val half = text.indices.firstOrNull { text[it].isSurrogate() && CharSet.of(text.codePointAt(it)).isEmpty && !isLow(it) }
        if (half != null) wrong("half of a character", half)
        val found = options(0, free)
        if (at < text.length) wrong("a bracket without its beginning")
        return found
    }

    private fun isLow(place: Int) = text[place].isLowSurrogate() && place > 0 && text[place - 1].isHighSurrogate()

    /** Alternatives up to a bracket or the end; those that are no group's may have anchors, behind which nothing is [free]. */
    private fun options(depth: Int, free: String?): String {
        if (depth > MOST_BRACKETS) unknown("more than $MOST_BRACKETS brackets within each other")
        val found = mutableListOf<String>()
        do {
            val isTop = depth == 0
            var begins = false
            while (isTop && (peek() == '^' || text.startsWith("\\A", at))) {
                at += if (peek() == '^') 1 else 2
                begins = true
            }
            if (begins && peek() in QUANTIFIERS) unknown("an anchor that is repeated")
            val items = mutableListOf<String>()
            var ends = false
            while (at < text.length && peek() != '|' && peek() != ')') {
                if (isTop && (peek() == '$' || text.startsWith("\\z", at))) {
                    at += if (peek() == '$') 1 else 2
                    ends = true
                    continue
                }
                if (ends) unknown("an anchor that is not at the end")
                items += repeated(depth)
            }
            val whole = listOfNotNull(free.takeIf { !begins }) + items + listOfNotNull(free.takeIf { !ends })
            found += whole.joinToString(" ").ifEmpty { "\"\"" }
        } while (peek() == '|' && at++ >= 0)
        return found.joinToString(" | ")
    }

    private fun repeated(depth: Int): String {
        var item = atom(depth)
        var count = 0
        while (peek() in QUANTIFIERS) {
            if (++count > MOST_BRACKETS) unknown("more than $MOST_BRACKETS repetitions of each other")
            item = if (peek() == '{') times(item) else "( $item${text[at++]} )"
            if (peek() == '?') at++ // to take as few as may be changes nothing, since all of the text is to match
        }
        return item
    }

    private fun times(item: String): String {
        val start = at
        val match = TIMES.matchAt(text, start) ?: wrong("{, but no {n}, {n,} or {n,m}")
        at = match.range.last + 1
        val (least, comma, most) = match.destructured
        val counts = listOf(least, most).filter { it.isNotEmpty() }.map { it.toIntOrNull() ?: Int.MAX_VALUE }
        if (counts.any { it > GrammarReader.MOST_TIMES }) unknown("more than ${GrammarReader.MOST_TIMES} repetitions", start)
        if (counts.size == 2 && counts[0] > counts[1]) wrong("{$least,$most}, whose end is before its beginning", start)
        return "( $item{${counts[0]}$comma${counts.getOrElse(1) { "" }}} )"
    }

    private fun atom(depth: Int): String = when (val char = text[at]) {
        '(' -> group(depth)
        '[' -> chars(set())
        '.' -> chars(!CharSet.of('\n'.code)).also { at++ }
        '\\' -> chars(escape())
        '*', '+', '?', '{' -> wrong("$char with nothing to repeat")
        '^', '$' -> unknown("an anchor within the expression")
        else -> chars(literal())
    }

    private fun group(depth: Int): String {
        val start = at++
        if (peek() == '?') {
            val name = GROUP.matchAt(text, start) ?: unknown("(?${text.getOrElse(at + 1) { ' ' }}", start)
            at = name.range.last + 1
        }
        val inside = options(depth + 1, null)
        if (peek() != ')') wrong("a bracket without its end", start)
        at++
        return "( $inside )"
    }

    private fun literal(): CharSet {
        val char = text.codePointAt(at)
        at += Character.charCount(char)
        return CharSet.of(char)
    }

    private fun set(): CharSet {
        val start = at++
        val isNegated = peek() == '^'
        if (isNegated) at++
        val found = mutableSetOf<CharSet>() // joined once, at the end: a class may have thousands
        while (peek() == '-') {
            found += CharSet.of('-'.code)
            at++
        }
        if (found.isEmpty() && peek() == ']') found += literal()
        while (peek() != ']') {
            if (at >= text.length) wrong("a class without its end", start)
            if (peek() == '[') unknown("a class within a class")
            for (operator in OPERATORS) if (text.startsWith(operator, at)) unknown("$operator in a class")
            val from = at
            val first = if (peek() == '\\') escape() else literal()
            if (peek() != '-' || text.getOrElse(at + 1) { ']' } == ']' || text.startsWith("--", at) || text[from] == '-') {
                found += first
                continue
            }
            at++
            if (peek() == '[') unknown("a class within a class")
            val last = if (peek() == '\\') escape() else literal()
            val range = (first.single ?: wrong("a range from a class", from))..(last.single ?: wrong("a range to a class", from))
            if (range.isEmpty()) wrong("a range whose end is before its beginning", from)
            found += CharSet.of(listOf(range))
        }
        at++
        return CharSet.of(found.flatMap { it.ranges() }).let { if (isNegated) !it else it }
    }

    private fun escape(): CharSet {
        val start = at++
        val char = peek() ?: wrong("a backslash at the end", start)
        if (char in "xuU") return CharSet.of(code(start))
        at++
        CONTROLS[char]?.let { return CharSet.of(it) }
        val named = when (char.lowercaseChar()) {
            'd' -> if (isUnicode) UnicodeClasses.digit else CharSet.of(listOf('0'.code..'9'.code))
            'w' -> if (isUnicode) UnicodeClasses.word else asciiWord
            's' -> UnicodeClasses.space
            else -> null
        }
        if (named != null) return if (char.isUpperCase()) !named else named
        if (char >= '\u0080' || char.isLetterOrDigit() || char in "<>" || char < ' ' && char !in "\n\t\r") unknown("\\$char", start)
        return CharSet.of(char.code)
    }

    private fun code(start: Int): Int {
        val match = CODE.matchAt(text, start) ?: wrong("an escape without its hexadecimal digits", start)
        at = match.range.last + 1
        val code = match.groupValues.drop(1).joinToString("").toLong(16)
        if (code > CharSet.LAST || code in 0xD800..0xDFFF) wrong("${match.value}, which is no character", start)
        return code.toInt()
    }

    private fun peek(): Char? = text.getOrNull(at)

    private operator fun String.contains(char: Char?): Boolean = char != null && indexOf(char) >= 0

    private fun unknown(found: String, place: Int = at): Nothing =
        throw MimoException.Unsupported("$what: at character $place: $found, which is unknown on Android; say it without")

    private fun wrong(found: String, place: Int = at): Nothing =
        throw IllegalArgumentException("$what: at character $place: $found")

    companion object {
        private const val MOST_BRACKETS = 20
        private const val FEW = 16
        private const val MOST_BOUNDS = 400_000
        private const val QUANTIFIERS = "*+?{"
        private val OPERATORS = listOf("&&", "--", "~~")
        private val TIMES = Regex("""\{ *([0-9]+) *(?:(,) *([0-9]*) *)?}""")
        private val GROUP = Regex("""\(\?(?::|P?<[A-Za-z_][A-Za-z0-9_]*>)""")
        private val CODE = Regex("""\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|[xuU]\{([0-9a-fA-F]{1,8})})""")
        private val asciiWord = CharSet.of(listOf('0'.code..'9'.code, 'A'.code..'Z'.code, '_'.code..'_'.code, 'a'.code..'z'.code))
        private val CONTROLS = mapOf('n' to 10, 't' to 9, 'r' to 13, 'f' to 12, 'v' to 11, 'a' to 7)

        /**
         * Texts that match [expression] from beginning to end, as a grammar.
         *
         * @throws MimoException.Unsupported The expression has a part that is unknown here; the message says where.
         * @throws IllegalArgumentException It is no regular expression.
         */
        fun of(expression: String): String {
            val classes = LinkedHashMap<CharSet, String>() // those of Unicode are long
            var size = 0
            val root = RegexGrammar(expression, "regex", isUnicode = true) { set ->
                if (set.bounds.size <= FEW) return@RegexGrammar gbnf(set)
                classes.getOrPut(set) {
                    size += set.bounds.size
                    require(size < MOST_BOUNDS) { "regex: too many classes; make it simpler" }
                    "c${classes.size}"
                }
            }.whole(null)
            return "root ::= $root\n" + classes.entries.joinToString("") { (set, name) -> "$name ::= ${gbnf(set)}\n" }
        }

        /**
         * Texts in which [expression] is found, as a JSON schema means it: what stands behind `::=`.
         *
         * @param free Any text.
         * @param chars Writes a set of characters in GBNF.
         */
        fun found(expression: String, what: String, free: String, chars: (CharSet) -> String): String =
            RegexGrammar(expression, what, isUnicode = false, chars).whole(free)

        /** A set of characters in GBNF. */
        fun gbnf(set: CharSet): String {
            if (set.isEmpty) throw IllegalArgumentException("regex: a class of no characters")
            return set.ranges().joinToString("", "[", "]") { range ->
                val ends = listOf(range.first, range.last).distinct()
                ends.joinToString("-") { if (it < 128 && it.toChar().isLetterOrDigit()) it.toChar().toString() else "\\U%08X".format(it) }
            }
        }
    }
}
