package io.github.mimomobile.runtime.grammar

import io.github.mimomobile.runtime.decode.Constraint
import io.github.mimomobile.runtime.text.Tokenizer

/** A grammar that follows one text. Where the text can be one only, it can be cut into tokens in one way only. */
internal class Matcher(
    private val automaton: Automaton,
    private val trie: () -> TokenTrie,
    private val tokenizer: Tokenizer,
) : Constraint {
    private val text = CertainText(automaton, trie, tokenizer)
    private var state = automaton.start
    private var last: Int? = null

    /** What comes next in any case, once it was asked for. */
    private var known: IntArray? = null

    /** The first bytes of a character that is not whole yet. */
    private var begun = ByteArray(0)

    override val over: Boolean get() = begun.isEmpty() && state.isWhole && state.isOver

    override fun mask(logits: FloatArray) {
        val only = certain().firstOrNull()
        if (only != null) {
            for (token in 0 until tokenizer.size) if (token != only) logits[token] = Constraint.MASKED
            return
        }
        val allowed = if (begun.isEmpty()) automaton.mask(state) { found() } else found()
        for (token in 0 until tokenizer.size) {
            if (allowed[token / Long.SIZE_BITS] ushr token % Long.SIZE_BITS and 1L == 0L) logits[token] = Constraint.MASKED
        }
    }

    private fun found(): LongArray = trie().allowed(automaton, state, begun).also { found ->
        val isWhole = begun.isEmpty() && state.isWhole
        for (end in tokenizer.stopIds) {
            val bit = 1L shl end % Long.SIZE_BITS
            val word = found[end / Long.SIZE_BITS]
            found[end / Long.SIZE_BITS] = if (isWhole) word or bit else word and bit.inv()
        }
    }

    override fun certain(): IntArray {
        automaton.begin()
        return known ?: text.tokens(state, begun, last).also { known = it }
    }

    override fun accept(token: Int) {
        if (token in tokenizer.stopIds) return
        automaton.begin()
        val bytes = tokenizer.tokenBytes(token)
        val after = if (bytes.isEmpty()) null else automaton.after(state, begun, bytes)
        state = checkNotNull(after) { "token $token, which the grammar does not allow" }.first
        begun = after.second
        last = token
        known = null
    }

    override fun close() = Unit
}
