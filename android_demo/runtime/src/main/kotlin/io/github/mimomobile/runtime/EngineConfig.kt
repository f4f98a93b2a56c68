package io.github.mimomobile.runtime

/** What ONNX Runtime computes with. */
public enum class ExecutionProvider {
    /** ARM's int4 kernels: the fastest for MiMo on most phones, and exact. */
    CPU,

    /** Has no int4 products: nothing of MiMo runs on it. Here for measurements. */
    XNNPACK,

    /** Has no int4 products, and Android has deprecated it: nothing of MiMo runs on it. Here for measurements. */
    NNAPI,

    /** Qualcomm's NPU; needs a build of ONNX Runtime with QNN. */
    QNN,

    /** The GPU. */
    WEBGPU,
}

/** Whether tokens are drafted by MiMo's own MTP layer, to compute two at once. It changes the speed, not the text. */
public enum class Speculation {
    /** Drafts while that is faster; what runs cost on this device is measured at the first generation. */
    AUTO,

    /** Drafts always. */
    MTP,

    /** Does not load the layer. */
    OFF,
}

/** What the KV cache is made of. */
public enum class KvCache {
    /** 144 KiB a token for MiMo-7B. */
    FLOAT16,

    /** Half of it, from the folder's model.kv-int8.onnx. */
    INT8,
}

/** How much of a model's files is checked against the manifest before they are loaded. */
public enum class Verification {
    /** Every byte, by SHA-256: a few seconds for MiMo-7B. */
    SHA256,

    /** Their sizes, which finds copies that were cut off. For files that were verified once and not written since. */
    SIZE,
}

/**
 * How a model is loaded.
 *
 * @property recipe Which entry of the manifest; null takes the first for ONNX Runtime.
 * @property contextLength Tokens of prompt and answer; null takes the model's, at most 4096.
 * @property threads Threads that compute; null takes the number of fast cores.
 * @property provider What computes.
 * @property providerOptions The provider's own options, by ONNX Runtime's names.
 * @property strict True makes it an error when [provider] is not here or leaves parts of the model to the CPU; false
 *   goes on with the CPU, and [ModelInfo.fallback] says so.
 * @property speculation What drafts.
 * @property kvCache What the KV cache is made of.
 * @property verification How much of the files is checked.
 * @property spin Lets idle threads wait actively: faster, and more power.
 * @property availableBytes Memory that the app may still take, or null where that is unknown. On Android
 *   `AndroidDevice.availableBytes` gives it.
 */
public data class EngineConfig(
    val recipe: String? = null,
    val contextLength: Int? = null,
    val threads: Int? = null,
    val provider: ExecutionProvider = ExecutionProvider.CPU,
    val providerOptions: Map<String, String> = emptyMap(),
    val strict: Boolean = true,
    val speculation: Speculation = Speculation.AUTO,
    val kvCache: KvCache = KvCache.FLOAT16,
    val verification: Verification = Verification.SHA256,
    val spin: Boolean = true,
    val availableBytes: () -> Long? = { null },
) {
    init {
        require(contextLength == null || contextLength >= 1) { "contextLength $contextLength is out of range" }
        require(threads == null || threads >= 1) { "threads $threads is out of range" }
    }
}
