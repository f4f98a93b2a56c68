package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.THINK_CLOSE
import io.github.mimomobile.runtime.text.Tokenizer
import io.github.mimomobile.runtime.text.isStripped

/**
 * An answer that a structure restricts, behind thinking that is free.
 *
 * The thinking is opened by tokens that are forced, and is free. The token that closes it brings nothing of the answer
 * yet: what the structure restricts begins with a token of its own, after an empty line that is forced, too.
 *
 * @param thinks Whether thinking comes before the answer.
 */
internal class StructuredAnswer(
    private val matcher: Constraint,
    private val tokenizer: Tokenizer,
    thinks: Boolean,
) : AutoCloseable {
    private val crossing = if (thinks) Crossing(tokenizer, THINK_CLOSE) { it.any { char -> !isStripped(char.code) } } else null

    /** Whether the thinking is not over yet. */
    var thinking: Boolean = thinks
        private set
    private var opened = !thinks
    private var between = false

    /** The last bytes of the thinking, one a character, or what came after it. */
    private var text = ""

    /** Whether the answer is whole and nothing can follow. */
    val over: Boolean get() = !thinking && !between && matcher.over

    /** The answer's tokens that come next in any case, of text that can be one only. */
    fun certain(): IntArray = if (thinking || between) IntArray(0) else matcher.certain()

    /** The tokens that come next in any case. */
    fun forced(): IntArray {
        var text = ""
        if (!opened) {
            opened = true
            text = ChatTemplate.OPEN_THINKING
        } else if (between) {
            val came = this.text
            text = if (BEFORE_ANSWER.startsWith(came)) BEFORE_ANSWER.substring(came.length) else ""
            between = text.isNotEmpty()
        }
        return if (text.isEmpty()) IntArray(0) else tokenizer.encode(text)
    }

    /** Puts [Constraint.MASKED] in the place of every logit whose token may not come next. */
    fun mask(logits: FloatArray) {
        if (thinking) crossing?.mask(text, logits) else if (!between) matcher.mask(logits)
    }

    /** Goes on by [token], which is part of the text now. */
    fun accept(token: Int) {
        if (!thinking && !between) {
            matcher.accept(token)
            return
        }
        text += latin(tokenizer, token)
        if (!thinking) return
        val close = text.indexOf(THINK_CLOSE)
        thinking = close < 0
        between = !thinking
        text = if (between) text.substring(close + THINK_CLOSE.length) else text.takeLast(THINK_CLOSE.length - 1)
    }

    override fun close() = matcher.close()

    private companion object {
        /** What stands between the end of the thinking and the answer. */
        const val BEFORE_ANSWER = "\n\n"
    }
}

/**
 * Tokens that end [tag] and bring more than it, by how much of it was there: what follows a tag begins with a token of
 * its own.
 *
 * @param isMore Whether so many bytes more, one a character, may not come.
 */
internal class Crossing(tokenizer: Tokenizer, private val tag: String, isMore: (String) -> Boolean) {
    private val found = List(tag.length) { mutableListOf<Int>() }

    init {
        val last = tag.last()
        for (token in 0 until tokenizer.size) {
            val text = latin(tokenizer, token)
            if (last !in text) continue
            val within = text.indexOf(tag).let { it >= 0 && isMore(text.substring(it + tag.length)) }
            for (begun in tag.indices) {
                val rest = tag.substring(begun)
                if (within || text.startsWith(rest) && isMore(text.substring(rest.length))) found[begun] += token
            }
        }
    }

    /** Masks these tokens after [text], whose end may be the beginning of the tag. */
    fun mask(text: String, logits: FloatArray) {
        val begun = (tag.length - 1 downTo 1).firstOrNull { text.endsWith(tag.substring(0, it)) } ?: 0
        for (token in found[begun]) logits[token] = Constraint.MASKED
    }
}

/** The bytes of a token as characters from 0 to 255. */
internal fun latin(tokenizer: Tokenizer, token: Int): String = String(tokenizer.tokenBytes(token), Charsets.ISO_8859_1)
