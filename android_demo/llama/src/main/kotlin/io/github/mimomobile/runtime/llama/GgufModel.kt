package io.github.mimomobile.runtime.llama

/**
 * What a checked file is.
 *
 * @property layers Those of the trunk, whether the file has their weights or not.
 * @property mtpLayers The MTP layers behind them.
 * @property hasTrunk Whether the trunk's weights are in the file; else they are in one beside it.
 * @property largestQueryKey The largest magnitude of q·k that was seen before scaling; null when nobody looked.
 */
internal data class GgufModel(
    val architecture: String,
    val layers: Int,
    val mtpLayers: Int,
    val hasTrunk: Boolean,
    val hiddenSize: Int,
    val intermediateSize: Int,
    val heads: Int,
    val kvHeads: Int,
    val headDim: Int,
    val vocabSize: Int,
    val contextLength: Int,
    val largestQueryKey: Double?,
) {
    /** Name → shape of every tensor in the file. */
    fun tensorShapes(): Map<String, List<Long>> = buildMap {
        val width = hiddenSize.toLong()
        if (hasTrunk) {
            put("token_embd.weight", listOf(vocabSize.toLong(), width))
            put("output_norm.weight", listOf(width))
            put("output.weight", listOf(vocabSize.toLong(), width))
        }
        for (layer in (if (hasTrunk) 0 else layers) until layers + mtpLayers) {
            for ((name, shape) in layer(isMtp = layer >= layers)) put("blk.$layer.$name", shape)
        }
    }

    private fun layer(isMtp: Boolean): Map<String, List<Long>> = buildMap {
        val (width, ffn) = Pair(hiddenSize.toLong(), intermediateSize.toLong())
        val (queries, keys) = listOf(heads, kvHeads).map { it.toLong() * headDim }
        put("attn_norm.weight", listOf(width))
        for ((name, rows) in listOf("q" to queries, "k" to keys, "v" to keys)) {
            put("attn_$name.weight", listOf(rows, width))
            put("attn_$name.bias", listOf(rows))
        }
        put("attn_output.weight", listOf(width, queries))
        put("ffn_norm.weight", listOf(width))
        put("ffn_gate.weight", listOf(ffn, width))
        put("ffn_up.weight", listOf(ffn, width))
        put("ffn_down.weight", listOf(width, ffn))
        if (isMtp) {
            put("nextn.enorm.weight", listOf(width))
            put("nextn.hnorm.weight", listOf(width))
            put("nextn.eh_proj.weight", listOf(width, 2 * width))
            put("nextn.shared_head_norm.weight", listOf(width))
        }
    }
}
