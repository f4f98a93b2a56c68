package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.devices.KeptVerdict
import io.github.mimomobile.runtime.devices.SelfTest
import io.github.mimomobile.runtime.devices.Speed
import io.github.mimomobile.runtime.devices.Verdict
import io.github.mimomobile.runtime.npu.NpuBackend
import io.github.mimomobile.runtime.npu.NpuFolder
import io.github.mimomobile.runtime.npu.NpuModel
import io.github.mimomobile.runtime.npu.SplitBackend

/**
 * Chooses what an NPU computes of a model on this device: what was asked for, or what is faster there than on the CPU. Its
 * numbers are tested before they are trusted.
 *
 * @param openNpu Opens the binaries, with their MTP layer if there is one and it is wanted.
 * @param openCpu Opens the model on the CPU, in the caches of the NPU's if they are of the same types.
 * @param splits Whether hidden states of both are the same, so that the MTP layer can be shown those of both.
 * @param test Tests a backend's numbers.
 * @param kept What was measured before; null where that cannot be known.
 */
internal class NpuChoice(
    private val config: EngineConfig,
    private val npu: NpuFolder,
    private val openNpu: (withMtp: Boolean) -> NpuBackend,
    private val openCpu: (NpuModel) -> OpenedModel,
    private val splits: Boolean,
    private val test: (Backend) -> SelfTest,
    private val kept: KeptVerdict?,
) {
    private val wanted = config.npuMode ?: NpuMode.NPU.takeIf { config.strict }

    /**
     * The model with the NPU.
     *
     * @throws MimoException.ProviderUnavailable The NPU cannot do what was asked for, its numbers are wrong, or the CPU is
     *   faster.
     */
    fun open(): OpenedModel {
        if (wanted == NpuMode.NPU && !npu.computesTokens) {
            val who = if (config.npuMode == null) "strict = true" else "NpuMode.NPU"
            throw MimoException.ProviderUnavailable(
                "$npu: compiled for prompts alone, and $who leaves no tokens to the CPU; take NpuMode.SPLIT, or compile" +
                    " with --windows 64,2,1",
            )
        }
        val known = if (wanted == null) kept?.recall() else null
        if (known != null && fastest(known) == null) throw slower(known)
        val opened = ArrayList<AutoCloseable>()
        try {
            val mode = wanted ?: known?.let(::fastest)
            val alone = openNpu(mode != NpuMode.SPLIT && npu.computesTokens).also(opened::add)
            val placement = alone.model.placement()
            val cpu = if (mode == NpuMode.NPU) null else openBeside(alone.model, mode)?.also { opened += it.backend }
            val beside = (cpu?.backend as? OrtBackend)?.takeIf { splits && it.hasCommonCache }
            if (beside == null && (mode == NpuMode.SPLIT || !npu.computesTokens)) {
                throw MimoException.ProviderUnavailable("$npu: the CPU cannot go on in the NPU's caches")
            }
            val split = beside?.takeIf { mode == NpuMode.SPLIT || !npu.computesTokens }?.let { SplitBackend(alone, it) }
            val found = known?.test ?: test(split ?: alone)
            val chosen = mode ?: cpu?.let { measured(found, split ?: alone, it.backend) } ?: NpuMode.NPU
            if (chosen == NpuMode.SPLIT && beside == null) {
                throw MimoException.ProviderUnavailable("$npu: the CPU cannot go on in the NPU's caches")
            }
            if (chosen == NpuMode.NPU) cpu?.backend?.close()
            val on = if (chosen == NpuMode.NPU) alone else split ?: SplitBackend(alone, checkNotNull(beside))
            return OpenedModel(
                backend = on,
                provider = ExecutionProvider.QNN,
                weightBytes = npu.weightBytes + if (on is SplitBackend) checkNotNull(cpu).weightBytes else 0,
                kvBytes = alone.model.cache.bytes,
                placement = placement,
                threads = cpu?.threads?.takeIf { on is SplitBackend },
                npuMode = chosen,
                selfTest = "$found",
            )
        } catch (error: Throwable) {
            opened.asReversed().forEach { it.close() }
            throw error
        }
    }

    /** The CPU beside the NPU; null where it would only be measured, and there is no memory for both. */
    private fun openBeside(model: NpuModel, mode: NpuMode?): OpenedModel? = try {
        openCpu(model)
    } catch (error: MimoException.MemoryFull) {
        if (mode == NpuMode.SPLIT || !npu.computesTokens) throw error
        config.warn("$npu: the NPU computes all, and nothing is measured: ${error.message}.")
        null
    }

    private fun fastest(verdict: Verdict) = verdict.fastest(npu.computesTokens)

    /** What is fastest, remembered for the next load. */
    private fun measured(test: SelfTest, npuBackend: Backend, cpu: Backend): NpuMode {
        val verdict = Verdict(test, Speed.of(npuBackend), Speed.of(cpu))
        kept?.keep(verdict)
        val told = verdict.told(npu.computesTokens)
        return fastest(verdict)?.also { config.info("$npu: $told.") } ?: throw slower(verdict)
    }

    private fun slower(verdict: Verdict) = MimoException.ProviderUnavailable(verdict.told(npu.computesTokens))
}
