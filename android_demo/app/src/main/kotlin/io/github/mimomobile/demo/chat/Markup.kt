package io.github.mimomobile.demo.chat

/** A part of an answer. */
sealed interface Block {
    data class Prose(val text: String) : Block

    data class Code(val text: String, val language: String = "") : Block

    /** LaTeX, without what marks it as a formula. */
    data class Formula(val text: String) : Block

    /** Rows of cells; the first row is the heading. */
    data class Table(val rows: List<List<String>>) : Block
}

private const val FENCE = "```"

/** An answer's Markdown in parts, also while the end of the last one is still to come. At least one. */
fun blocksOf(text: String): List<Block> {
    val blocks = mutableListOf<Block>()
    val lines = mutableListOf<String>()
    var language: String? = null
    fun end() {
        val part = lines.joinToString("\n").trim('\n')
        val name = language
        if (name == null) blocks += proseOf(part) else if (part.isNotEmpty()) blocks += Block.Code(part, name)
        lines.clear()
    }
    for (line in text.split('\n')) {
        val start = line.trimStart()
        if (start.startsWith(FENCE)) {
            end()
            language = if (language == null) start.trimStart('`').trim().substringBefore(' ') else null
        } else {
            lines += line
        }
    }
    end()
    return blocks.ifEmpty { listOf(Block.Prose("")) }
}

/** A formula between marks, or from a mark to the end. */
private val DISPLAY = Regex(
    """\\\[(.*?)(?:\\]|\z)|\$\$(.*?)(?:\$\$|\z)|(\\begin\{(align|aligned|equation|gather|cases|eqnarray|[bpvBV]?matrix)\*?}""" +
        """.*?(?:\\end\{\4\*?}|\z))""",
    RegexOption.DOT_MATCHES_ALL,
)

/** What is no code: formulas of their own, and what is between them. */
private fun proseOf(text: String): List<Block> = buildList {
    var from = 0
    for (match in DISPLAY.findAll(text)) {
        addAll(tablesOf(text.substring(from, match.range.first)))
        val (brackets, dollars, environment) = match.destructured
        val formula = brackets.ifEmpty { dollars.ifEmpty { environment } }
        if (formula.isNotBlank()) add(Block.Formula(formula.trim()))
        from = match.range.last + 1
    }
    addAll(tablesOf(text.substring(from)))
}

private val RULE = Regex("""\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?""")

/** What is neither code nor formula: tables, and what is between them. */
private fun tablesOf(text: String): List<Block> = buildList {
    val prose = mutableListOf<String>()
    fun end() {
        val part = prose.joinToString("\n").trim('\n', ' ')
        if (part.isNotEmpty()) add(Block.Prose(part))
        prose.clear()
    }
    val lines = text.split('\n')
    var at = 0
    while (at < lines.size) {
        val isTable = '|' in lines[at] && lines.getOrNull(at + 1)?.let { '|' in it && RULE.matches(it.trim()) } == true
        if (!isTable) {
            prose += lines[at++]
            continue
        }
        end()
        val rows = mutableListOf(cells(lines[at]))
        at += 2
        while (at < lines.size && '|' in lines[at]) rows += cells(lines[at++])
        add(Block.Table(rows))
    }
    end()
}

private val BAR = Regex("""(?<!\\)\|""")

private fun cells(line: String): List<String> =
    line.trim().removePrefix("|").removeSuffix("|").split(BAR).map { it.trim().replace("\\|", "|") }
