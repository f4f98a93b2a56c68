package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.text.AddedToken
import io.github.mimomobile.runtime.text.ByteAlphabet
import io.github.mimomobile.runtime.text.MergeTable
import io.github.mimomobile.runtime.text.TokenTable
import io.github.mimomobile.runtime.text.Tokenizer
import io.github.mimomobile.runtime.text.TokenizerException

/**
 * The tokenizer that a GGUF file carries.
 *
 * @throws MimoException.ModelLoad It is of another type or damaged.
 */
internal fun tokenizerIn(header: GgufHeader): Tokenizer {
    val found = listOf("model", "pre").map { header.text("$TOKENIZER.$it") }
    if (found != listOf("gpt2", "qwen2")) {
        val told = found.joinToString { shown("$it") }
        throw MimoException.ModelLoad("${header.file}: tokenizer $told found, gpt2, qwen2 expected: not a MiMo-7B")
    }
    return try {
        GgufTokenizer(header).read()
    } catch (error: TokenizerException) {
        throw MimoException.ModelLoad("${header.file}: damaged vocabulary: ${error.message}; convert it again", error)
    }
}

private class GgufTokenizer(private val header: GgufHeader) {
    private val tokens = TokenTable()
    private val merges = MergeTable()
    private val added = mutableListOf<AddedToken>()
    private var bytes = ByteArray(256)

    fun read(): Tokenizer {
        val kinds = header.integers("$TOKENIZER.token_type")
        header.strings("$TOKENIZER.tokens") { id, token ->
            when (kinds.getOrNull(id)) {
                NORMAL -> tokens.add(id, bytes, toBytes(token, 0))
                CONTROL, USER_DEFINED -> add(AddedToken(id, token, special = kinds[id] == CONTROL))
            }
        }
        tokens.index()
        header.strings("$TOKENIZER.merges") { _, merge -> merge(merge) }
        merges.index()
        return Tokenizer(tokens, merges, added)
    }

    private fun add(token: AddedToken) {
        if (token.content.isEmpty()) fail("the added token ${token.id} has no content")
        added += token
        if (added.size > MOST_ADDED) fail("more than $MOST_ADDED added tokens")
    }

    private fun merge(text: String) {
        val blank = text.indexOf(' ')
        if (blank < 0) fail("a merge of one token")
        val middle = toBytes(text.substring(0, blank), 0)
        val end = toBytes(text.substring(blank + 1), middle)
        val left = tokens.find(bytes, 0, middle)
        val right = tokens.find(bytes, middle, end)
        val result = tokens.find(bytes, 0, end)
        if (left < 0 || right < 0 || result < 0) fail("a merge with a token that is not in the vocabulary")
        merges.add(left, right, result)
    }

    /** Puts the bytes that a token's characters stand for at [at]; returns the end. */
    private fun toBytes(token: String, at: Int): Int {
        val end = at + token.length
        if (end > bytes.size) bytes = bytes.copyOf(2 * end)
        for (index in token.indices) {
            val byte = ByteAlphabet.byteOf(token[index])
            if (byte == ByteAlphabet.NONE) fail("a token with '${shown(token.substring(index, index + 1))}', which stands for no byte")
            bytes[at + index] = byte.toByte()
        }
        return end
    }

    private fun fail(problem: String): Nothing = throw TokenizerException(problem)

    private companion object {
        /** enum llama_token_type. */
        const val NORMAL = 1
        const val CONTROL = 3
        const val USER_DEFINED = 4

        /** Each is looked for at each place of a text; MiMo-7B has 25. */
        const val MOST_ADDED = 1000
    }
}
