package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.text.Json

/**
 * What the answer of a generation must be: JSON of a schema, what a regular expression matches, one of some texts, or
 * what a grammar describes. Tokens that would leave it are never taken; the thinking before the answer stays free.
 *
 * The answer is whole when the generation ends with [FinishReason.STOP] and no stop string cut it. A part of
 * a schema or of an expression that is unknown here is a [MimoException.Unsupported].
 *
 * @property kind What [text] is.
 * @property text The schema or the choices as JSON, the expression, or the grammar.
 */
public data class Structure(val kind: Kind, val text: String) {
    /** As Python names them. */
    public enum class Kind { SCHEMA, REGEX, CHOICE, GRAMMAR }

    init {
        val name = kind.name.lowercase()
        require(text.length in 1..MOST_CHARACTERS) {
            "$name: ${text.length} characters found, from 1 to $MOST_CHARACTERS expected; make it shorter"
        }
        if (kind == Kind.SCHEMA) require(parsed() is Map<*, *>) { "schema: a JSON object expected" }
        if (kind == Kind.CHOICE) {
            val texts = parsed() as? List<*>
            require(!texts.isNullOrEmpty() && texts.all { it is String && it.isNotEmpty() }) {
                "choice: a list of texts expected, at least one, and none of them empty"
            }
        }
    }

    /** The text of a schema or of choices as values. */
    internal fun parsed(): Any? = try {
        Json.parse(text)
    } catch (error: JsonException) {
        throw IllegalArgumentException("${kind.name.lowercase()}: no JSON: ${error.message}", error)
    }

    public companion object {
        /** So long a structure may be, since it may come from a stranger. */
        internal const val MOST_CHARACTERS: Int = 65_536

        /** JSON that a JSON schema, given as its text, describes. Objects have their properties in the schema's order. */
        public fun schema(text: String): Structure = Structure(Kind.SCHEMA, text)

        /** What a regular expression matches from its beginning to its end, in Rust's syntax without flags and look-around. */
        public fun regex(expression: String): Structure = Structure(Kind.REGEX, expression)

        /** One of some texts. */
        public fun choice(texts: List<String>): Structure = Structure(Kind.CHOICE, Json.text(texts))

        /** What a grammar in GBNF, the form of llama.cpp's grammars, describes, with a rule `root`. */
        public fun grammar(text: String): Structure = Structure(Kind.GRAMMAR, text)
    }
}
