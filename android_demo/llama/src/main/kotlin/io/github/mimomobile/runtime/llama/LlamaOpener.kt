package io.github.mimomobile.runtime.llama

import com.sun.jna.Memory
import com.sun.jna.Native
import com.sun.jna.Pointer
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import java.io.File

/**
 * How the checked GGUF files of one model are opened. It knows no metadata.
 *
 * @property file With the trunk.
 * @property drafter With the MTP layer, which may be the same file or another; null when nothing drafts.
 * @property norm The weight of the trunk's last norm; only with a [drafter].
 * @property tokens So many ids of the vocabulary are in use.
 * @property windows Of each of the trunk's layers, whether llama.cpp takes it for one with a window.
 * @property repack Whether weights are copied into the order that this CPU reads fastest, instead of mapped.
 */
internal class LlamaWay(
    val file: File,
    val drafter: File?,
    val norm: FloatArray?,
    val tokens: Int,
    val contextLength: Int,
    val threads: Int,
    val kvCache: KvCache,
    val repack: Boolean,
    val placement: LlamaPlacement = LlamaPlacement.CPU,
    val kvBytesPerToken: Long = 0,
    val windows: List<Boolean> = emptyList(),
)

/**
 * What computes.
 *
 * @property devices llama.cpp's devices that layers are given to; none is the CPU alone.
 * @property layers So many layers, the last ones, are given to them; the output counts as one.
 */
internal class LlamaPlacement(val devices: List<Pointer>, val layers: Int) {
    companion object {
        val CPU: LlamaPlacement = LlamaPlacement(emptyList(), 0)
    }
}

/** Opens files on llama.cpp. */
internal class LlamaOpener(private val api: LlamaApi, private val log: LlamaLog) {
    /**
     * The trunk, and the MTP layer beside it.
     *
     * Two files are two models: the trunk's alone, and both together, whose trunk is not computed. Its weights are mapped and
     * stay where they are, but for the embedding and the head, which the layer shares. llama.cpp's build for Android leaves
     * the biases of queries, keys and values out of a trunk that is loaded with an MTP layer: `tests/android` shows it.
     *
     * @throws MimoException.ModelLoad llama.cpp cannot load the files, or has no memory for the context.
     */
    fun open(way: LlamaWay): LlamaBackend {
        val models = ArrayDeque<Pointer>()
        val weights = AutoCloseable { models.forEach(api::llama_model_free) }
        val opened = ArrayDeque<AutoCloseable>().apply { addFirst(weights) }
        try {
            // The trunk last: the log tells how many layers of it went to a device.
            if (way.drafter != null && way.drafter != way.file) models.addFirst(model(way, listOf(way.drafter, way.file)))
            models.addFirst(model(way, listOf(way.file)))
            val flag = Flag()
            val trunk = context(way, models.first(), trunkParams(way).also(flag::watch)).also(opened::addFirst)
            val layer = if (way.drafter == null) null else
                LlamaMtpLayer(context(way, models.last(), mtpParams(way), readsHidden = true), way.tokens).also(opened::addFirst)
            return LlamaBackend(weights, trunk, flag, way.contextLength, layer, way.norm, way.kvBytesPerToken, way.windows)
        } catch (error: Throwable) {
            opened.forEach { it.close() }
            throw error
        }
    }

    /** Loads one file, or the MTP layer's and the trunk's as one model, for the layer. */
    private fun model(way: LlamaWay, files: List<File>): Pointer = log.listening {
        log.offloaded = 0
        val params = api.llama_model_default_params()
        val alone = files.size == 1
        val placement = if (alone) way.placement else LlamaPlacement.CPU
        params.use_extra_bufts = (alone && way.repack).c
        params.load_mtp = (!alone || way.drafter == way.file).c
        params.n_gpu_layers = placement.layers
        val devices = nullTerminated(placement.devices)
        params.devices = devices
        val paths = files.map { it.path }
        val made = if (alone) api.llama_model_load_from_file(paths[0], params) else
            api.llama_model_load_from_splits(paths.toTypedArray(), paths.size.toLong(), params)
        made ?: throw MimoException.ModelLoad("${files[0]}: llama.cpp cannot load it: ${log.text()}")
    }

    /** Even where none is given: null in place of the list would be all devices. */
    private fun nullTerminated(devices: List<Pointer>): Memory {
        val list = Memory(Native.POINTER_SIZE * (devices.size + 1L)).apply { clear() }
        devices.forEachIndexed { index, each -> list.setPointer(Native.POINTER_SIZE.toLong() * index, each) }
        return list
    }

    private fun trunkParams(way: LlamaWay): LlamaContextParams.ByValue {
        val params = commonParams(way, LlamaBackend.BATCH_TOKENS)
        params.n_outputs_max = minOf(LlamaBackend.OUTPUT_ROWS, params.n_batch)
        params.pooling_type = LlamaEnums.LLAMA_POOLING_TYPE_NONE
        return params
    }

    private fun mtpParams(way: LlamaWay): LlamaContextParams.ByValue {
        val params = commonParams(way, LlamaMtpLayer.BATCH_TOKENS)
        params.ctx_type = LlamaEnums.LLAMA_CONTEXT_TYPE_MTP
        params.n_outputs_max = 1
        return params
    }

    private fun commonParams(way: LlamaWay, batch: Int): LlamaContextParams.ByValue {
        val params = api.llama_context_default_params()
        params.n_ctx = way.contextLength
        params.n_batch = minOf(batch, way.contextLength)
        params.n_ubatch = params.n_batch
        params.n_threads = way.threads
        params.n_threads_batch = way.threads
        params.type_k = ggmlType(way.kvCache)
        params.type_v = params.type_k
        // Flash attention turns float32 keys and values into float16 first.
        if (way.kvCache == KvCache.FLOAT32) params.flash_attn_type = LlamaEnums.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return params
    }

    private fun context(
        way: LlamaWay,
        model: Pointer,
        params: LlamaContextParams.ByValue,
        readsHidden: Boolean = false,
    ): LlamaContext = log.listening {
        try {
            LlamaContext(api, model, params, readsHidden)
        } catch (error: LlamaRefused) {
            throw MimoException.ModelLoad(
                "${way.file}: no context of ${params.n_ctx} tokens: ${log.text()}; take another contextLength or kvCache",
                error,
            )
        }
    }

    private fun ggmlType(kvCache: KvCache): Int = when (kvCache) {
        KvCache.FLOAT32 -> LlamaEnums.GGML_TYPE_F32
        KvCache.FLOAT16 -> LlamaEnums.GGML_TYPE_F16
        KvCache.INT8 -> LlamaEnums.GGML_TYPE_Q8_0
    }
}
