package io.github.mimomobile.demo.models

import io.github.mimomobile.demo.ProblemException
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.llama.GgufMemory
import io.github.mimomobile.runtime.onnx.WeightCache
import java.io.File
import java.io.IOException
import java.util.concurrent.ConcurrentHashMap
import org.json.JSONException
import org.json.JSONObject

/** What memory a model takes, known before it is loaded. */
sealed interface ModelShape {
    /** The longest context that it can be loaded with. */
    val trainedTokens: Int

    /**
     * The longest context that fits into [availableBytes] beside the weights, a whole number of [STEP] tokens.
     *
     * A tenth of the memory is left for what grows with the work. When not even the shortest context fits, that one is
     * tried: the engine's error then says how much is missing.
     */
    fun largestContext(availableBytes: Long, int8: Boolean): Int

    companion object {
        const val STEP = 256
        const val LEAST_CONTEXT = 1024

        /** What a loaded model gives back when another one takes its place. */
        fun heldBytes(info: ModelInfo): Long = info.kvCacheBytes +
            if (info.mappedBytes > 0) maxOf(0, info.weightBytes - info.mappedBytes) else OnnxShape.memoryOf(info.weightBytes)
    }
}

/**
 * A model for ONNX Runtime.
 *
 * @property weightBytes Of the file with the weights.
 * @property tokenBytes Of the KV cache in float16, for one token.
 */
data class OnnxShape(override val trainedTokens: Int, val weightBytes: Long, val tokenBytes: Long) : ModelShape {
    /** The storage that the rearranged weights take beside the model. */
    val arrangedBytes: Long get() = WeightCache.neededBytes(weightBytes)

    /** The memory that they take where they are not kept in the storage. */
    val memoryBytes: Long get() = memoryOf(weightBytes)

    /** Whether the library keeps rearranged weights of this model at all: small ones load in no time. */
    val isWorthKeeping: Boolean get() = weightBytes >= LEAST_KEPT_BYTES

    override fun largestContext(availableBytes: Long, int8: Boolean): Int {
        val room = availableBytes * 9 / 10 - memoryBytes
        val fitting = room / (if (int8) tokenBytes / 2 else tokenBytes)
        val steps = fitting / ModelShape.STEP * ModelShape.STEP
        return steps.coerceIn(minOf(ModelShape.LEAST_CONTEXT, trainedTokens).toLong(), trainedTokens.toLong()).toInt()
    }

    companion object {
        /** Measured at MiMo-7B's shapes, over the model's file: docs/android.md. */
        private const val IN_MEMORY = 1.2
        private const val LEAST_KEPT_BYTES = 64_000_000L

        /** Keys and values of two bytes each. */
        private const val TOKEN_BYTES = 4L

        /** Of the folder with the graphs; null when its config.json cannot be read, which the engine will complain of. */
        fun read(graphs: File): OnnxShape? = try {
            val config = JSONObject(File(graphs, "config.json").readText())
            val heads = config.getInt("num_attention_heads")
            val size = config.optInt("head_dim", config.getInt("hidden_size") / heads)
            val layers = config.getInt("num_hidden_layers") + config.optInt("num_nextn_predict_layers")
            OnnxShape(
                trainedTokens = config.getInt("max_position_embeddings"),
                weightBytes = File(graphs, "model.onnx.data").length(),
                tokenBytes = TOKEN_BYTES * layers * config.optInt("num_key_value_heads", heads) * size,
            ).takeIf { it.trainedTokens > 0 && it.tokenBytes > 1 }
        } catch (_: IOException) {
            null
        } catch (_: JSONException) {
            null
        } catch (_: ArithmeticException) {
            null
        }

        /** What weights take in the memory. */
        fun memoryOf(weightBytes: Long): Long = (IN_MEMORY * weightBytes).toLong()
    }
}

/** A model for llama.cpp, which copies the weights where there is room for it, or reads them from the mapped file. */
class GgufShape(val memory: GgufMemory) : ModelShape {
    override val trainedTokens: Int get() = memory.trainedTokens

    /** Copied weights are faster, and worth more than a context beyond [USUAL_CONTEXT]. */
    override fun largestContext(availableBytes: Long, int8: Boolean): Int {
        val room = availableBytes * 9 / 10
        val kvCache = if (int8) KvCache.INT8 else memory.kvCache
        fun most(repack: Boolean): Int {
            var (fitting, tooMuch) = 0 to trainedTokens / ModelShape.STEP + 1
            while (tooMuch - fitting > 1) {
                val middle = (fitting + tooMuch) / 2
                if (memory.neededBytes(middle * ModelShape.STEP, repack, kvCache) <= room) fitting = middle else tooMuch = middle
            }
            return fitting * ModelShape.STEP
        }
        val usual = minOf(USUAL_CONTEXT, trainedTokens)
        val copied = most(repack = true)
        val chosen = if (copied >= usual) copied else maxOf(copied, minOf(most(repack = false), usual))
        return chosen.coerceIn(minOf(ModelShape.LEAST_CONTEXT, trainedTokens), trainedTokens)
    }

    private companion object {
        /** What the engine takes when no context is asked for. */
        const val USUAL_CONTEXT = 4096
    }
}

/** Reads what memory models take; of each GGUF file once, as long as it stays the same. */
class Shapes(private val lone: LoneModels) {
    private data class Known(val shape: ModelShape?)

    private val known = ConcurrentHashMap<List<Any?>, Known>()

    /** Null when its files cannot be read, which the engine will complain of. */
    fun of(entry: ModelEntry): ModelShape? {
        val manifest = entry.manifest
        if (manifest != null && manifest.format != GGUF_FORMAT) return OnnxShape.read(File(entry.folder, manifest.path))
        val file = if (manifest != null) File(entry.folder, manifest.path) else entry.lone?.file
        val key = if (file == null) listOf(entry.lone?.document, entry.lone?.sizeBytes) else {
            listOf(file, mtpBeside(file)).flatMap { listOf(it.path, it.length(), it.lastModified()) }
        }
        return known.getOrPut(key) { Known(if (file == null) ofDocument(entry) else read(file)) }.shape
    }

    private fun ofDocument(entry: ModelEntry): ModelShape? = try {
        lone.open(entry).use { read(it.file) }
    } catch (_: ProblemException) {
        null
    }

    private fun read(file: File): ModelShape? = try {
        GgufShape(GgufMemory.read(file))
    } catch (_: MimoException.ModelLoad) {
        null
    }

    private companion object {
        const val GGUF_FORMAT = "gguf"
    }
}
