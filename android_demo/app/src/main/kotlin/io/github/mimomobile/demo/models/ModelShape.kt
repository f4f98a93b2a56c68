package io.github.mimomobile.demo.models

import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.WeightCache
import java.io.File
import java.io.IOException
import org.json.JSONException
import org.json.JSONObject

/**
 * What memory a model takes, known before it is loaded.
 *
 * @property trainedTokens The longest context that it can be loaded with.
 * @property weightBytes Of the file with the weights.
 * @property tokenBytes Of the KV cache in float16, for one token.
 */
data class ModelShape(val trainedTokens: Int, val weightBytes: Long, val tokenBytes: Long) {
    /** The storage that the rearranged weights take beside the model. */
    val arrangedBytes: Long get() = WeightCache.neededBytes(weightBytes)

    /** The memory that they take where they are not kept in the storage. */
    val memoryBytes: Long get() = memoryOf(weightBytes)

    /** Whether the library keeps rearranged weights of this model at all: small ones load in no time. */
    val isWorthKeeping: Boolean get() = weightBytes >= LEAST_KEPT_BYTES

    /**
     * The longest context that fits into [availableBytes] beside the weights, a whole number of [STEP] tokens.
     *
     * A tenth of the memory is left for what grows with the work. When not even the shortest context fits, that one is
     * tried: the engine's error then says how much is missing.
     */
    fun largestContext(availableBytes: Long, int8: Boolean): Int {
        val room = availableBytes * 9 / 10 - memoryBytes
        val fitting = room / (if (int8) tokenBytes / 2 else tokenBytes)
        val steps = fitting / STEP * STEP
        return steps.coerceIn(minOf(LEAST_CONTEXT, trainedTokens).toLong(), trainedTokens.toLong()).toInt()
    }

    companion object {
        private const val STEP = 256
        private const val LEAST_CONTEXT = 1024

        /** Measured at MiMo-7B's shapes, over the model's file: docs/android.md. */
        private const val IN_MEMORY = 1.2
        private const val LEAST_KEPT_BYTES = 64_000_000L

        /** Keys and values of two bytes each. */
        private const val TOKEN_BYTES = 4L

        /** Of the folder with the graphs; null when its config.json cannot be read, which the engine will complain of. */
        fun read(graphs: File): ModelShape? = try {
            val config = JSONObject(File(graphs, "config.json").readText())
            val heads = config.getInt("num_attention_heads")
            val size = config.optInt("head_dim", config.getInt("hidden_size") / heads)
            val layers = config.getInt("num_hidden_layers") + config.optInt("num_nextn_predict_layers")
            ModelShape(
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

        /** What a loaded model gives back when another one takes its place. */
        fun heldBytes(info: ModelInfo): Long =
            info.kvCacheBytes + if (info.mappedBytes > 0) 0 else memoryOf(info.weightBytes)

        private fun memoryOf(weightBytes: Long): Long = (IN_MEMORY * weightBytes).toLong()
    }
}
