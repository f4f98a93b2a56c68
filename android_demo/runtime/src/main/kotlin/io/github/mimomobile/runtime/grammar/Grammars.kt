package io.github.mimomobile.runtime.grammar

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Structure
import io.github.mimomobile.runtime.Tool
import io.github.mimomobile.runtime.decode.Constraint
import io.github.mimomobile.runtime.text.Tokenizer

/** What structures come to with one tokenizer, whichever engine computes. */
internal class Grammars(private val tokenizer: Tokenizer) {
    private val trie by lazy { TokenTrie(tokenizer) }
    private val kept = object : LinkedHashMap<String, Automaton>(MOST_KEPT, 0.75f, true) {
        override fun removeEldestEntry(eldest: Map.Entry<String, Automaton>) = size > MOST_KEPT
    }

    /**
     * What restricts an answer, before its first token.
     *
     * @throws MimoException.Unsupported No grammar here can express the structure.
     * @throws IllegalArgumentException The structure is wrong, or too complicated.
     */
    fun matcher(structure: Structure): Constraint = follow(gbnf(structure))

    /** A structure as a grammar in GBNF. */
    fun gbnf(structure: Structure): String = when (structure.kind) {
        Structure.Kind.GRAMMAR -> structure.text
        Structure.Kind.CHOICE -> Choices.grammar((structure.parsed() as List<*>).map { it as String })
        Structure.Kind.SCHEMA -> SchemaGrammar().of(structure.parsed() as Map<*, *>)
        Structure.Kind.REGEX -> RegexGrammar.of(structure.text)
    }

    /**
     * What restricts calls after the first `<tool_call>`, or with it if it is to come [atOnce].
     *
     * @throws MimoException.Unsupported A strict tool's schema has what no grammar here can express.
     */
    fun calls(tools: List<Tool>, atOnce: Boolean, several: Boolean): Constraint =
        follow(CallGrammar.of(tools, atOnce, several))

    private fun follow(text: String): Constraint =
        Matcher(kept.getOrPut(text) { Automaton(GrammarReader.read(text)) }, { trie }, tokenizer)

    private companion object {
        /** So many grammars are kept, for those who ask again with the same one. */
        const val MOST_KEPT = 4
    }
}
