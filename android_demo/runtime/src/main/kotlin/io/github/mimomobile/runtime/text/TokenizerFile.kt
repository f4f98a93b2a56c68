package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.JsonReader
import io.github.mimomobile.runtime.files.untrustedInput
import java.io.File
import java.io.IOException

/**
 * Reads a tokenizer.json, as Hugging Face's tokenizers library writes it, in one pass.
 *
 * What is in it that would give other ids than [Tokenizer] does is an error, not passed over.
 */
internal class TokenizerFile private constructor(private val json: JsonReader) {
    private val tokens = TokenTable()
    private val merges = MergeTable()
    private val added = mutableListOf<AddedToken>()
    private var bytes = ByteArray(256)

    private fun read(): Tokenizer {
        val seen = mutableSetOf<String>()
        json.readObject { name ->
            if (!seen.add(name)) fail("$name is there twice")
            when (name) {
                "added_tokens" -> json.readArray {
                    added += addedToken()
                    if (added.size > MOST_ADDED) fail("more than $MOST_ADDED added tokens")
                }
                "normalizer" -> check(name, "NFC", (json.readValue() as? Map<*, *>)?.get("type"))
                "pre_tokenizer" -> checkPreTokenizer(json.readValue())
                "model" -> readModel()
                "truncation", "padding" -> check(name, null, json.readValue())
                else -> json.skipValue()
            }
        }
        val missing = listOf("added_tokens", "normalizer", "pre_tokenizer", "model") - seen
        if (missing.isNotEmpty()) throw TokenizerException("no ${missing.first()}")
        return Tokenizer(tokens, merges, added)
    }

    private fun readModel() = json.readObject { name ->
        when (name) {
            "type" -> check(name, "BPE", json.readString())
            "vocab" -> readVocabulary()
            "merges" -> json.readArray { readMerge() }.also { merges.index() }
            "ignore_merges", "byte_fallback", "fuse_unk" -> check(name, false, json.readValue())
            "dropout", "unk_token" -> check(name, null, json.readValue())
            "continuing_subword_prefix", "end_of_word_suffix" -> check(name, "", json.readValue() ?: "")
            else -> json.skipValue()
        }
    }

    private fun readVocabulary() {
        json.readFields { nameLength ->
            val length = toBytes(0, nameLength, 0)
            tokens.add(checkedId(json.readInt()), bytes, length)
        }
        tokens.index()
    }

    /** A merge is two tokens, in an array or with a blank between them. */
    private fun readMerge() {
        var middle = 0
        var length = 0
        if (json.peek() == '[') {
            json.readArray {
                middle = length
                length = toBytes(0, json.readChars(), length)
            }
        } else {
            val end = json.readChars()
            val blank = (0 until end).firstOrNull { json.chars[it] == ' ' } ?: fail("a merge of one token")
            middle = toBytes(0, blank, 0)
            length = toBytes(blank + 1, end, middle)
        }
        val left = tokens.find(bytes, 0, middle)
        val right = tokens.find(bytes, middle, length)
        val result = tokens.find(bytes, 0, length)
        if (left < 0 || right < 0 || result < 0) fail("a merge with a token that is not in the vocabulary")
        if (merges.size == MOST_IDS) fail("more than $MOST_IDS merges")
        merges.add(left, right, result)
    }

    /** Puts the bytes that characters [from] until [until] of the last string stand for at [at]; returns the end. */
    private fun toBytes(from: Int, until: Int, at: Int): Int {
        val end = at + until - from
        if (end > bytes.size) bytes = bytes.copyOf(2 * end)
        for (index in from until until) {
            val byte = ByteAlphabet.byteOf(json.chars[index])
            if (byte == ByteAlphabet.NONE) fail("a token with '${json.chars[index]}', which stands for no byte")
            bytes[at + index - from] = byte.toByte()
        }
        return end
    }

    private fun addedToken(): AddedToken {
        var id = -1
        var content = ""
        var special = false
        json.readObject { name ->
            when (name) {
                "id" -> id = checkedId(json.readInt())
                "content" -> content = json.readString()
                "special" -> special = json.readValue() == true
                "single_word", "lstrip", "rstrip", "normalized" -> check(name, false, json.readValue())
                else -> json.skipValue()
            }
        }
        if (id < 0 || content.isEmpty()) fail("an added token without id or content")
        return AddedToken(id, content, special)
    }

    private fun checkPreTokenizer(found: Any?) {
        val steps = (found as? Map<*, *>)?.get("pretokenizers") as? List<*>
        val (split, bytes) = if (steps?.size == 2) steps.map { it as? Map<*, *> } else listOf(null, null)
        fun values(step: Map<*, *>?, vararg names: String) = names.map { step?.get(it) }
        check("pre_tokenizer", listOf("Split", "Isolated", false), values(split, "type", "behavior", "invert"))
        check("pre_tokenizer", QWEN2_PATTERN, (split?.get("pattern") as? Map<*, *>)?.get("Regex"))
        val byteLevel = values(bytes, "type", "add_prefix_space", "use_regex")
        check("pre_tokenizer", listOf("ByteLevel", false, false), byteLevel)
    }

    private fun check(name: String, expected: Any?, found: Any?) {
        if (found != expected) fail("$name $found found, $expected expected; not MiMo's tokenizer")
    }

    private fun checkedId(id: Int): Int = if (id in 0 until MOST_IDS) id else fail("token id $id is out of range")

    private fun fail(problem: String): Nothing = throw TokenizerException(problem)

    companion object {
        /** MiMo-7B has 151,680 ids; tables for many more would fill an app's memory. */
        private const val MOST_IDS = 1 shl 20

        /** Each is looked for at each place of a text; MiMo-7B has 25. */
        private const val MOST_ADDED = 1000

        /**
         * The tokenizer in [file].
         *
         * @throws TokenizerException The file is missing, damaged or not MiMo's.
         */
        fun read(file: File): Tokenizer = try {
            untrustedInput(file).use { TokenizerFile(JsonReader(it)).read() }
        } catch (error: TokenizerException) {
            throw TokenizerException("$file: ${error.message}; convert the checkpoint again", error)
        } catch (error: JsonException) {
            throw TokenizerException("$file: damaged JSON ${error.message}; copy or convert it again", error)
        } catch (error: IOException) {
            throw TokenizerException("$file: cannot be read (${error.message})", error)
        }
    }
}
