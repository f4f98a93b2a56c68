package io.github.mimomobile.demo.chat

import android.graphics.Typeface
import android.text.SpannableStringBuilder
import android.text.Spanned
import android.text.style.RelativeSizeSpan
import android.text.style.StyleSpan
import android.text.style.TypefaceSpan

/** A part of an answer. */
sealed interface Block {
    val text: String

    data class Prose(override val text: String) : Block

    data class Code(override val text: String) : Block
}

private const val FENCE = "```"

/** What is between lines of three backticks is code, also while the closing line is still to come. At least one. */
fun blocksOf(text: String): List<Block> {
    val blocks = mutableListOf<Block>()
    val lines = mutableListOf<String>()
    var code = false
    fun end() {
        val part = lines.joinToString("\n").trim('\n')
        if (part.isNotEmpty()) blocks += if (code) Block.Code(part) else Block.Prose(part)
        lines.clear()
    }
    for (line in text.split('\n')) {
        if (line.trimStart().startsWith(FENCE)) {
            end()
            code = !code
        } else {
            lines += line
        }
    }
    end()
    return blocks.ifEmpty { listOf(Block.Prose("")) }
}

private val MARKS = Regex("""\*\*(.+?)\*\*|`([^`\n]+)`|^#{1,6} +(.+)$|^( *)[-*] +""", RegexOption.MULTILINE)

/** Bold text, code in a line, headings and bullets of Markdown; everything else stays as it is. */
fun styled(text: String): CharSequence {
    val result = SpannableStringBuilder()
    var from = 0
    for (match in MARKS.findAll(text)) {
        result.append(text, from, match.range.first)
        val (bold, code, heading) = match.destructured
        when {
            bold.isNotEmpty() -> result.add(bold, StyleSpan(Typeface.BOLD))
            code.isNotEmpty() -> result.add(code, TypefaceSpan("monospace"))
            heading.isNotEmpty() -> result.add(heading, StyleSpan(Typeface.BOLD), RelativeSizeSpan(HEADING))
            else -> result.append(match.groupValues[4]).append("•  ")
        }
        from = match.range.last + 1
    }
    return result.append(text, from, text.length)
}

private const val HEADING = 1.15f

private fun SpannableStringBuilder.add(text: String, vararg spans: Any) {
    val start = length
    append(text)
    spans.forEach { setSpan(it, start, length, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE) }
}
