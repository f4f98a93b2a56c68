package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.KvCache
import java.util.Locale

/**
 * What one way of loading a GGUF file keeps in memory.
 *
 * @property copiedBytes Weights that are copied in another order, as kernels want them.
 * @property kvBytes The KV caches of a full context.
 * @property activationBytes What the engine computes in, and the engine itself.
 * @property mappedBytes Weights that every token reads from a file's own pages; without room for them it crawls.
 * @property copies Whether llama.cpp copies the weights.
 * @property drafts Whether the MTP layer is loaded.
 */
internal data class MemoryNeed(
    val copiedBytes: Long,
    val kvBytes: Long,
    val activationBytes: Long,
    val mappedBytes: Long,
    val copies: Boolean,
    val drafts: Boolean,
) {
    /** What it takes. */
    val totalBytes: Long get() = copiedBytes + kvBytes + activationBytes + mappedBytes

    /**
     * What there must be room for. Needs are known to a tenth. Where they are more than was thought, Android takes mapped
     * pages back, which is slow, but ends an app for memory of its own: copied weights need a tenth more room.
     */
    val roomBytes: Long get() = totalBytes + copiedBytes / 10

    override fun toString(): String {
        val way = (if (copies) "repacked" else "not repacked") + if (drafts) ", with its MTP layer" else ""
        return "$way ${gigabytes(totalBytes - mappedBytes)} + ${gigabytes(mappedBytes)} mapped"
    }
}

/** Bytes of a file's weights: all, and those of them that are copied when llama.cpp may. */
internal class GgufWeights(val bytes: Long, val repackedBytes: Long) {
    companion object {
        fun of(file: GgufHeader, isArm: Boolean): GgufWeights {
            val types = if (isArm) REPACKED_ON_ARM else REPACKED_ELSEWHERE
            val repacked = file.tensors.filter { (name, each) ->
                name != "token_embd.weight" && each.type in types && each.shape.size == 2 && each.shape[0] % REPACKED_ROWS == 0L
            }
            return GgufWeights(file.tensors.values.sumOf { it.bytes }, repacked.values.sumOf { it.bytes })
        }

        /** A matrix is repacked when its rows are a multiple of this. */
        private const val REPACKED_ROWS = 8L

        // Source: https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/src/ggml-cpu/repack.cpp
        private val REPACKED_ELSEWHERE = setOf(GgufType.Q4_0, GgufType.Q4_K, GgufType.IQ4_NL)
        private val REPACKED_ON_ARM =
            REPACKED_ELSEWHERE + setOf(GgufType.Q5_K, GgufType.Q6_K, GgufType.Q8_0, GgufType.MXFP4)
    }
}

/**
 * What a GGUF model takes of memory, by a few numbers of its files.
 *
 * @param mtp Of the file with the MTP layer, where that is another one than the trunk's.
 * @property hasDrafter Whether there is an MTP layer that may draft.
 */
internal class GgufSums(
    val model: GgufModel,
    private val trunk: GgufWeights,
    private val mtp: GgufWeights?,
    val hasDrafter: Boolean,
) {
    /** What a token takes in the trunk's KV cache. */
    fun kvBytesPerToken(kvCache: KvCache): Long =
        2L * model.layers * model.kvHeads * model.headDim * KV_BYTES_OF_32.getValue(kvCache) / 32

    /** What one way of loading it keeps in memory. */
    fun need(context: Int, kvCache: KvCache, repack: Boolean, drafts: Boolean): MemoryNeed {
        val batch = minOf(LlamaBackend.BATCH_TOKENS, context).toLong()
        val kvOfToken = kvBytesPerToken(kvCache)
        var kv = context * kvOfToken
        // The widest activations of a batch: gate, up and product, beside the residual stream.
        var activations = 4 * batch * (3L * model.intermediateSize + 4L * model.hiddenSize)
        if (kvCache == KvCache.FLOAT32) { // there is no flash attention: all products of queries and keys are kept
            activations = maxOf(activations, 4 * batch * (model.heads.toLong() * context + 6L * model.hiddenSize))
        }
        activations += 2 * batch * context + ENGINE_BYTES
        if (drafts) {
            kv += context * kvOfToken / model.layers
            activations += 4L * minOf(LlamaBackend.OUTPUT_ROWS, context) * model.vocabSize + MTP_BYTES
        }
        val parts = listOfNotNull(trunk, mtp.takeIf { drafts })
        val copied = if (repack) parts.sumOf { it.repackedBytes } else 0
        return MemoryNeed(
            copiedBytes = copied,
            kvBytes = kv,
            activationBytes = activations,
            mappedBytes = parts.sumOf { it.bytes } - copied,
            copies = repack,
            drafts = drafts,
        )
    }

    private companion object {
        /** What llama.cpp and the tokenizer take of their own, beside what is counted here. */
        const val ENGINE_BYTES = 35_000_000L

        /** What the MTP layer's context takes beside its KV cache and the logits that it makes the trunk give. */
        const val MTP_BYTES = 13_000_000L

        /** What 32 values take. */
        val KV_BYTES_OF_32 = mapOf(KvCache.FLOAT32 to 128L, KvCache.FLOAT16 to 64L, KvCache.INT8 to 34L)
    }
}

internal fun gigabytes(bytes: Long): String = "%.2f GB".format(Locale.ROOT, bytes / 1e9)
