package io.github.mimomobile.runtime.grammar

/** A part of a rule. */
internal sealed interface Item {
    /** One character of some. */
    class Chars(val set: CharSet) : Item

    class Rule(val name: String) : Item

    /** Alternatives in brackets. */
    class Group(val options: List<List<Item>>) : Item

    /** From [least] to [most] times the same; null is no bound. */
    class Repeated(val item: Item, val least: Int, val most: Int?) : Item
}

/**
 * Reads a grammar in GBNF, the form of llama.cpp's grammars, and refuses what would not come to an end.
 *
 * llama.cpp's own reader is no measure: it ends the process at some texts, hangs at others, and takes `{1,3000}` for `{1,}`.
 */
internal class GrammarReader private constructor(private val text: String) {
    private val rules = LinkedHashMap<String, List<List<Item>>>()
    private var at = 0
    private var size = 0

    private fun read(): Map<String, List<List<Item>>> {
        val bad = text.indices.firstOrNull { text[it] == '\u0000' || text[it].isSurrogate() && !isPaired(it) }
        if (bad != null) fail("U+%04X, which no grammar can hold".format(text[bad].code), bad)
        space(true)
        while (at < text.length) rule()
        if ("root" !in rules) throw IllegalArgumentException("grammar: no rule root")
        val missing = rules.values.asSequence().flatten().flatten().flatMap(::named).firstOrNull { it !in rules }
        if (missing != null) throw IllegalArgumentException("grammar: no rule ${missing.take(80)}")
        checkRecursion()
        return rules
    }

    private fun isPaired(place: Int): Boolean =
        text[place].isHighSurrogate() && text.getOrNull(place + 1)?.isLowSurrogate() == true ||
            text[place].isLowSurrogate() && text.getOrNull(place - 1)?.isHighSurrogate() == true

    private fun rule() {
        val start = at
        val name = name()
        if (name in rules) fail("a second rule ${name.take(80)}", start)
        if (rules.size == MOST_RULES) fail("more than $MOST_RULES rules", start)
        space(false)
        if (!text.startsWith("::=", at)) fail("::= expected")
        at += 3
        space(true)
        rules[name] = options(0)
        if (at < text.length && text[at] != '\n' && text[at] != '\r') fail("the end of the line expected")
        space(true)
    }

    private fun options(depth: Int): List<List<Item>> {
        if (depth > MOST_BRACKETS) fail("more than $MOST_BRACKETS brackets within each other")
        val options = mutableListOf(sequence(depth))
        while (peek() == '|') {
            at++
            space(true)
            options += sequence(depth)
        }
        return options
    }

    private fun sequence(depth: Int): List<Item> {
        val items = mutableListOf<Item>()
        var last: Item? = null // what a repetition behind it repeats
        var repetitions = 0 // one of another, each of which is a level as brackets are
        while (true) {
            val start = at
            repetitions = if (peek() in "*+?{") repetitions + 1 else 0
            if (depth + repetitions > MOST_BRACKETS) fail("more than $MOST_BRACKETS repetitions within each other")
            when (val char = peek() ?: return items) {
                '"' -> last = literal()
                '[' -> last = Item.Chars(set())
                '.' -> {
                    at++
                    last = Item.Chars(CharSet.ALL)
                }
                '(' -> {
                    at++
                    space(true)
                    last = Item.Group(options(depth + 1))
                    if (peek() != ')') fail("')' expected")
                    at++
                }
                '*', '+', '?', '{' -> {
                    val (least, most) = times()
                    if (last == null) fail("nothing to repeat", start)
                    items.removeLast()
                    last = Item.Repeated(last, least, most)
                }
                '<', '!' -> fail("tokens, which no answer's text has")
                else -> {
                    if (!isName(char)) return items
                    last = Item.Rule(name())
                }
            }
            if (last != null) items += last
            grow(1, start)
            space(depth > 0)
        }
    }

    private fun grow(by: Int, place: Int) {
        size += by
        if (size > MOST_ITEMS) fail("more than $MOST_ITEMS characters and items", place)
    }

    /** A text in quotes; null of an empty one. */
    private fun literal(): Item? {
        val start = at++
        val chars = mutableListOf<Item>()
        while (peek() != '"') chars += Item.Chars(CharSet.of(char(start)))
        at++
        grow(chars.size, start)
        return if (chars.size < 2) chars.firstOrNull() else Item.Group(listOf(chars))
    }

    private fun set(): CharSet {
        val start = at++
        val isNegated = peek() == '^'
        if (isNegated) at++
        val ranges = mutableListOf<IntRange>()
        while (peek() != ']') {
            val first = char(start)
            val isRange = peek() == '-' && text.getOrNull(at + 1) != ']'
            if (isRange) at++
            ranges += first..(if (isRange) char(start) else first)
            if (ranges.last().isEmpty()) fail("a range whose end is before its beginning", start)
        }
        at++
        if (ranges.isEmpty()) fail("a set without characters", start)
        grow(ranges.size, start)
        return CharSet.of(ranges).let { if (isNegated) !it else it }
    }

    /** One character of what begins at [start], maybe as an escape. */
    private fun char(start: Int): Int {
        if (at >= text.length) fail("the end of what begins here", start)
        val char = text.codePointAt(at)
        at += Character.charCount(char)
        return if (char == '\\'.code) escape() else char
    }

    private fun escape(): Int {
        val kind = peek()
        val digits = when (kind) {
            'x' -> 2
            'u' -> 4
            'U' -> 8
            '\\', '"', '[', ']', 'n', 'r', 't' -> 0
            else -> fail("an escape that is unknown")
        }
        at++
        if (digits == 0) return (mapOf('n' to '\n', 'r' to '\r', 't' to '\t')[kind] ?: kind).code
        val code = text.substring(at, minOf(at + digits, text.length))
        if (code.length < digits || code.any { Character.digit(it, 16) < 0 }) fail("$digits hexadecimal digits expected")
        val number = code.toLong(16)
        if (number > CharSet.LAST || number in 0xD800..0xDFFF) fail("U+$code, which is no character")
        at += digits
        return number.toInt()
    }

    /** A repetition: at least, and at most if there is a bound. */
    private fun times(): Pair<Int, Int?> {
        when (text[at++]) {
            '*' -> return 0 to null
            '+' -> return 1 to null
            '?' -> return 0 to 1
        }
        val start = at - 1
        space(true)
        val least = number()
        space(true)
        var most: Int? = least
        if (peek() == ',') {
            at++
            space(true)
            most = if (peek()?.isDigit() == true) number() else null
            space(true)
        }
        if (peek() != '}') fail("'}' expected")
        at++
        if (most != null && most < least) fail("{$least,$most}, whose end is before its beginning", start)
        return least to most
    }

    private fun number(): Int {
        val start = at
        while (peek()?.let { it in '0'..'9' } == true) at++
        val digits = text.substring(start, at)
        if (digits.isEmpty()) fail("a number expected")
        val number = digits.toIntOrNull()
        if (number == null || number > MOST_TIMES) fail("$MOST_TIMES repetitions at most expected", start)
        return number
    }

    private fun name(): String {
        val start = at
        while (peek()?.let(::isName) == true) at++
        if (at == start) fail("the name of a rule expected")
        return text.substring(start, at)
    }

    private fun isName(char: Char) = char in 'a'..'z' || char in 'A'..'Z' || char in '0'..'9' || char == '-'

    /** Passes over spaces and comments, and [lines], too. */
    private fun space(lines: Boolean) {
        while (true) {
            when (peek()) {
                ' ', '\t' -> at++
                '\n', '\r' -> if (lines) at++ else return
                '#' -> while (peek() != null && peek() !in "\r\n") at++
                else -> return
            }
        }
    }

    private fun peek(): Char? = text.getOrNull(at)

    private operator fun String.contains(char: Char?): Boolean = char != null && indexOf(char) >= 0

    private fun fail(found: String, place: Int = at): Nothing {
        val line = text.take(place).count { it == '\n' } + 1
        throw IllegalArgumentException("grammar: in line $line, at character $place: $found")
    }

    private fun named(item: Item): List<String> = when (item) {
        is Item.Rule -> listOf(item.name)
        is Item.Chars -> emptyList()
        is Item.Group -> item.options.flatten().flatMap(::named)
        is Item.Repeated -> named(item.item)
    }

    /** No rule may begin with itself, also behind what may be empty. */
    private fun checkRecursion() {
        val empty = mutableSetOf<String>()
        fun mayBeEmpty(item: Item): Boolean = when (item) {
            is Item.Rule -> item.name in empty
            is Item.Chars -> false
            is Item.Group -> item.options.any { it.all(::mayBeEmpty) }
            is Item.Repeated -> item.least == 0 || mayBeEmpty(item.item)
        }
        do {
            val more = rules.filter { (name, options) -> name !in empty && options.any { it.all(::mayBeEmpty) } }.keys
        } while (empty.addAll(more))

        fun first(item: Item): List<String> = when (item) {
            is Item.Rule -> listOf(item.name)
            is Item.Chars -> emptyList()
            is Item.Group -> item.options.flatMap { first(it, ::first, ::mayBeEmpty) }
            is Item.Repeated -> first(item.item)
        }
        val begins = rules.mapValues { (_, options) -> options.flatMap { first(it, ::first, ::mayBeEmpty) }.toSet() }
        val waiting = begins.mapValues { it.value.size }.toMutableMap()
        val users = HashMap<String, MutableList<String>>()
        for ((name, each) in begins) each.forEach { users.getOrPut(it, ::mutableListOf) += name }
        val ready = ArrayDeque(waiting.filter { it.value == 0 }.keys)
        while (ready.isNotEmpty()) {
            val name = ready.removeFirst()
            for (user in users[name].orEmpty()) if (waiting.merge(user, -1, Int::plus) == 0) ready += user
        }
        val loop = waiting.entries.firstOrNull { it.value > 0 }?.key ?: return
        throw IllegalArgumentException("grammar: the rule ${loop.take(80)} may begin with itself; turn it round")
    }

    private fun first(items: List<Item>, first: (Item) -> List<String>, mayBeEmpty: (Item) -> Boolean): List<String> {
        val found = mutableListOf<String>()
        for (item in items) {
            found += first(item)
            if (!mayBeEmpty(item)) break
        }
        return found
    }

    companion object {
        private const val MOST_BRACKETS = 50
        const val MOST_RULES: Int = 20_000

        /** So many times something may be repeated where there is a bound. */
        const val MOST_TIMES: Int = 65_536
        private const val MOST_ITEMS = 500_000

        /**
         * The rules of a grammar.
         *
         * @throws IllegalArgumentException It is none; the message says where and why.
         */
        fun read(text: String): Map<String, List<List<Item>>> = GrammarReader(text).read()
    }
}
