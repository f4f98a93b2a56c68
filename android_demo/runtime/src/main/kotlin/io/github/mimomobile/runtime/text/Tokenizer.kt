package io.github.mimomobile.runtime.text

import java.text.Normalizer

/** A tokenizer.json that is damaged or not MiMo's. */
internal class TokenizerException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** A token that is found in texts before all else. */
internal class AddedToken(val id: Int, val content: String, val special: Boolean)

/**
 * MiMo's tokenizer, which is Qwen2's: text ↔ ids, the same as Hugging Face's. Safe to use from several threads.
 *
 * @property size One more than the largest id in use; larger rows of the logits are padding.
 * @property stopIds Tokens that end a turn or a text.
 */
internal class Tokenizer(private val tokens: TokenTable, merges: MergeTable, added: List<AddedToken>) {
    private val bpe = Bpe(tokens, merges)
    private val added = added.sortedByDescending { it.content.length }
    private val addedById = added.associateBy { it.id }

    val size: Int = maxOf(tokens.size, (added.maxOfOrNull { it.id } ?: -1) + 1)

    val stopIds: Set<Int> = STOP_TOKENS.map { stop ->
        added.find { it.content == stop }?.id ?: throw TokenizerException("no token $stop; not MiMo's tokenizer")
    }.toSet()

    /** Token ids; special tokens written out in the text become themselves. */
    fun encode(text: String): IntArray {
        val out = IntList(text.length / 3 + 8)
        var start = 0
        var place = 0
        while (place < text.length) {
            val token = addedAt(text, place)
            if (token == null) {
                place++
                continue
            }
            encodePiece(text.substring(start, place), out)
            out.add(token.id)
            place += token.content.length
            start = place
        }
        encodePiece(text.substring(start), out)
        return out.toIntArray()
    }

    /** The text of ids, malformed UTF-8 replaced. */
    fun decode(ids: IntArray): String {
        val detokenizer = Detokenizer()
        return ids.joinToString("") { detokenizer.feed(tokenBytes(it)) } + detokenizer.flush()
    }

    /** The bytes of one token; none for control tokens and padding. */
    fun tokenBytes(id: Int): ByteArray {
        val token = addedById[id] ?: return tokens.bytes(id)
        return if (token.special) ByteArray(0) else token.content.encodeToByteArray()
    }

    private fun addedAt(text: String, place: Int): AddedToken? = added.find { text.startsWith(it.content, place) }

    private fun encodePiece(piece: String, out: IntList) {
        val normal = Normalizer.normalize(piece, Normalizer.Form.NFC)
        PreTokenizer.forEachWord(normal) { start, end ->
            bpe.encode(normal.substring(start, end).encodeToByteArray(), out)
        }
    }

    private companion object {
        val STOP_TOKENS = listOf("<|im_end|>", "<|endoftext|>")
    }
}
