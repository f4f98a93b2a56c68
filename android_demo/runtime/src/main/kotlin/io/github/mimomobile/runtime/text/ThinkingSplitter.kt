package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.Channel

internal const val THINK_OPEN: String = "<think>"
internal const val THINK_CLOSE: String = "</think>"

/** A part of a text that belongs to one channel. */
internal data class Piece(val channel: Channel, val text: String)

/**
 * Text in, pieces of thinking and answer out; tags and the white space around them belong to neither.
 *
 * `<think>` is plain text in MiMo's vocabulary, of several tokens, and may be cut anywhere.
 */
internal class ThinkingSplitter {
    /** [START] until it is clear whether the text opens with `<think>`. */
    enum class State { START, THINKING, ANSWER }

    var state: State = State.START
        private set

    /** The channel of what comes next, as far as is known. */
    val channel: Channel get() = if (state == State.ANSWER) Channel.ANSWER else Channel.THINKING

    private var held = ""
    private var begun = false

    /** So many of the characters that are held were shown before. */
    private var shown = 0

    /** Takes in what a text said before it was cut, of which nothing comes out again. */
    fun resume(text: String) {
        feed(text)
        shown = held.length
    }

    /** The pieces that are certain now. */
    fun feed(text: String): List<Piece> {
        held += text
        val pieces = mutableListOf<Piece>()
        if (state == State.START && !decide()) return pieces
        if (state == State.THINKING) think(pieces)
        if (state == State.ANSWER) {
            val answer = held
            held = ""
            piece(pieces, Channel.ANSWER, answer)
        }
        return pieces
    }

    /** What was held back, at the end; a text that ends within `<think>` has neither thinking nor answer. */
    fun flush(): List<Piece> = mutableListOf<Piece>().also {
        if (state != State.START) piece(it, channel, held.drop(shown))
        held = ""
    }

    private fun decide(): Boolean {
        val begin = held.withoutLeadingSpace()
        when {
            begin.startsWith(THINK_OPEN) -> {
                state = State.THINKING
                held = begin.substring(THINK_OPEN.length)
            }
            THINK_OPEN.startsWith(begin) -> return false
            else -> state = State.ANSWER
        }
        return true
    }

    private fun think(pieces: MutableList<Piece>) {
        val close = held.indexOf(THINK_CLOSE)
        if (close >= 0) {
            piece(pieces, Channel.THINKING, held.substring(0, close).withoutTrailingSpace().drop(shown))
            shown = 0
            state = State.ANSWER
            held = held.substring(close + THINK_CLOSE.length)
            begun = false
        } else {
            // White space before the tag is not thinking.
            val certain = held.dropLast(overlap(held, THINK_CLOSE)).withoutTrailingSpace()
            held = held.substring(certain.length)
            piece(pieces, Channel.THINKING, certain.drop(shown))
            shown = maxOf(0, shown - certain.length)
        }
    }

    /** Adds a piece; a channel does not begin with white space. */
    private fun piece(pieces: MutableList<Piece>, channel: Channel, text: String) {
        val shown = if (begun) text else text.withoutLeadingSpace()
        if (shown.isEmpty()) return
        begun = true
        pieces += Piece(channel, shown)
    }
}
