package io.github.mimomobile.runtime.llama

/**
 * What a key's value must be: of a type, and from [least] to [most] or one of [choices].
 *
 * @property kind As [GgufHeader.kind] tells it.
 */
internal class GgufRule(
    val kind: String,
    private val least: Double = 0.0,
    private val most: Double = 0.0,
    private val choices: List<Any> = emptyList(),
    val isNeeded: Boolean = false,
) {
    fun allows(value: Any): Boolean = when {
        choices.isNotEmpty() -> value in choices
        value is Long -> value.toDouble() in least..most
        value is Double -> value in least..most // NaN is in no range
        else -> false
    }

    override fun toString(): String =
        if (choices.isNotEmpty()) choices.joinToString(" or ") { if (it is String) "'$it'" else "$it" } else
            "${number(least)}…${number(most)}"

    private fun number(value: Double) = if (value == value.toLong().toDouble()) "${value.toLong()}" else "$value"
}

/** What a MiMo-7B's metadata say; what is not here would change the computation, and is refused. */
internal object GgufRules {
    const val TRUNK: String = "qwen2"

    /** Of a file with an MTP layer in it. */
    const val MTP: String = "step35"

    /** The one key that is an array: which layers have a window. */
    const val WINDOWS: String = "attention.sliding_window_pattern"

    const val MOST_LAYERS: Int = 512
    private const val MOST_CONTEXT = 1L shl 24

    /** Of the largest magnitude of q·k. */
    val LARGEST: GgufRule = GgufRule("float32", 0.0, 3e38)

    private fun count(most: Long, isNeeded: Boolean = true) =
        GgufRule("uint32", 1.0, most.toDouble(), isNeeded = isNeeded)

    private fun float(least: Double, most: Double, isNeeded: Boolean = false) =
        GgufRule("float32", least, most, isNeeded = isNeeded)

    private fun choice(kind: String, vararg choices: Any, isNeeded: Boolean = false) =
        GgufRule(kind, choices = choices.toList(), isNeeded = isNeeded)

    /** Of both architectures, whose name goes before each key. */
    val COMMON: Map<String, GgufRule> = mapOf(
        "block_count" to count(MOST_LAYERS.toLong()),
        "context_length" to count(MOST_CONTEXT),
        "embedding_length" to count(1L shl 20),
        "feed_forward_length" to count(1L shl 24),
        "attention.head_count" to count(1L shl 12),
        "attention.head_count_kv" to count(1L shl 12),
        "attention.key_length" to count(1L shl 10, isNeeded = false),
        "attention.value_length" to count(1L shl 10, isNeeded = false),
        "attention.layer_norm_rms_epsilon" to float(1e-13, 1e6, isNeeded = true),
        "attention.causal" to choice("bool", true),
        "rope.freq_base" to float(1.0, 1e12, isNeeded = true),
        "rope.scaling.type" to choice("string", "none", "linear", "yarn"),
        "rope.scaling.factor" to float(1.0, 1000.0),
        "rope.scale_linear" to float(1.0, 1000.0),
        "rope.scaling.original_context_length" to count(MOST_CONTEXT, isNeeded = false),
        "rope.scaling.finetuned" to choice("bool", false, true),
        "rope.scaling.attn_factor" to float(0.001, 100.0),
        "rope.scaling.yarn_ext_factor" to float(-1.0, 100.0),
        "rope.scaling.yarn_attn_factor" to float(0.001, 100.0),
        "rope.scaling.yarn_beta_fast" to float(0.001, 1000.0),
        "rope.scaling.yarn_beta_slow" to float(0.001, 1000.0),
        "expert_count" to choice("uint32", 0L),
        "expert_used_count" to choice("uint32", 0L),
        "pooling_type" to choice("uint32", 0L),
        "vocab_size" to count(1L shl 24, isNeeded = false),
    )

    private val BY_ARCHITECTURE = mapOf(
        TRUNK to COMMON + mapOf(
            "rope.dimension_count" to count(1L shl 10, isNeeded = false),
            "nextn_predict_layers" to choice("uint32", 0L),
        ),
        MTP to COMMON + mapOf(
            "rope.dimension_count" to count(1L shl 11),
            "rope.dimension_count_swa" to count(1L shl 10),
            "rope.freq_base_swa" to float(1.0, 1e12, isNeeded = true),
            "nextn_predict_layers" to count(MOST_LAYERS - 1L),
            "attention.sliding_window" to count(MOST_CONTEXT),
            "expert_feed_forward_length" to choice("uint32", 0L, isNeeded = true),
        ),
    )

    /** The rules of an architecture; null when it is no MiMo-7B's. */
    fun of(architecture: String?): Map<String, GgufRule>? = BY_ARCHITECTURE[architecture]
}
