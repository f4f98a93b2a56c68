package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.Progress
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Pace
import io.github.mimomobile.runtime.devices.KeptVerdict
import io.github.mimomobile.runtime.devices.LayerTimes
import io.github.mimomobile.runtime.devices.MemoryCheck
import io.github.mimomobile.runtime.devices.SelfTest
import io.github.mimomobile.runtime.devices.ThreadChoice
import io.github.mimomobile.runtime.devices.fastCores
import io.github.mimomobile.runtime.devices.onProviderOrCpu
import io.github.mimomobile.runtime.npu.NpuBackend
import io.github.mimomobile.runtime.npu.NpuFolder
import io.github.mimomobile.runtime.npu.NpuModel
import io.github.mimomobile.runtime.npu.OpenPiece
import java.io.File

/** A model's graphs on what computes them; the rest as in `ModelInfo`. */
internal class OpenedModel(
    val backend: Backend,
    val provider: ExecutionProvider,
    val weightBytes: Long,
    val kvBytes: Long,
    val placement: Map<String, Int> = emptyMap(),
    val fallback: String? = null,
    val threads: Int? = null,
    val npuMode: NpuMode? = null,
    val selfTest: String? = null,
)

/**
 * Opens an ONNX folder's graphs on the provider that was asked for, and checks what it computes before it is trusted.
 *
 * @param described What the runtime needs of the model's config.json.
 * @param content Changes with any file of the model.
 * @param leastKeptBytes Of weights, for them to be kept in this CPU's order.
 * @param openPiece Opens what was compiled for an NPU; null is QNN.
 * @param progress Told how much of kept weights was verified; may throw to give up.
 */
internal class ModelOpener(
    private val folder: File,
    private val config: EngineConfig,
    private val described: Described,
    private val content: String,
    private val memory: MemoryCheck,
    private val leastKeptBytes: Long,
    private val openPiece: OpenPiece?,
    private val progress: Progress,
) {
    private val reference = File(folder, "reference.json")

    /**
     * @throws MimoException.ModelLoad The model cannot be loaded.
     * @throws MimoException.MemoryFull It does not fit.
     * @throws MimoException.ProviderUnavailable In strict mode: the provider cannot run it, or computes wrong numbers.
     */
    fun open(): OpenedModel = onProviderOrCpu(
        config, "$folder", "the whole model",
        takesOwnMemory = config.provider == ExecutionProvider.QNN, // for an NPU's binaries
        onProvider = {
            when (val provider = config.provider) {
                ExecutionProvider.QNN -> onNpu()
                ExecutionProvider.HEXAGON, ExecutionProvider.OPENCL ->
                    throw MimoException.ProviderUnavailable("$provider computes GGUF files, and this is an ONNX folder")
                else -> onProvider(provider)
            }
        },
        onCpu = { onProvider(ExecutionProvider.CPU, it) },
    )

    /** @param beside The binaries in whose caches the CPU goes on. */
    private fun onProvider(
        provider: ExecutionProvider,
        fallback: String? = null,
        beside: NpuModel? = null,
    ): OpenedModel {
        val context = beside?.npu?.contextLength ?: contextLength()
        // What cannot be tested is not kept.
        val cache = config.cacheFolder?.takeIf { reference.isFile }
        val threads = if (provider == ExecutionProvider.CPU) threads() else config.threads
        val chosen = config.copy { this.provider = provider; cacheFolder = cache; this.threads = threads }
        val runtime = OrtRuntime(chosen, memory, leastKeptBytes, progress)
        val trunk = CachedGraph(runtime, trunkFile(), context, Pace.MOST_ROWS, profiled = true, common = beside?.cache) {
            memory.fits("KV cache of $context tokens", it)
        }
        val layer = try {
            openMtp(context, runtime)
        } catch (error: MimoException) {
            trunk.close()
            throw error
        }
        val backend = OrtBackend(trunk, layer, runtime, beside?.npu?.windows?.get(0) ?: 0)
        if (runtime.isUntested) {
            val result = closing(backend) { SelfTest.run(backend, reference, SelfTest.TOLERANCE) }
            if (result.tested) runtime.judge(result.problem == null) // else at a load with a longer context
            if (result.problem != null) {
                config.warn("Kept weights are not used any more: ${result.problem}.")
                backend.close()
                memory.unmap()
                return onProvider(provider, fallback, beside)
            }
        }
        val placement = closing(backend) {
            if (provider == ExecutionProvider.CPU) return@closing emptyMap()
            val found = trunk.placement()
            if (found.keys.all { it == "CPUExecutionProvider" }) {
                throw MimoException.ProviderUnavailable("it takes none of the model's ${found.values.sum()} nodes")
            }
            test(backend, SelfTest.TOLERANCE)
            found
        }
        val weights = File(folder, Prepacked.DATA).length()
        return OpenedModel(backend, provider, weights, trunk.kvBytes, placement, fallback, runtime.threads)
    }

    /** The number of threads that is fastest for the MTP layer, whose matrices are the trunk's; null when unknown. */
    private fun threads(): Int? {
        val layer = File(folder, MTP).takeIf { it.isFile }
        val kept = config.measurementsFolder
        if (config.threads != null || layer == null || kept == null) return config.threads
        val key = Prepacked.stateOf(layer, "${config.heat()}")
        return try {
            val candidates = ThreadChoice.candidates(Runtime.getRuntime().availableProcessors(), fastCores())
            ThreadChoice(kept, key) { measured(layer, it) }.choose(candidates) { config.info(it) }
        } catch (error: MimoException.MemoryFull) {
            config.warn("Threads are not measured: ${error.message}.")
            null
        }
    }

    private fun measured(layer: File, threads: Int): LayerTimes {
        val tried = config.copy { this.threads = threads; provider = ExecutionProvider.CPU; cacheFolder = null }
        val runtime = OrtRuntime(tried, memory)
        val graph = CachedGraph(runtime, layer, 2 * CachedGraph.BATCH_TOKENS, 1, setOf("hidden_states")) {}
        return OrtMtpLayer(graph, runtime).use { it.times() }
    }

    private fun onNpu(): OpenedModel {
        val runtime = OrtRuntime(config, memory, leastKeptBytes)
        val npu = NpuFolder.find(folder, config.soc)
        if (config.kvCache != null && config.kvCache != KvCache.FLOAT16) {
            throw MimoException.ProviderUnavailable("$npu: its KV cache is FLOAT16; ${config.kvCache} was asked for")
        }
        if (config.contextLength != null && config.contextLength != npu.contextLength) {
            throw MimoException.ProviderUnavailable(
                "$npu: compiled for a context of ${npu.contextLength}, ${config.contextLength} was asked for;" +
                    " leave it out, or compile again with --context",
            )
        }
        val drafts = config.speculation == Speculation.AUTO || config.speculation == Speculation.MTP
        memory.fits("the NPU's binaries", npu.weightBytes)
        return NpuChoice(
            config,
            npu,
            openNpu = { withMtp ->
                if (withMtp && config.speculation == Speculation.MTP && !npu.hasMtp) throw noMtp(npu.folder)
                val model = NpuModel(npu, runtime, openPiece ?: runtime::openPiece) {
                    memory.fits("KV cache of ${npu.contextLength} tokens", it)
                }
                closing(model) { NpuBackend(model, if (withMtp && drafts && npu.hasMtp) model.openMtp() else null) }
            },
            openCpu = { onProvider(ExecutionProvider.CPU, beside = it) },
            splits = !described.readsNormedStates,
            test = { test(it, if (npu.isQuantized) SelfTest.TOLERANCE_QUANTIZED else SelfTest.TOLERANCE) },
            kept = keptVerdict(npu, runtime),
        ).open()
    }

    /** Where a measurement on this device, with these drivers and this model is kept; null where drivers are unknown. */
    private fun keptVerdict(npu: NpuFolder, runtime: OrtRuntime): KeptVerdict? {
        val (kept, driver) = Pair(config.measurementsFolder ?: return null, config.driver ?: return null)
        val own = config.run { listOf(threads, spin, providerOptions.toSortedMap(), speculation) }
        val key = listOf(driver, runtime.environment.version, content, npu.folder.name, own).joinToString("\n")
        return KeptVerdict(File(kept, "selftest-${Prepacked.digest(key)}.json"))
    }

    private fun test(backend: Backend, tolerance: Double): SelfTest {
        val result = SelfTest.run(backend, reference, tolerance)
        result.problem?.let { throw MimoException.ProviderUnavailable(it) }
        if (config.strict && !result.tested) {
            throw MimoException.ProviderUnavailable(
                "its numbers cannot be tested: no reference.json, or a context shorter than its prompt",
            )
        }
        return result
    }

    private inline fun <T> closing(opened: AutoCloseable, work: () -> T): T = try {
        work()
    } catch (error: MimoException) {
        opened.close()
        throw error
    }

    private fun openMtp(context: Int, runtime: OrtRuntime): OrtMtpLayer? {
        val file = File(folder, MTP)
        when (config.speculation) {
            Speculation.OFF, Speculation.NGRAM -> return null
            Speculation.AUTO -> if (!file.isFile) return null
            Speculation.MTP -> if (!file.isFile) throw noMtp(folder)
        }
        return try {
            val graph = CachedGraph(runtime, file, context, 1, setOf("hidden_states")) {
                memory.fits("KV cache of the MTP layer", it)
            }
            OrtMtpLayer(graph, runtime)
        } catch (error: MimoException.MemoryFull) {
            if (config.speculation == Speculation.MTP) throw error
            config.warn("The MTP layer drafts nothing, which is slower: ${error.message}.")
            null
        }
    }

    private fun noMtp(folder: File) =
        MimoException.ModelLoad("$folder: no MTP layer; the checkpoint had none, take Speculation.AUTO, NGRAM or OFF")

    private fun trunkFile(): File {
        if (config.kvCache == KvCache.FLOAT32) {
            throw MimoException.ModelLoad("$folder: KvCache.FLOAT32 is for GGUF files; take FLOAT16 or INT8")
        }
        val name = if (config.kvCache == KvCache.INT8) "model.kv-int8.onnx" else "model.onnx"
        return File(folder, name).also {
            if (!it.isFile) throw MimoException.ModelLoad("$folder: no $name; quantize again, or take another kvCache")
        }
    }

    private fun contextLength(): Int {
        val asked = config.contextLength ?: return minOf(described.trained, DEFAULT_CONTEXT).toInt()
        if (asked > described.trained) {
            throw MimoException.ModelLoad("$folder: contextLength $asked asked for, trained for ${described.trained}")
        }
        return asked
    }

    private companion object {
        /** Tokens; a KV cache for all that MiMo-7B was trained for would take 4.8 GB. */
        const val DEFAULT_CONTEXT = 4096L

        const val MTP = "mtp.onnx"
    }
}
