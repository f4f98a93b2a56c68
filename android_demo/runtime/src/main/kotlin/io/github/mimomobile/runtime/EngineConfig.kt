package io.github.mimomobile.runtime

import java.io.File

/**
 * What computes: of ONNX folders by ONNX Runtime, of GGUF files by llama.cpp. ONNX Runtime's GPUs (WebGPU) are not among
 * it: its Java interface knows no memory but the CPU's, so that the whole KV cache would go to the GPU and back for each
 * token.
 */
public enum class ExecutionProvider {
    /**
     * The int4 kernels of ONNX Runtime or llama.cpp, on every phone. Of the providers here it is the one that runs any MiMo
     * model. How fast it is beside an NPU has not been measured on a phone.
     */
    CPU,

    /** Has no int4 products: nothing of MiMo runs on it. Here for measurements. */
    XNNPACK,

    /** Has no int4 products, and Android has deprecated it: nothing of MiMo runs on it. Here for measurements. */
    NNAPI,

    /**
     * Qualcomm's NPU. It needs a build of ONNX Runtime with QNN, and what `mimo quantize … --target qnn --soc …`
     * compiled into the model's folder, whose context length is fixed. Tested with the same graphs on the CPU, on no
     * phone so far.
     */
    QNN,

    /**
     * Qualcomm's NPU for GGUF files, by llama.cpp: Snapdragon 8 Gen 2 and later. Tested with another device in its place, on
     * no phone so far.
     */
    HEXAGON,

    /**
     * A GPU for GGUF files, by llama.cpp's OpenCL, which was written for Qualcomm's Adreno. Tested with another device in its
     * place, on no phone so far.
     */
    OPENCL,
}

/** What an NPU computes of a model. */
public enum class NpuMode {
    /** Prompts and tokens. */
    NPU,

    /** Prompts; the CPU computes tokens, in the same KV cache. For this one window is enough (`--windows 64`). */
    SPLIT,
}

/**
 * What drafts tokens, so that several are computed at once. It changes the speed, and the text by rounding at most.
 */
public enum class Speculation {
    /**
     * MiMo's own MTP layer or prompt lookup, whichever is faster, and only while it is faster than nothing; what runs cost
     * on this device is measured at the load.
     */
    AUTO,

    /** The MTP layer drafts always. */
    MTP,

    /** Prompt lookup: what followed the last three tokens before is drafted. The MTP layer is not loaded. */
    NGRAM,

    /** Nothing. */
    OFF,
}

/** What the KV cache is made of. */
public enum class KvCache {
    /** 144 KiB a token for MiMo-7B. */
    FLOAT16,

    /** Half of it: an ONNX folder's model.kv-int8.onnx, or llama.cpp's q8_0. */
    INT8,

    /** Twice as much; only for GGUF files. The default of those that say that their q·k is too large for float16. */
    FLOAT32,
}

/** How much of a model's files is checked against the manifest before they are loaded. */
public enum class Verification {
    /** Every byte, by SHA-256: a few seconds for MiMo-7B. */
    SHA256,

    /** Their sizes, which finds copies that were cut off. For files that were verified once and not written since. */
    SIZE,
}

/** How hot a device is: Android's thermal status, which says how much it is slowed down. */
public enum class Heat {
    /** Not at all, or unknown. */
    NONE,

    /** Nobody notices; the engine does not rest either. */
    LIGHT,

    /** The engine rests a quarter of the time. */
    MODERATE,

    /** Half of the time. */
    SEVERE,

    /** Three quarters of the time. Android ends apps and switches the device off if it grows still hotter. */
    CRITICAL,
}

/**
 * How a model is loaded, such as `EngineConfig { threads = 4; speculation = Speculation.OFF }`.
 *
 * @property recipe Which entry of the manifest; null takes the first that this app can load.
 * @property contextLength Tokens of prompt and answer; null takes the model's, at most 4096.
 * @property threads Threads that compute; null takes what [measurementsFolder] makes known, or the number of fast cores.
 * @property provider What computes.
 * @property providerOptions The provider's own options, by ONNX Runtime's names. [ExecutionProvider.HEXAGON] and
 *   [ExecutionProvider.OPENCL] have one, llama.cpp's `n_gpu_layers`: so many layers, the last ones, are given to them, where
 *   the output counts as one; by default all.
 * @property npuMode What [ExecutionProvider.QNN] computes. Null, the default, takes what is fastest: a prompt and a token are
 *   timed on the NPU and on the CPU, which may turn out to be faster at both; with [strict] it takes [NpuMode.NPU].
 * @property strict True makes it an error when [provider] is not here or leaves parts of the model to the CPU; false
 *   goes on with the CPU, and [ModelInfo.fallback] says so.
 * @property speculation What drafts.
 * @property kvCache What the KV cache is made of; null, the default, takes [KvCache.FLOAT16], or [KvCache.FLOAT32] for GGUF
 *   files that say that their q·k is too large for it.
 * @property repack Whether llama.cpp copies a GGUF file's weights into the order that this CPU reads fastest, which takes as
 *   much memory; null, the default, does so when [availableBytes] suffices, and else reads the mapped file. ONNX folders do
 *   not heed it: see [cacheFolder].
 * @property verification How much of the files, and of what [cacheFolder] keeps of them, is checked.
 * @property spin Lets ONNX Runtime's idle threads wait actively: faster, and more power. llama.cpp does as it does.
 * @property availableBytes Memory that the app may still take, or null where that is unknown. On Android
 *   `AndroidDevice.availableBytes` gives it.
 * @property heat How hot the device is, asked at most once a second while tokens are generated. When it is hot the
 *   engine rests between them. On Android `AndroidDevice.heat` gives it.
 * @property cacheFolder Where weights in this CPU's order are kept, to be mapped instead of made in memory at every
 *   load; null, the default, keeps none. It takes 2.4 times the model's size of storage, 11 GB for MiMo-7B
 *   (`WeightCache.neededBytes` tells it), and gives back 1.2 times of memory, once the first load, which needs both
 *   memory and storage, has made it. Its bytes are verified and its numbers tested then; what it keeps of models that
 *   are gone is removed at the next load. On Android a folder in `noBackupFilesDir`, the same for all models.
 *   [ModelInfo.mappedBytes] says whether it is used.
 * @property measurementsFolder Where it is kept, in some bytes, which number of threads computes a model fastest on this
 *   device. It is measured at the first load of an ONNX model with an MTP layer, on that layer, which takes some seconds, and
 *   once more at the first load at another [heat]. Null, the default, measures nothing. On Android a folder in
 *   `noBackupFilesDir`, the same for all models.
 *   What was measured of [npuMode], [ExecutionProvider.HEXAGON] and [ExecutionProvider.OPENCL] is kept there, too, if
 *   [driver] is given, and the SHA-256 of a GGUF file that is loaded alone, by which saved conversations know it: without it
 *   the file is read whole at the first save after each load.
 * @property driver What the numbers and the speed of an NPU depend on beside the model: versions of the system, its drivers
 *   and QNN. When it changes, the NPU is tested and measured again; null does so at every load. On Android
 *   `AndroidDevice.driver` gives it.
 * @property soc The chip whose NPU [ExecutionProvider.QNN] takes binaries for, such as `SM8750`; null takes those of
 *   the only chip that the model was compiled for. On Android `AndroidDevice.soc` gives it.
 * @property logger Takes what the engine tells beside its results; null, the default, keeps it quiet.
 */
public class EngineConfig private constructor(from: Builder) {
    public val recipe: String? = from.recipe
    public val contextLength: Int? = from.contextLength
    public val threads: Int? = from.threads
    public val provider: ExecutionProvider = from.provider
    public val providerOptions: Map<String, String> = from.providerOptions
    public val npuMode: NpuMode? = from.npuMode
    public val strict: Boolean = from.strict
    public val speculation: Speculation = from.speculation
    public val kvCache: KvCache? = from.kvCache
    public val repack: Boolean? = from.repack
    public val verification: Verification = from.verification
    public val spin: Boolean = from.spin
    public val availableBytes: () -> Long? = from.availableBytes
    public val heat: () -> Heat = from.heat
    public val cacheFolder: File? = from.cacheFolder
    public val measurementsFolder: File? = from.measurementsFolder
    public val driver: String? = from.driver
    public val soc: String? = from.soc
    public val logger: Logger? = from.logger

    init {
        require(contextLength == null || contextLength >= 1) { "contextLength $contextLength is out of range" }
        require(threads == null || threads >= 1) { "threads $threads is out of range" }
    }

    internal fun info(message: String) = logger?.log(LogLevel.INFO, message)

    internal fun warn(message: String) = logger?.log(LogLevel.WARNING, message)

    /** The same with some changes. */
    public fun copy(change: Builder.() -> Unit): EngineConfig = EngineConfig(Builder(this).apply(change))

    private val values: List<Any?>
        get() = listOf(
            recipe, contextLength, threads, provider, providerOptions, npuMode, strict, speculation, kvCache,
            repack, verification, spin, availableBytes, heat, cacheFolder, measurementsFolder, driver, soc, logger,
        )

    override fun equals(other: Any?): Boolean = other is EngineConfig && values == other.values

    override fun hashCode(): Int = values.hashCode()

    override fun toString(): String = "EngineConfig$values"

    /** What an [EngineConfig] is made of, to be changed; each as there. */
    public class Builder internal constructor(from: EngineConfig? = null) {
        public var recipe: String? = from?.recipe
        public var contextLength: Int? = from?.contextLength
        public var threads: Int? = from?.threads
        public var provider: ExecutionProvider = from?.provider ?: ExecutionProvider.CPU
        public var providerOptions: Map<String, String> = from?.providerOptions ?: emptyMap()
        public var npuMode: NpuMode? = from?.npuMode
        public var strict: Boolean = from?.strict ?: true
        public var speculation: Speculation = from?.speculation ?: Speculation.AUTO
        public var kvCache: KvCache? = from?.kvCache
        public var repack: Boolean? = from?.repack
        public var verification: Verification = from?.verification ?: Verification.SHA256
        public var spin: Boolean = from?.spin ?: true
        public var availableBytes: () -> Long? = from?.availableBytes ?: { null }
        public var heat: () -> Heat = from?.heat ?: { Heat.NONE }
        public var cacheFolder: File? = from?.cacheFolder
        public var measurementsFolder: File? = from?.measurementsFolder
        public var driver: String? = from?.driver
        public var soc: String? = from?.soc
        public var logger: Logger? = from?.logger
    }

    public companion object {
        /** A config of the defaults with some changes. */
        public operator fun invoke(change: Builder.() -> Unit = {}): EngineConfig =
            EngineConfig(Builder().apply(change))
    }
}
