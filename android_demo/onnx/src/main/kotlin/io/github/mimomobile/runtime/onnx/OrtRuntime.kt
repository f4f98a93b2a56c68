package io.github.mimomobile.runtime.onnx

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import ai.onnxruntime.providers.NNAPIFlags
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Progress
import io.github.mimomobile.runtime.devices.MemoryCheck
import io.github.mimomobile.runtime.devices.fastCores
import io.github.mimomobile.runtime.devices.setOnAndroid
import java.io.File
import java.io.IOException
import java.nio.LongBuffer
import java.util.EnumSet
import java.util.UUID

/** A session and what must live as long as it. */
internal class OpenedSession(val session: OrtSession, private val others: List<AutoCloseable>) : AutoCloseable {
    override fun close() {
        session.close()
        others.forEach { it.close() }
    }
}

/**
 * Opens models with ONNX Runtime as an [EngineConfig] says.
 *
 * @param memory Asked before weights are loaded.
 * @param leastKeptBytes Of weights, for them to be kept in this CPU's order.
 * @param progress Told how much of kept weights was verified; may throw to give up.
 */
internal class OrtRuntime(
    private val config: EngineConfig,
    private val memory: MemoryCheck = MemoryCheck(File("."), config.availableBytes),
    leastKeptBytes: Long = Prepacked.LEAST_BYTES,
    progress: Progress = { _, _ -> },
) {
    val environment: OrtEnvironment
    private val prepacked: Prepacked?
    private val untested = ArrayList<File>()

    /** Threads that compute. */
    val threads: Int = config.threads ?: fastCores()

    /** Whether weights are mapped whose numbers were not tested yet; [judge] says how they are. */
    val isUntested: Boolean get() = untested.isNotEmpty()

    init {
        // Its uploader keeps a device id and a database unless it finds this when the library is loaded: setTelemetry is late.
        setOnAndroid("ORT_DISABLE_TELEMETRY", "1")
        environment = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL, "mimo")
        environment.setTelemetry(false)
        prepacked = config.cacheFolder?.let { folder ->
            WeightCache.clean(folder)
            Prepacked(folder, environment.version, config.verification, leastKeptBytes, progress)
        }
    }

    /**
     * A session of [model], of whose rows the last [lastRows] get logits.
     *
     * @param profiled Where not the CPU computes, the session profiles its first runs, for [readPlacement].
     * @throws MimoException.ModelLoad ONNX Runtime cannot load it, or the provider does not take all of it, in strict
     *   mode.
     * @throws MimoException.MemoryFull Its weights do not fit.
     */
    fun open(model: File, lastRows: Int, profiled: Boolean): OpenedSession {
        if (config.provider == ExecutionProvider.CPU) return openOnCpu(model, lastRows)
        memory.fits("weights", weightBytes(model))
        return openWith(config.provider, model, lastRows, profiled)
    }

    /** A session on one thread of the CPU. */
    fun openPlain(model: File, profiled: Boolean = false): OpenedSession = session(model) { if (profiled) profile() }

    /**
     * A session of what was compiled for Qualcomm's NPU, which takes it whole or not at all.
     *
     * Not run so far: no NPU was at hand. Tests give graphs that were not compiled to the CPU instead.
     *
     * @param shared The binary has other graphs, too, and is loaded for the first of them.
     */
    fun openPiece(graph: File, profiled: Boolean, shared: Boolean): OpenedSession = session(graph) {
        addConfigEntry(NO_FALLBACK, "1")
        if (shared) addConfigEntry(SHARE, "1")
        addQnn(mapOf("backend_path" to "libQnnHtp.so", "htp_performance_mode" to "burst") + config.providerOptions)
        if (profiled) profile()
    }

    /** From kept weights when there are any. */
    private fun openOnCpu(model: File, lastRows: Int): OpenedSession {
        val weights = weightBytes(model)
        val needed = (PREPACKED_SIZE * weights).toLong()
        val cache = prepacked?.takeIf { it.wants(weights) }
        var ready = cache?.find(model)
        memory.fits(if (ready == null) "weights in this CPU's order" else "weights in this CPU's order, mapped", needed)
        if (cache != null && ready == null) {
            config.info("The weights of $model are put into this CPU's order and kept in ${config.cacheFolder}.")
            ready = cache.make(model, weights) { save(model, it) }
            if (ready == null) config.warn("The weights of $model are not kept: no room, an error, or wrong when they were.")
        }
        if (cache != null && ready != null) {
            try {
                return openWith(ExecutionProvider.CPU, ready, lastRows, false).also {
                    memory.maps(needed)
                    if (!cache.isTested(model)) untested += model
                }
            } catch (error: MimoException.ModelLoad) {
                config.warn("Kept weights cannot be loaded and are removed: ${error.message}.")
                cache.discard(model) // whatever is wrong with it, the model itself is there
            }
        }
        return openWith(ExecutionProvider.CPU, model, lastRows, false)
    }

    /** Mapped weights that were not tested yet give the right numbers or wrong ones, which are not used again. */
    fun judge(right: Boolean) {
        untested.forEach { if (right) prepacked?.approve(it) else prepacked?.refuse(it) }
        untested.clear()
    }

    private fun save(model: File, folder: File) {
        try {
            OrtSession.SessionOptions().use { options ->
                options.setIntraOpNumThreads(threads)
                options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL)
                Prepacked.saveInto(folder, options)
                environment.createSession(model.path, options).close()
            }
        } catch (error: OrtException) { // of the model or of the storage: loading it without will tell
            throw IOException("$folder: ${firstLine(error)}", error)
        }
    }

    private fun openWith(provider: ExecutionProvider, model: File, lastRows: Int, profiled: Boolean): OpenedSession {
        // Java's run() refuses inputs that have a default, so the default is replaced: Slice counts from the end.
        val lastOnes = LongBuffer.wrap(longArrayOf(-lastRows.toLong()))
        val start = OnnxTensor.createTensor(environment, lastOnes, longArrayOf(1))
        return session(model, start) {
            setIntraOpNumThreads(threads)
            addConfigEntry("session.intra_op.allow_spinning", if (config.spin) "1" else "0")
            // Trunk and MTP layer have threads of their own, which would take the cores from each other between runs.
            addConfigEntry("session.force_spinning_stop", "1")
            addInitializer("logits_start", start)
            add(provider)
            if (profiled) profile()
        }
    }

    /** A session with some options; [others] are closed with it. */
    private fun session(
        model: File,
        vararg others: AutoCloseable,
        change: OrtSession.SessionOptions.() -> Unit,
    ): OpenedSession {
        val options = OrtSession.SessionOptions()
        try {
            options.setIntraOpNumThreads(1)
            options.setInterOpNumThreads(1)
            options.setMemoryPatternOptimization(false) // it keeps a plan for each length of the text
            options.setSessionLogLevel(logLevel())
            options.change()
            return OpenedSession(environment.createSession(model.path, options), listOf(options, *others))
        } catch (error: OrtException) {
            options.close()
            others.forEach { it.close() }
            throw MimoException.ModelLoad("$model: ONNX Runtime cannot load it: ${firstLine(error)}", error)
        }
    }

    private fun logLevel() =
        if (config.logger == null) OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL else OrtLoggingLevel.ORT_LOGGING_LEVEL_WARNING

    /** ONNX Runtime adds the time in milliseconds, which other processes and engines may share. */
    private fun OrtSession.SessionOptions.profile() =
        enableProfiling(File(System.getProperty("java.io.tmpdir"), "mimo-placement-${UUID.randomUUID()}").path)

    private fun OrtSession.SessionOptions.add(provider: ExecutionProvider) {
        val own = config.providerOptions
        when (provider) {
            ExecutionProvider.CPU -> return
            ExecutionProvider.XNNPACK -> addXnnpack(own)
            ExecutionProvider.NNAPI -> addNnapi(EnumSet.of(NNAPIFlags.USE_FP16))
            ExecutionProvider.QNN -> addQnn(own)
            ExecutionProvider.HEXAGON, ExecutionProvider.OPENCL -> error("$provider is not ONNX Runtime's")
        }
        if (config.strict) addConfigEntry(NO_FALLBACK, "1")
    }

    private companion object {
        /** Prepacked weights over the data file: 544 MB of 451 were measured for blocks of 32. */
        const val PREPACKED_SIZE = 1.2

        const val NO_FALLBACK = "session.disable_cpu_ep_fallback"

        /**
         * Sessions with it have one binary in common, of which each takes its graph:
         * https://onnxruntime.ai/docs/execution-providers/EP-Context-Design.html.
         */
        const val SHARE = "ep.share_ep_contexts"
    }
}

/** What an exception of ONNX Runtime says, in short. */
internal fun firstLine(error: Exception): String =
    error.message?.trim()?.lineSequence()?.firstOrNull()?.take(300)?.ifEmpty { null } ?: error.javaClass.simpleName
