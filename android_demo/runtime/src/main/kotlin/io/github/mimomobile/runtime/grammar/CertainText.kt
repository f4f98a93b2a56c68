package io.github.mimomobile.runtime.grammar

import io.github.mimomobile.runtime.text.Segment
import io.github.mimomobile.runtime.text.Tokenizer
import java.io.ByteArrayOutputStream

/**
 * Cuts text that can be one only into tokens as the tokenizer does, for models have seen it cut so: as llguidance does.
 *
 * The last tokens are left out where what follows may be part of a longer token.
 */
internal class CertainText(
    private val automaton: Automaton,
    private val trie: () -> TokenTrie,
    private val tokenizer: Tokenizer,
) {
    /** The tokens that come next in any case, after [last] and [begun], the first bytes of a character that is not whole. */
    fun tokens(state: State, begun: ByteArray, last: Int?): IntArray {
        val text = ByteArrayOutputStream()
        var here = state
        var rest = begun
        while (text.size() < MOST_BYTES && (rest.isNotEmpty() || !here.isWhole)) {
            val (first, final) = automaton.reach(here, rest) ?: break
            val low = bytes(first)
            val high = bytes(final)
            var shared = 0
            while (shared < minOf(low.size, high.size) && low[shared] == high[shared]) shared++
            text.write(low, rest.size, shared - rest.size)
            rest = if (first == final) ByteArray(0) else low.copyOf(shared)
            if (first != final) break
            here = checkNotNull(automaton.next(here, first))
        }
        return if (text.size() == 0) IntArray(0) else cut(text.toByteArray(), last, here, rest)
    }

    /** [text], behind which [here] and [rest] are. A token may go on where the last one ended, and so is cut with it. */
    private fun cut(text: ByteArray, last: Int?, here: State, rest: ByteArray): IntArray {
        var tokens = IntArray(0)
        if (last != null) {
            val whole = cut(tokenizer.tokenBytes(last) + text)
            if (whole.firstOrNull() == last) tokens = whole.copyOfRange(1, whole.size)
        }
        if (!meant(tokens, text)) tokens = cut(text)
        // Text that the tokenizer normalizes has other bytes then: what the grammar says is not cut so.
        return if (meant(tokens, text)) tokens.copyOf(tokens.size - open(tokens, here, rest)) else IntArray(0)
    }

    private fun meant(tokens: IntArray, text: ByteArray) = joined(tokens.asList()).contentEquals(text)

    private fun joined(tokens: List<Int>): ByteArray =
        ByteArrayOutputStream().also { out -> tokens.forEach { out.write(tokenizer.tokenBytes(it)) } }.toByteArray()

    /** How many of the last tokens hold a part that may be the beginning of a longer token. */
    private fun open(tokens: IntArray, here: State, rest: ByteArray): Int {
        val end = joined(tokens.takeLast(MOST_OPEN))
        val start = end.indices.firstOrNull { trie().goesOn(automaton, here, rest, end.copyOfRange(it, end.size)) } ?: return 0
        var size = 0
        return 1 + tokens.reversed().takeWhile { token ->
            size += tokenizer.tokenBytes(token).size
            size < end.size - start
        }.size
    }

    private fun cut(bytes: ByteArray): IntArray {
        val found = mutableListOf<Int>()
        var start = 0
        var at = 0
        while (at <= bytes.size) {
            val length = if (at < bytes.size) length(bytes, at) else 0
            if (length > 0) {
                at += length
                continue
            }
            val text = String(bytes, start, at - start, Charsets.UTF_8)
            if (at > start) found += tokenizer.encode(listOf(Segment(text))).asList()
            if (at == bytes.size) break
            val end = at - length
            while (at < end) {
                val size = (end - at downTo 1).firstOrNull { trie().piece(bytes.copyOfRange(at, at + it)) != null } ?: break
                found += checkNotNull(trie().piece(bytes.copyOfRange(at, at + size)))
                at += size
            }
            at = end
            start = end
        }
        return found.toIntArray()
    }

    /** Bytes of the character at a place; where there is none, how many bytes begin one, less than 0. */
    private fun length(bytes: ByteArray, at: Int): Int {
        var begun = 1
        for (size in 1..minOf(LONGEST_CHARACTER, bytes.size - at)) {
            val decoded = Decoded.of(bytes.copyOfRange(at, at + size)) ?: break
            if (decoded.rest.isEmpty()) return size
            begun = size
        }
        return -begun
    }

    companion object {
        fun bytes(char: Int): ByteArray = String(Character.toChars(char)).encodeToByteArray()

        /** Bytes of certain text that are looked for: more tokens than a draft has. */
        private const val MOST_BYTES = 128

        /** So many tokens at the end of certain text may be cut otherwise when more is known. */
        private const val MOST_OPEN = 4
        private const val LONGEST_CHARACTER = 4
    }
}
