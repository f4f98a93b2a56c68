package io.github.mimomobile.runtime.llama

import com.sun.jna.Callback
import com.sun.jna.Library
import com.sun.jna.Pointer

/**
 * What is called of llama.h and ggml-backend.h, by the names and in the order that they have there. JNA finds all of it in
 * libllama and the libraries that it was linked with.
 *
 * A `size_t` is a Long: there are no devices with 32 bits. A `bool` is a [Byte], since C leaves the rest of an int undefined.
 */
@Suppress("FunctionName", "TooManyFunctions") // C's names
internal interface LlamaApi : Library {
    fun llama_backend_init()

    fun llama_log_set(listener: LogListener?, data: Pointer?)

    fun llama_model_default_params(): LlamaModelParams.ByValue

    fun llama_context_default_params(): LlamaContextParams.ByValue

    fun llama_model_load_from_file(path: String, params: LlamaModelParams.ByValue): Pointer?

    fun llama_model_load_from_splits(paths: Array<String>, count: Long, params: LlamaModelParams.ByValue): Pointer?

    fun llama_model_free(model: Pointer)

    fun llama_model_n_embd(model: Pointer): Int

    fun llama_model_n_layer(model: Pointer): Int

    fun llama_model_get_vocab(model: Pointer): Pointer

    fun llama_vocab_n_tokens(vocab: Pointer): Int

    fun llama_init_from_model(model: Pointer, params: LlamaContextParams.ByValue): Pointer?

    fun llama_free(context: Pointer)

    fun llama_get_memory(context: Pointer): Pointer?

    fun llama_memory_clear(memory: Pointer, data: Byte)

    fun llama_memory_seq_rm(memory: Pointer, sequence: Int, from: Int, to: Int): Byte

    fun llama_set_embeddings(context: Pointer, wanted: Byte)

    /** 0 when all went well, [LlamaContext.ABORTED] when the abort callback stopped it. */
    fun llama_decode(context: Pointer, batch: LlamaBatch.ByValue): Int

    fun llama_get_logits(context: Pointer): Pointer?

    fun llama_get_embeddings(context: Pointer): Pointer?

    fun llama_state_seq_get_size(context: Pointer, sequence: Int): Long

    fun llama_state_seq_get_data(context: Pointer, target: Pointer, size: Long, sequence: Int): Long

    /** 0 when the state was refused. */
    fun llama_state_seq_set_data(context: Pointer, source: Pointer, size: Long, sequence: Int): Long

    fun ggml_backend_load(path: String): Pointer?

    fun ggml_backend_reg_count(): Long

    fun ggml_backend_reg_get(index: Long): Pointer

    fun ggml_backend_reg_name(registered: Pointer): String

    fun ggml_backend_dev_count(): Long

    fun ggml_backend_dev_get(index: Long): Pointer

    fun ggml_backend_dev_name(device: Pointer): String

    fun ggml_backend_dev_description(device: Pointer): String

    fun ggml_backend_dev_type(device: Pointer): Int

    fun ggml_backend_dev_backend_reg(device: Pointer): Pointer
}

/** A `ggml_log_callback`: told a message of llama.cpp, from any thread. */
internal fun interface LogListener : Callback {
    fun invoke(level: Int, text: Pointer?, data: Pointer?)
}

/** C's `bool`. */
internal val Boolean.c: Byte get() = if (this) 1 else 0
