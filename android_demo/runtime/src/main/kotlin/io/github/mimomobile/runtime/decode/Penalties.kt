package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.GenerationConfig

/**
 * What a config changes of the logits of one generation: first by `logitBias`, then by `repetitionPenalty`, as
 * transformers and llama.cpp do. The arithmetic is runtime/decode/penalties.py's.
 *
 * It follows the text, so that each row of a run over a draft is changed by the text before that row.
 *
 * @param prompt Ids that come before the text.
 * @param size Of the vocabulary.
 */
internal class Penalties(config: GenerationConfig, prompt: IntArray, private val size: Int) {
    private val penalty = config.repetitionPenalty.toFloat()
    private val biases = config.logitBias.mapValues { it.value.toFloat() }
    private val seen = if (config.repetitionPenalty == 1.0) null else BooleanArray(size)

    init {
        val unknown = biases.keys.firstOrNull { it >= size }
        require(unknown == null) { "logitBias names token $unknown; the model's are 0 to ${size - 1}" }
        prompt.forEach(::accept)
    }

    /** Goes on by [token], which is part of the text now. */
    fun accept(token: Int) {
        if (seen != null && token < size) seen[token] = true
    }

    /** Changes logits of the whole vocabulary, where they are. */
    fun apply(logits: FloatArray) {
        for ((token, bias) in biases) logits[token] += bias
        if (seen != null) for (token in 0 until size) if (seen[token]) logits[token] = penalized(logits[token])
    }

    /** Changes logits of the tokens [ids], where they are. */
    fun apply(logits: FloatArray, ids: IntArray) {
        if (biases.isEmpty() && seen == null) return
        for ((index, token) in ids.withIndex()) {
            biases[token]?.let { logits[index] += it }
            if (seen?.get(token) == true) logits[index] = penalized(logits[index])
        }
    }

    private fun penalized(logit: Float): Float = if (logit < 0) logit * penalty else logit / penalty
}
