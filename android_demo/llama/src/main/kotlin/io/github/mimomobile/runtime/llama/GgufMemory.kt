package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Speculation
import java.io.File

/**
 * What a GGUF file takes of memory, known before it is loaded: for apps that let users choose a context. The engine checks
 * the same sums against [EngineConfig.availableBytes].
 *
 * @property trainedTokens The longest context that it can be loaded with.
 * @property fileBytes Of its weights, with the MTP layer's.
 * @property kvCache What its KV cache is when nothing else is asked for.
 */
public class GgufMemory private constructor(
    private val sums: GgufSums,
    public val fileBytes: Long,
    public val kvCache: KvCache,
) {
    public val trainedTokens: Int get() = sums.model.contextLength

    /**
     * What must be available for it.
     *
     * @param contextLength Tokens.
     * @param repack Whether its weights are copied into the order that the CPU reads fastest, as [EngineConfig.repack], or
     *   read from the mapped file, whose pages are in the sum, too.
     */
    public fun neededBytes(contextLength: Int, repack: Boolean, kvCache: KvCache = this.kvCache): Long =
        need(contextLength, repack, kvCache).roomBytes

    /** Those of [neededBytes] that are pages of the file, which Android may take back. */
    public fun mappedBytes(repack: Boolean): Long = need(1, repack, kvCache).mappedBytes

    private fun need(contextLength: Int, repack: Boolean, kvCache: KvCache): MemoryNeed {
        require(contextLength > 0) { "contextLength is $contextLength" }
        return sums.need(contextLength, kvCache, repack, sums.hasDrafter)
    }

    public companion object {
        /**
         * Reads a file's header, and that of the MTP layer beside it, which takes some tenths of a second for MiMo-7B; llama.cpp is
         * not loaded for it.
         *
         * @param file The trunk. It may be anybody's.
         * @param drafts Whether its MTP layer counts, where there is one: not with [Speculation.OFF] or NGRAM.
         * @throws MimoException.ModelLoad It is no MiMo-7B, or damaged.
         */
        public fun read(file: File, drafts: Boolean = true): GgufMemory {
            val config = EngineConfig { speculation = if (drafts) Speculation.AUTO else Speculation.OFF }
            val needs = GgufNeeds.of(file, config)
            return GgufMemory(needs.sums, needs.fileBytes, needs.kvCache)
        }
    }
}
