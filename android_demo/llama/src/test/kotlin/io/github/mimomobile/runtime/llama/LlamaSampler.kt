package io.github.mimomobile.runtime.llama

import com.sun.jna.Library
import com.sun.jna.Memory
import com.sun.jna.Native
import com.sun.jna.Pointer
import com.sun.jna.Structure

/** What samplers read and change; [data] are `size` records of [LlamaTokenData.BYTES]. */
internal open class LlamaTokenDataArray : Structure() {
    override fun getFieldOrder() = listOf("data", "size", "selected", "sorted")

    @JvmField var data: Pointer? = null
    @JvmField var size: Long = 0
    @JvmField var selected: Long = -1
    @JvmField var sorted: Byte = 0
}

/** A token and its logit, in [LlamaTokenDataArray]; read and written at once rather than one by one. */
internal open class LlamaTokenData : Structure() {
    override fun getFieldOrder() = listOf("id", "logit", "p")

    @JvmField var id: Int = 0
    @JvmField var logit: Float = 0f
    @JvmField var p: Float = 0f

    companion object {
        const val BYTES: Long = 12
    }
}

/** llama.cpp's grammar sampler, by which ours is measured. */
@Suppress("FunctionName")
internal interface LlamaSamplerApi : Library {
    /** Null when the grammar cannot be parsed. */
    fun llama_sampler_init_grammar(vocab: Pointer, grammar: String, root: String): Pointer?

    fun llama_sampler_accept(sampler: Pointer, token: Int)

    fun llama_sampler_apply(sampler: Pointer, candidates: LlamaTokenDataArray)

    fun llama_sampler_reset(sampler: Pointer)

    fun llama_sampler_clone(sampler: Pointer): Pointer?

    fun llama_sampler_free(sampler: Pointer)

    fun llama_vocab_is_eog(vocab: Pointer, token: Int): Byte
}

/** A grammar of llama.cpp's on [vocab], with ids below [size]. */
internal class LlamaSampler(private val vocab: Pointer, grammar: String, private val size: Int) : AutoCloseable {
    private val records = IntArray(FIELDS * size)
    private val memory = Memory(LlamaTokenData.BYTES * size)
    private val sampler = checkNotNull(api.llama_sampler_init_grammar(vocab, grammar, "root")) { grammar }

    /** Which tokens may come next. */
    fun allowed(): BooleanArray {
        for (token in 0 until size) {
            records[FIELDS * token] = token
            records[FIELDS * token + 1] = 0
        }
        memory.write(0, records, 0, records.size)
        val candidates = LlamaTokenDataArray()
        candidates.data = memory
        candidates.size = size.toLong()
        api.llama_sampler_apply(sampler, candidates)
        memory.read(0, records, 0, records.size)
        return BooleanArray(size) { records[FIELDS * it + 1] == 0 }
    }

    fun accept(token: Int) = api.llama_sampler_accept(sampler, token)

    /** Whether llama.cpp takes a token for the end of a text. */
    fun isEnd(token: Int): Boolean = api.llama_vocab_is_eog(vocab, token) != 0.toByte()

    override fun close() = api.llama_sampler_free(sampler)

    private companion object {
        /** Of a token's record: its id, its logit, its probability. */
        const val FIELDS = 3
        val api: LlamaSamplerApi by lazy {
            Libllama.api
            Native.load("llama", LlamaSamplerApi::class.java)
        }
    }
}
