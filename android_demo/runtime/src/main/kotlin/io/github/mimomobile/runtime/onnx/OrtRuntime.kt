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
import java.io.File
import java.nio.LongBuffer
import java.util.EnumSet

/** A session and what must live as long as it. */
internal class OpenedSession(val session: OrtSession, private val others: List<AutoCloseable>) : AutoCloseable {
    override fun close() {
        session.close()
        others.forEach { it.close() }
    }
}

/** Opens models with ONNX Runtime as an [EngineConfig] says. */
internal class OrtRuntime(private val config: EngineConfig) {
    val environment: OrtEnvironment

    /** Why the CPU computes instead of what was asked for; null when it is as asked for. */
    var fallback: String? = null
        private set

    /** What computes. */
    val provider: ExecutionProvider get() = if (fallback == null) config.provider else ExecutionProvider.CPU

    init {
        setOnAndroid("ORT_DISABLE_TELEMETRY", "1")
        environment = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL, "mimo")
        environment.setTelemetry(false)
    }

    /** Takes note of where nodes of the trunk are computed. */
    fun learn(placement: Map<String, Int>) {
        if (provider != ExecutionProvider.CPU && placement.keys.all { it == "CPUExecutionProvider" }) {
            fallback = "$provider takes none of the model's ${placement.values.sum()} nodes"
        }
    }

    /**
     * A session of [model], of whose rows the last [lastRows] get logits.
     *
     * @param profiled Where not the CPU computes, the session profiles its first runs, for [readPlacement].
     * @throws MimoException.ModelLoad ONNX Runtime cannot load it.
     * @throws MimoException.ProviderUnavailable The provider is not here, or leaves nodes to the CPU, in strict mode.
     */
    fun open(model: File, lastRows: Int, profiled: Boolean): OpenedSession {
        if (provider == ExecutionProvider.CPU) return openWith(ExecutionProvider.CPU, model, lastRows, false)
        return try {
            openWith(provider, model, lastRows, profiled)
        } catch (error: MimoException) {
            if (config.strict) {
                throw MimoException.ProviderUnavailable(
                    "$model: $provider cannot run the whole model on this device (${error.message});" +
                        " take CPU, or set strict = false",
                    error,
                )
            }
            fallback = error.message
            openWith(ExecutionProvider.CPU, model, lastRows, false)
        }
    }

    private fun openWith(provider: ExecutionProvider, model: File, lastRows: Int, profiled: Boolean): OpenedSession {
        val options = OrtSession.SessionOptions()
        // Java's run() refuses inputs that have a default, so the default is replaced: Slice counts from the end.
        val lastOnes = LongBuffer.wrap(longArrayOf(-lastRows.toLong()))
        val start = OnnxTensor.createTensor(environment, lastOnes, longArrayOf(1))
        try {
            options.setIntraOpNumThreads(config.threads ?: fastCores())
            options.setInterOpNumThreads(1)
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL)
            options.addConfigEntry("session.intra_op.allow_spinning", if (config.spin) "1" else "0")
            // Trunk and MTP layer have threads of their own, which would take the cores from each other between runs.
            options.addConfigEntry("session.force_spinning_stop", "1")
            options.addInitializer("logits_start", start)
            options.add(provider)
            if (profiled) options.enableProfiling(File(System.getProperty("java.io.tmpdir"), "mimo-placement").path)
            return OpenedSession(environment.createSession(model.path, options), listOf(options, start))
        } catch (error: OrtException) {
            options.close()
            start.close()
            throw MimoException.ModelLoad("$model: ONNX Runtime cannot load it: ${firstLine(error)}", error)
        }
    }

    private fun OrtSession.SessionOptions.add(provider: ExecutionProvider) {
        val own = config.providerOptions
        when (provider) {
            ExecutionProvider.CPU -> return
            ExecutionProvider.XNNPACK -> addXnnpack(own)
            ExecutionProvider.NNAPI -> addNnapi(EnumSet.of(NNAPIFlags.USE_FP16))
            ExecutionProvider.QNN -> addQnn(own)
            ExecutionProvider.WEBGPU -> addWebGPU(own)
        }
        if (config.strict) addConfigEntry("session.disable_cpu_ep_fallback", "1")
    }
}

/**
 * Sets a variable of this process's environment, where Android's classes are there to do it.
 *
 * ONNX Runtime's uploader keeps a device id and a database unless it finds the variable when the library is loaded;
 * `setTelemetry(false)` comes too late for that. On a computer whoever starts the JVM has to set it.
 */
private fun setOnAndroid(name: String, value: String) {
    val os = try {
        Class.forName("android.system.Os")
    } catch (_: ClassNotFoundException) {
        return
    }
    os.getMethod("setenv", String::class.java, String::class.java, Boolean::class.java).invoke(null, name, value, true)
}

/** What an exception of ONNX Runtime says, in short. */
internal fun firstLine(error: Exception): String =
    error.message?.trim()?.lineSequence()?.firstOrNull()?.take(300)?.ifEmpty { null } ?: error.javaClass.simpleName
