package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.devices.KeptVerdict
import io.github.mimomobile.runtime.devices.SelfTest
import io.github.mimomobile.runtime.devices.Speed
import io.github.mimomobile.runtime.devices.Verdict
import io.github.mimomobile.runtime.devices.onProviderOrCpu
import java.util.Locale

/** A model on what computes it; the rest as in `ModelInfo`. */
internal class PlacedModel<B : Backend>(
    val backend: B,
    val provider: ExecutionProvider,
    val placement: Map<String, Int> = emptyMap(),
    val fallback: String? = null,
    val selfTest: String? = null,
)

/**
 * Chooses whether a device computes a GGUF model or the CPU: the device when it is there, takes the layers that it is given,
 * computes right numbers and is faster at tokens, as the choice of an NPU is made for ONNX folders. In strict mode the device
 * computes or loading fails, and speeds are not compared.
 *
 * @param layers How many layers the model has, with the output.
 * @param fits Throws [MimoException.MemoryFull] when there is no memory for so many layers on devices.
 * @param open Opens the model with so many layers, the last ones, on these devices.
 * @param offloaded How many layers llama.cpp put on devices when it opened the model last, as it tells.
 * @param test Tests a backend's numbers.
 * @param kept What was measured before, of these devices; null where that cannot be known.
 */
internal class LlamaChoice<B : Backend>(
    private val config: EngineConfig,
    private val model: String,
    private val layers: Int,
    private val devices: LlamaDevices,
    private val fits: (layers: Int) -> Unit,
    private val open: (LlamaPlacement) -> B,
    private val offloaded: () -> Int,
    private val test: (Backend) -> SelfTest,
    private val kept: (List<LlamaDevice>) -> KeptVerdict?,
) {
    /**
     * The model where it computes.
     *
     * @throws MimoException.ProviderUnavailable In strict mode: the device cannot compute it, or computes wrong numbers.
     */
    fun open(): PlacedModel<B> = onProviderOrCpu(
        config, model, "it",
        takesOwnMemory = true,
        onProvider = ::onDevices,
        onCpu = { PlacedModel(open(LlamaPlacement.CPU), ExecutionProvider.CPU, fallback = it) },
    )

    private fun onDevices(): PlacedModel<B> {
        val given = layersGiven()
        val found = devices.find(config.provider)
        val memory = kept(found)
        val known = if (config.strict) null else memory?.recall()
        if (known != null && !isFaster(known)) throw slower(known)
        fits(given)
        val placement = LlamaPlacement(found.map { it.handle }, given)
        var opened: B? = open(placement)
        try {
            val took = offloaded()
            if (took < given) {
                throw MimoException.ProviderUnavailable("it takes $took of the $given layers that it was given")
            }
            val result = known?.test ?: tested(checkNotNull(opened))
            if (known == null && !config.strict) {
                val speed = Speed.of(checkNotNull(opened))
                opened.close()
                opened = null // one after the other: a phone has no memory for both
                val verdict = Verdict(result, speed, open(LlamaPlacement.CPU).use { Speed.of(it) })
                memory?.keep(verdict)
                if (!isFaster(verdict)) throw slower(verdict)
                config.info("$model: ${told(verdict)}.")
                opened = open(placement)
            }
            val places = mapOf(found.joinToString("+") { it.name } to took, "CPU" to layers - took)
            return PlacedModel(checkNotNull(opened), config.provider, places.filterValues { it > 0 }, selfTest = "$result")
        } catch (error: Throwable) {
            opened?.close()
            throw error
        }
    }

    /** Layers that the device gets: all, or as many as the provider's option says. */
    private fun layersGiven(): Int {
        val own = config.providerOptions
        val unknown = own.keys - LAYERS
        if (unknown.isNotEmpty()) {
            throw MimoException.ProviderUnavailable("option ${unknown.first()} is unknown to llama.cpp; $LAYERS expected")
        }
        val asked = own[LAYERS] ?: return layers
        return asked.toIntOrNull()?.takeIf { it in 1..layers }
            ?: throw MimoException.ProviderUnavailable("$LAYERS $asked is out of range; 1 to $layers expected")
    }

    private fun tested(backend: B): SelfTest {
        val result = test(backend)
        result.problem?.let { throw MimoException.ProviderUnavailable(it) }
        if (config.strict && !result.tested) {
            throw MimoException.ProviderUnavailable(
                "its numbers cannot be tested: the file has no known prompt, or the context is shorter",
            )
        }
        if (!result.tested) config.warn("$model: ${config.provider}: its numbers were not tested: $result.")
        return result
    }

    private fun isFaster(verdict: Verdict) = verdict.npu.tokenS < verdict.cpu.tokenS

    private fun slower(verdict: Verdict) = MimoException.ProviderUnavailable(told(verdict))

    private fun told(verdict: Verdict) =
        "a prompt of %d tokens takes %.3f s (CPU %.3f s), a token %.4f s (CPU %.4f s): all on %s".format(
            Locale.ROOT, Speed.PROMPT_TOKENS, verdict.npu.promptS, verdict.cpu.promptS, verdict.npu.tokenS,
            verdict.cpu.tokenS, if (isFaster(verdict)) "${config.provider}" else "the CPU",
        )

    private companion object {
        /** llama.cpp's name. */
        const val LAYERS = "n_gpu_layers"
    }
}
