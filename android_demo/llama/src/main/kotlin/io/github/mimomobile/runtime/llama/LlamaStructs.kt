package io.github.mimomobile.runtime.llama

import com.sun.jna.Pointer
import com.sun.jna.Structure

/*
 * The structs of llama.h, with C's names in C's order, so that JNA lays them out as a compiler does; StructsTest compares both.
 * Enums are Int, and a `bool` is a Byte.
 */

/** How a model is loaded. */
@Suppress("PropertyName")
internal open class LlamaModelParams : Structure() {
    override fun getFieldOrder() = listOf(
        "devices", "tensor_buft_overrides", "n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu", "tensor_split",
        "progress_callback", "progress_callback_user_data", "kv_overrides", "vocab_only", "check_tensors", "use_extra_bufts",
        "no_host", "no_alloc", "load_mtp",
    )

    @JvmField var devices: Pointer? = null
    @JvmField var tensor_buft_overrides: Pointer? = null
    @JvmField var n_gpu_layers: Int = 0
    @JvmField var split_mode: Int = 0
    @JvmField var load_mode: Int = 0
    @JvmField var lazy_mode: Int = 0
    @JvmField var main_gpu: Int = 0
    @JvmField var tensor_split: Pointer? = null
    @JvmField var progress_callback: Pointer? = null
    @JvmField var progress_callback_user_data: Pointer? = null
    @JvmField var kv_overrides: Pointer? = null
    @JvmField var vocab_only: Byte = 0
    @JvmField var check_tensors: Byte = 0
    @JvmField var use_extra_bufts: Byte = 0
    @JvmField var no_host: Byte = 0
    @JvmField var no_alloc: Byte = 0
    @JvmField var load_mtp: Byte = 0

    class ByValue : LlamaModelParams(), Structure.ByValue
}

/** How a context is made. */
@Suppress("PropertyName")
internal open class LlamaContextParams : Structure() {
    override fun getFieldOrder() = listOf(
        "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq", "n_threads",
        "n_threads_batch", "ctx_type", "rope_scaling_type", "pooling_type", "attention_type", "flash_attn_type",
        "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow",
        "yarn_orig_ctx", "defrag_thold", "cb_eval", "cb_eval_user_data", "type_k", "type_v", "abort_callback",
        "abort_callback_data", "embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified", "samplers",
        "n_samplers", "ctx_other",
    )

    @JvmField var n_ctx: Int = 0
    @JvmField var n_batch: Int = 0
    @JvmField var n_ubatch: Int = 0
    @JvmField var n_seq_max: Int = 0
    @JvmField var n_rs_seq: Int = 0
    @JvmField var n_outputs_max: Int = 0
    @JvmField var n_outputs_max_per_seq: Int = 0
    @JvmField var n_threads: Int = 0
    @JvmField var n_threads_batch: Int = 0
    @JvmField var ctx_type: Int = 0
    @JvmField var rope_scaling_type: Int = 0
    @JvmField var pooling_type: Int = 0
    @JvmField var attention_type: Int = 0
    @JvmField var flash_attn_type: Int = 0
    @JvmField var rope_freq_base: Float = 0f
    @JvmField var rope_freq_scale: Float = 0f
    @JvmField var yarn_ext_factor: Float = 0f
    @JvmField var yarn_attn_factor: Float = 0f
    @JvmField var yarn_beta_fast: Float = 0f
    @JvmField var yarn_beta_slow: Float = 0f
    @JvmField var yarn_orig_ctx: Int = 0
    @JvmField var defrag_thold: Float = 0f
    @JvmField var cb_eval: Pointer? = null
    @JvmField var cb_eval_user_data: Pointer? = null
    @JvmField var type_k: Int = 0
    @JvmField var type_v: Int = 0
    @JvmField var abort_callback: Pointer? = null
    @JvmField var abort_callback_data: Pointer? = null
    @JvmField var embeddings: Byte = 0
    @JvmField var offload_kqv: Byte = 0
    @JvmField var no_perf: Byte = 0
    @JvmField var op_offload: Byte = 0
    @JvmField var swa_full: Byte = 0
    @JvmField var kv_unified: Byte = 0
    @JvmField var samplers: Pointer? = null
    @JvmField var n_samplers: Long = 0
    @JvmField var ctx_other: Pointer? = null

    class ByValue : LlamaContextParams(), Structure.ByValue
}

/** What one run reads, and which of its rows give logits. */
@Suppress("PropertyName")
internal open class LlamaBatch : Structure() {
    override fun getFieldOrder() = listOf("n_tokens", "token", "embd", "pos", "n_seq_id", "seq_id", "logits")

    @JvmField var n_tokens: Int = 0
    @JvmField var token: Pointer? = null
    @JvmField var embd: Pointer? = null
    @JvmField var pos: Pointer? = null
    @JvmField var n_seq_id: Pointer? = null
    @JvmField var seq_id: Pointer? = null
    @JvmField var logits: Pointer? = null

    class ByValue : LlamaBatch(), Structure.ByValue
}

/** Values of enums, by the names that the headers have for them. */
@Suppress("ConstPropertyName")
internal object LlamaEnums {
    const val LLAMA_CONTEXT_TYPE_MTP: Int = 1
    const val LLAMA_POOLING_TYPE_NONE: Int = 0
    const val LLAMA_FLASH_ATTN_TYPE_DISABLED: Int = 0
    const val LLAMA_SPLIT_MODE_NONE: Int = 0
    const val GGML_TYPE_F32: Int = 0
    const val GGML_TYPE_F16: Int = 1
    const val GGML_TYPE_Q8_0: Int = 8
    const val GGML_LOG_LEVEL_INFO: Int = 2
    const val GGML_LOG_LEVEL_WARN: Int = 3
    const val GGML_LOG_LEVEL_ERROR: Int = 4
    const val GGML_BACKEND_DEVICE_TYPE_CPU: Int = 0
    const val GGML_BACKEND_DEVICE_TYPE_GPU: Int = 1
    const val GGML_BACKEND_DEVICE_TYPE_IGPU: Int = 2
    const val GGML_BACKEND_DEVICE_TYPE_ACCEL: Int = 3
}
