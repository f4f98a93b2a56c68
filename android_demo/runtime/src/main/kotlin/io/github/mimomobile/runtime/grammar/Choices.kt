package io.github.mimomobile.runtime.grammar

/** One of some texts, as a GBNF grammar: beginnings that texts have in common are there once. */
internal object Choices {
    fun grammar(texts: List<String>): String {
        val rules = StringBuilder()
        var count = 0

        fun rule(name: String, sorted: List<String>) {
            val options = mutableListOf<String>()
            var start = 0
            while (start < sorted.size) {
                if (sorted[start].isEmpty()) {
                    start++
                    continue
                }
                val first = sorted[start].codePointAt(0)
                var end = start
                while (end < sorted.size && sorted[end].codePointAt(0) == first) end++
                val group = sorted.subList(start, end)
                val common = group.first().commonPrefixWith(group.last())
                val rest = group.map { it.substring(common.length) }
                if (rest.all { it.isEmpty() }) {
                    options += literal(common)
                } else {
                    val next = "c-${count++}"
                    options += "${literal(common)} $next"
                    rule(next, rest)
                }
                start = end
            }
            if (sorted.first().isEmpty()) options += "\"\""
            rules.append("$name ::= ${options.joinToString(" | ")}\n")
        }
        rule("root", texts.distinct().sorted())
        return rules.toString()
    }

    /** A text in GBNF. */
    fun literal(text: String): String = buildString {
        append('"')
        for (char in text) {
            when {
                char == '"' || char == '\\' -> append('\\').append(char)
                char < ' ' || char == '\u007f' -> append("\\x%02X".format(char.code))
                else -> append(char)
            }
        }
        append('"')
    }
}
