package io.github.mimomobile.demo.chat

import android.content.Context
import android.graphics.Typeface
import android.text.SpannableStringBuilder
import android.text.Spanned
import android.text.style.ForegroundColorSpan
import android.text.style.RelativeSizeSpan
import android.text.style.StyleSpan
import android.text.style.TypefaceSpan
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.math.MathSpan

/** A dollar sign is money unless it stands at a formula as LaTeX has it: without spaces inside, and no digit behind. */
private val MARKS = Regex(
    """\*\*(.+?)\*\*|`([^`\n]+)`|^#{1,6} +(.+)$|^( *)[-*] +|\\\((.+?)\\\)|(?<![\\$\w])\$(?=\S)([^$\n]*?[^\s$\\])\$(?![\d\w])""",
    RegexOption.MULTILINE,
)

private const val HEADING = 1.15f

/**
 * Bold text, code in a line, headings, bullets and formulas in a line; everything else stays as it is.
 *
 * @param mostWidth Of a formula, in pixels.
 */
fun styled(text: String, mostWidth: Int): CharSequence {
    val result = SpannableStringBuilder()
    var from = 0
    for (match in MARKS.findAll(text)) {
        result.append(text, from, match.range.first)
        val (bold, code, heading, indent, formula, dollars) = match.destructured
        when {
            bold.isNotEmpty() -> result.add(styled(bold, mostWidth), StyleSpan(Typeface.BOLD))
            code.isNotEmpty() -> result.add(code, TypefaceSpan("monospace"))
            heading.isNotEmpty() ->
                result.add(styled(heading, mostWidth), StyleSpan(Typeface.BOLD), RelativeSizeSpan(HEADING))
            formula.isNotEmpty() -> result.add(match.value, MathSpan(formula, mostWidth))
            dollars.isNotEmpty() -> result.add(match.value, MathSpan(dollars, mostWidth))
            else -> result.append(indent).append("•  ")
        }
        from = match.range.last + 1
    }
    return result.append(text, from, text.length)
}

private fun SpannableStringBuilder.add(text: CharSequence, vararg spans: Any) {
    val start = length
    append(text)
    spans.forEach { setSpan(it, start, length, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE) }
}

private val KEYWORDS = (
    "and as assert async await break case catch class const continue def default del do elif else enum except export extends " +
        "false False final finally fn for from fun func function global if impl import in include instanceof int interface " +
        "is lambda let long match mut namespace new nil None nonlocal not null object or override package pass private " +
        "protected pub public raise return self static struct super switch this throw true True try type typedef typeof " +
        "union unsigned use using val var void when where while with yield bool char double float string elseif end then " +
        "local begin select from where insert update delete create table"
    ).split(" ").toSet()

/** Languages whose comments begin with a number sign; without a name it is Python, most likely. */
private val HASH = setOf("python", "py", "bash", "sh", "shell", "ruby", "rb", "yaml", "yml", "toml", "r", "perl", "make", "")
private val DASHES = setOf("sql", "lua", "haskell", "hs")

private const val TEXT = """("{3}.*?(?:"{3}|\z)|'{3}.*?(?:'{3}|\z)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`[^`\n]*`?)"""
private const val REST = """(\b\d[\w.]*)|([A-Za-z_]\w*)"""

/** Texts, remarks, numbers and words: `//` divides in Python, `#` includes in C, and `--` counts down in both. */
private fun tokens(remark: String) = Regex("$TEXT|($remark)|$REST", RegexOption.DOT_MATCHES_ALL)

private val HASH_TOKENS = tokens("""#[^\n]*""")
private val DASH_TOKENS = tokens("""--[^\n]*""")
private val OTHER_TOKENS = tokens("""//[^\n]*|/\*.*?(?:\*/|\z)""")

/** Code with its words, texts, numbers and remarks in colors. No parser: what languages have in common. */
fun highlighted(context: Context, code: String, language: String): CharSequence {
    val result = SpannableStringBuilder(code)
    val tokens = when (language.lowercase()) {
        in HASH -> HASH_TOKENS
        in DASHES -> DASH_TOKENS
        else -> OTHER_TOKENS
    }
    for (match in tokens.findAll(code)) {
        val (text, remark, number, word) = match.destructured
        val color = when {
            text.isNotEmpty() -> R.color.code_text
            remark.isNotEmpty() -> R.color.code_remark
            number.isNotEmpty() -> R.color.code_number
            word in KEYWORDS -> R.color.code_keyword
            else -> null
        } ?: continue
        val span = ForegroundColorSpan(context.getColor(color))
        result.setSpan(span, match.range.first, match.range.last + 1, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE)
    }
    return result
}
