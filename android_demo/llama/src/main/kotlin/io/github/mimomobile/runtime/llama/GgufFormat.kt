package io.github.mimomobile.runtime.llama

import com.sun.jna.Platform
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.LoadedModel
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelFormat
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.Progress
import io.github.mimomobile.runtime.WeightFile
import io.github.mimomobile.runtime.devices.KeptVerdict
import io.github.mimomobile.runtime.devices.SelfTest
import io.github.mimomobile.runtime.devices.fastCores
import io.github.mimomobile.runtime.files.KeptSums
import io.github.mimomobile.runtime.files.ModelFolder
import io.github.mimomobile.runtime.files.ModelSource
import io.github.mimomobile.runtime.files.identityOf
import io.github.mimomobile.runtime.files.sha256
import io.github.mimomobile.runtime.reason
import io.github.mimomobile.runtime.text.ChatTemplate
import java.io.File

/** GGUF files, by llama.cpp: in a folder with a manifest, or alone. */
internal class GgufFormat : ModelFormat {
    override val name: String get() = NAME

    override fun load(source: ModelSource, config: EngineConfig, progress: Progress): LoadedModel {
        val folder = source as? ModelFolder
        folder?.verify(config.verification, progress)
        val file = folder?.model ?: source.path
        val needs = GgufNeeds.of(file, config)
        if (Platform.isAndroid()) DeviceNeeds.miscomputed(needs.model)?.let { throw MimoException.ModelLoad("$file: $it") }
        val tokenizer = tokenizerIn(needs.header)
        val context = needs.contextLength()
        val need = needs.choose(context)
        val threads = config.threads ?: fastCores()
        val (api, log) = LlamaLibrary.run { api to log }
        val opener = LlamaOpener(api, log)
        val norm = if (need.drafts) needs.header.float32("output_norm.weight") else null
        val drafter = if (need.drafts) needs.drafter?.file else null
        val choice = LlamaChoice(
            config, "$file", needs.model.layers + 1, LoadedDevices(api, folderFor(config)),
            fits = { needs.checkDevice(need, it, needs.model.layers + 1) },
            open = { placement ->
                opener.open(
                    LlamaWay(
                        file, drafter, norm, tokenizer.size, context, threads, needs.kvCache, need.copies, placement,
                        needs.kvBytesPerToken, windowsOf(needs.header, needs.model.layers),
                    ),
                )
            },
            offloaded = { log.offloaded },
            test = { SelfTest.run(it, referenceIn(needs.header, needs.model), "$file", SelfTest.TOLERANCE) },
            kept = { devices -> kept(config, folder, file, devices) },
        )
        val placed = choice.open()
        val info = info(needs, need, placed, folder, threads, context)
        val trunk = needs.header.file
        val sum = folder?.manifest?.files?.firstOrNull { File(folder.path, it.path).canonicalFile == trunk.canonicalFile }
        val sums = config.measurementsFolder?.let(::KeptSums)
        val weights = listOf(WeightFile(trunk, sum?.sha256, sums))
        return LoadedModel(info, tokenizer, placed.backend, weights)
    }

    override fun explain(path: File, error: Throwable): MimoException? = (error as? LinkageError)?.let {
        MimoException.ModelLoad(
            "$path: llama.cpp's native libraries cannot be loaded on this device (${reason(it)}); the app needs" +
                " mimo-mobile-llama and jna, whole and for this device's ABI",
            it,
        )
    }

    private fun info(
        needs: GgufNeeds,
        need: MemoryNeed,
        placed: PlacedModel<LlamaBackend>,
        folder: ModelFolder?,
        threads: Int,
        context: Int,
    ): ModelInfo {
        val header = needs.header
        val files = listOfNotNull(header, needs.drafter.takeIf { need.drafts }).distinct()
        val template = header.text(CHAT_TEMPLATE)
        return ModelInfo(
            name = folder?.manifest?.model ?: header.file.nameWithoutExtension,
            recipe = folder?.manifest?.recipe ?: commonType(header),
            contextLength = context,
            weightBytes = files.sumOf { each -> each.tensors.values.sumOf { it.bytes } },
            kvCacheBytes = need.kvBytes,
            provider = placed.provider,
            fallback = placed.fallback,
            placement = placed.placement,
            draftsWithMtp = placed.backend.mtp != null,
            hasChatTemplate = template != null && ChatTemplate.isKnown(template),
            synthetic = header.value("mimo_mobile_synthetic") == true,
            mappedBytes = need.mappedBytes,
            threads = threads,
            selfTest = placed.selfTest,
        )
    }

    /** What most of a file's weights are stored as. */
    private fun commonType(header: GgufHeader): String =
        header.tensors.values.groupBy { it.type }.maxBy { (_, all) -> all.sumOf { it.bytes } }.key.name.lowercase()

    /** In which files for the NPU are put. */
    private fun folderFor(config: EngineConfig): File =
        config.cacheFolder ?: config.measurementsFolder ?: File(System.getProperty("java.io.tmpdir").orEmpty())

    /**
     * Where a measurement on these devices, with these drivers and this model is kept; null where drivers are unknown,
     * or the model cannot be known again.
     */
    fun kept(config: EngineConfig, folder: ModelFolder?, file: File, devices: List<LlamaDevice>): KeptVerdict? {
        val (place, driver) = Pair(config.measurementsFolder ?: return null, config.driver ?: return null)
        val content = folder?.manifest?.files?.joinToString { it.sha256 } ?: identityOf(file) ?: return null
        val own = config.run { listOf(threads, providerOptions.toSortedMap(), speculation, kvCache, repack) }
        val key = listOf(driver, content, devices, own).joinToString("\n")
        return KeptVerdict(File(place, "selftest-${sha256(key).take(DIGITS)}.json"))
    }

    companion object {
        /** As manifests name it. */
        const val NAME: String = "gguf"
        private const val DIGITS = 32
    }
}
