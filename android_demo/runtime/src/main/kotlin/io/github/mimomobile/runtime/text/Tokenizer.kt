package io.github.mimomobile.runtime.text

import java.text.Normalizer

/** A tokenizer.json that is damaged or not MiMo's. */
internal class TokenizerException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** A token that is found in texts before all else. */
internal class AddedToken(val id: Int, val content: String, val special: Boolean)

/** A part of a prompt: a text, or the name of a special token. */
internal data class Segment(val text: String, val special: Boolean = false)

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

    /** Token ids; names of special tokens in the text become these tokens. */
    fun encode(text: String): IntArray = encode(segments(text))

    /** Token ids; texts are encoded as text, with names of special tokens in them too. */
    fun encode(segments: List<Segment>): IntArray {
        val out = IntList(segments.sumOf { it.text.length } / 3 + 8)
        val text = StringBuilder()
        for (segment in segments) {
            if (!segment.special) {
                text.append(segment.text)
                continue
            }
            encodeText(text.toString(), out)
            text.clear()
            out.add(added.first { it.special && it.content == segment.text }.id)
        }
        encodeText(text.toString(), out)
        return out.toIntArray()
    }

    /** The text cut at the names of special tokens in it. */
    fun segments(text: String): List<Segment> {
        val segments = mutableListOf<Segment>()
        cut(text, special = true, { segments += Segment(it) }, { segments += Segment(it.content, special = true) })
        return segments
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

    /** Added tokens that are not special are found in every text: they are text themselves. */
    private fun encodeText(text: String, out: IntList) =
        cut(text, special = false, { encodePiece(it, out) }, { out.add(it.id) })

    /** Gives [text] in turns: what is between added tokens of one kind, and these tokens. */
    private inline fun cut(text: String, special: Boolean, piece: (String) -> Unit, token: (AddedToken) -> Unit) {
        var start = 0
        var place = 0
        while (place < text.length) {
            val found = addedAt(text, place)
            if (found != null && found.special == special) {
                piece(text.substring(start, place))
                token(found)
                start = place + found.content.length
            }
            place += found?.content?.length ?: 1
        }
        piece(text.substring(start))
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
