package io.github.mimomobile.demo.math

import io.github.mimomobile.demo.math.MathNode.Accent
import io.github.mimomobile.demo.math.MathNode.Boxed
import io.github.mimomobile.demo.math.MathNode.Fence
import io.github.mimomobile.demo.math.MathNode.Fraction
import io.github.mimomobile.demo.math.MathNode.Grid
import io.github.mimomobile.demo.math.MathNode.Root
import io.github.mimomobile.demo.math.MathNode.Row
import io.github.mimomobile.demo.math.MathNode.Scripts
import io.github.mimomobile.demo.math.MathNode.Space
import io.github.mimomobile.demo.math.MathNode.Symbol

/**
 * The part of LaTeX's mathematics that language models write. It takes any text: what is unknown is shown by its name, and
 * what is still open at the end is closed there, since formulas are shown while they come.
 */
internal class MathParser private constructor(private val source: String) {
    private var at = 0
    private var depth = 0

    /** A command with its backslash, or a character; null at the end. */
    private fun peek(): String? {
        if (at >= source.length) return null
        if (source[at] != '\\') {
            val isPair = source[at].isHighSurrogate() && at + 1 < source.length
            return source.substring(at, if (isPair) at + 2 else at + 1)
        }
        var end = at + 1
        while (end < source.length && source[end] in LETTERS) end++
        return source.substring(at, maxOf(end, minOf(at + 2, source.length)))
    }

    private fun next(): String? = peek()?.also { at += it.length }

    private fun skipSpace() {
        while (at < source.length && source[at].isWhitespace()) at++
    }

    /** Takes [token] if it comes next. */
    private fun takes(token: String): Boolean {
        skipSpace()
        return (peek() == token).also { if (it) at += token.length }
    }

    /** Parts up to one of [ends], which is not taken. */
    private fun row(ends: Set<String>): Row {
        val parts = mutableListOf<MathNode>()
        while (true) {
            skipSpace()
            val token = peek() ?: break
            if (token in ends) break
            val part = scripts(part() ?: continue)
            parts += part
        }
        return Row(parts)
    }

    /** [base] with the scripts that follow it. */
    private fun scripts(base: MathNode): MathNode {
        var below: MathNode? = null
        var above: MathNode? = null
        var limits: Boolean? = null
        while (true) {
            skipSpace()
            when (peek()) {
                "_" -> { at++; below = argument() }
                "^" -> { at++; above = joined(above, argument()) }
                "'" -> { at++; above = joined(above, Symbol("′")) }
                "\\limits" -> { next(); limits = true }
                "\\nolimits" -> { next(); limits = false }
                else -> break
            }
        }
        return if (below == null && above == null) base else Scripts(base, below, above, limits)
    }

    private fun joined(first: MathNode?, second: MathNode): MathNode = when (first) {
        null -> second
        is Row -> Row(first.parts + second)
        else -> Row(listOf(first, second))
    }

    /** What follows a command: a group or one symbol. */
    private fun argument(): MathNode {
        skipSpace()
        if (peek() == null || peek() in CLOSERS) return Row(emptyList())
        return part() ?: Row(emptyList())
    }

    private fun group(end: String): Row = row(setOf(end)).also { takes(end) }

    /** All that is left, as it stands. */
    private fun rest(): String = source.substring(at).also { at = source.length }

    /** The next part; null for what shows nothing. Parts in parts are read only so deep: the text may be anybody's. */
    private fun part(): MathNode? {
        if (depth >= MOST_DEPTH) return Symbol(rest())
        depth++
        return next()?.let(::partOf).also { depth-- }
    }

    private fun partOf(token: String): MathNode? = when {
        token == "{" -> group("}")
        token == "}" || token == "&" -> null
        token == "^" || token == "_" -> { at--; Row(emptyList()) }
        token == "~" -> Space(0.25f)
        token[0] != '\\' -> number(token)
        else -> command(token.drop(1))
    }

    /** Digits belong together. */
    private fun number(token: String): MathNode {
        if (token[0] !in '0'..'9') return MathSymbols.of(token)
        val start = at - 1
        fun isDigit(place: Int) = source.getOrNull(place) in '0'..'9'
        while (isDigit(at) || source.getOrNull(at) in POINTS && isDigit(at + 1)) at++
        return Symbol(source.substring(start, at))
    }

    private fun command(name: String): MathNode? = MathSymbols.spaces[name]?.let(::Space)
        ?: MathSymbols.marks[name]?.let { Accent(argument(), it) }
        ?: MathSymbols.faces[name]?.let { faced(name, it) }
        ?: structure(name)
        ?: if (name in SILENT) null else MathSymbols.find(name) ?: Symbol(if (name.length > 1) "\\$name" else name)

    private fun structure(name: String): MathNode? = when (name) {
        "frac", "dfrac", "tfrac", "cfrac" -> Fraction(argument(), argument())
        "binom", "dbinom", "tbinom" -> Fence("(", Fraction(argument(), argument(), bar = false), ")")
        "sqrt" -> {
            val index = if (takes("[")) group("]") else null
            Root(argument(), index)
        }
        "left" -> fence()
        "begin" -> environment()
        "boxed", "fbox" -> Boxed(argument())
        "overset", "stackrel" -> argument().let { Scripts(argument(), null, it, limits = true) }
        "underset" -> argument().let { Scripts(argument(), it, null, limits = true) }
        "xrightarrow" -> Scripts(Symbol("⟶", Atom.REL), null, argument(), limits = true)
        "operatorname" -> { takes("*"); Symbol(raw(), Atom.OP) }
        "mathbb" -> raw().let { text -> Symbol(text.map { MathSymbols.doubled[it] ?: it }.joinToString(""), face = Face.ROMAN) }
        "pmod" -> Row(listOf(Space(1f), Symbol("(mod", Atom.ORD), Space(0.3f), argument(), Symbol(")", Atom.CLOSE)))
        "tag" -> Row(listOf(Space(2f), Symbol("(${raw()})")))
        "color" -> { raw(); Row(emptyList()) }
        "textcolor" -> { raw(); argument() }
        "middle", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr" -> delimiter().let(::Symbol)
        "\\" -> Space(1f) // a new line, where there are no rows
        else -> null
    }

    private fun faced(name: String, face: Face): MathNode =
        if (name.startsWith("text") || name == "mbox") Symbol(raw(), face = face) else restyled(argument(), face)

    private fun restyled(node: MathNode, face: Face): MathNode = when (node) {
        is Row -> Row(node.parts.map { restyled(it, face) })
        is Symbol -> node.copy(face = face)
        is Scripts -> node.copy(base = restyled(node.base, face))
        else -> node
    }

    /** The text of a group, as it stands. */
    private fun raw(): String {
        skipSpace()
        if (peek() != "{") return next().orEmpty()
        at++
        val start = at
        var open = 1
        while (at < source.length) {
            if (source[at] == '{') open++
            if (source[at] == '}' && --open == 0) break
            at++
        }
        val text = source.substring(start, at)
        if (at < source.length) at++
        return text.replace("\\", "")
    }

    private fun delimiter(): String {
        skipSpace()
        val token = next() ?: return ""
        if (token == ".") return ""
        return if (token[0] == '\\') MathSymbols.find(token.drop(1))?.text ?: "" else token
    }

    private fun fence(): MathNode {
        val left = delimiter()
        val body = row(setOf("\\right", "\\end"))
        val right = if (takes("\\right")) delimiter() else ""
        return Fence(left, body, right)
    }

    private fun environment(): MathNode {
        val name = raw().removeSuffix("*")
        val columns = if (name == "array") raw().filter { it in "lcr" } else null
        val rows = mutableListOf(mutableListOf<MathNode>(row(CELL_ENDS)))
        while (true) {
            when (peek()) {
                "&" -> { at++; rows.last() += row(CELL_ENDS) }
                "\\\\" -> {
                    next()
                    if (takes("[")) row(setOf("]")).also { takes("]") } // a height
                    rows += mutableListOf<MathNode>(row(CELL_ENDS))
                }
                else -> break
            }
        }
        if (takes("\\end")) raw()
        if (rows.size > 1 && rows.last().all { it == Row(emptyList()) }) rows.removeAt(rows.lastIndex)
        return when (name) {
            "cases" -> Fence("{", Grid(rows, "l"), "")
            "pmatrix" -> Fence("(", Grid(rows, "c"), ")")
            "bmatrix" -> Fence("[", Grid(rows, "c"), "]")
            "Bmatrix" -> Fence("{", Grid(rows, "c"), "}")
            "vmatrix" -> Fence("|", Grid(rows, "c"), "|")
            "Vmatrix" -> Fence("‖", Grid(rows, "c"), "‖")
            "align", "aligned", "split", "alignat", "eqnarray" -> Grid(rows, "rl", pairs = true)
            else -> Grid(rows, columns?.ifEmpty { null } ?: "c")
        }
    }

    companion object {
        private const val MOST_DEPTH = 40
        private val POINTS = setOf('.', ',')
        private val LETTERS = ('a'..'z') + ('A'..'Z')
        private val CLOSERS = setOf("}", "&", "\\\\", "\\right", "\\end")
        private val CELL_ENDS = setOf("&", "\\\\", "\\end")

        /** Commands that change nothing here. */
        private val SILENT =
            setOf("displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "hline", "right", "end", "")

        /** The tree of a formula, without what surrounds it. */
        fun parse(source: String): MathNode {
            val parser = MathParser(source.trim())
            val rows = mutableListOf<List<MathNode>>()
            do rows += listOf(parser.row(setOf("\\\\"))) while (parser.takes("\\\\"))
            return if (rows.size == 1) rows.single().single() else Grid(rows, "c")
        }
    }
}
