package io.github.mimomobile.demo.models

import android.content.Context
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.android.AndroidDevice
import java.io.File

/** What models are loaded with: what the user chose, on this phone, with the memory that is free now. */
class LoadConfigs(private val context: Context, private val engine: MimoEngine, private val folders: ModelFolders) {
    /** Blocks while the NPU is set up. What is [compared], and a [mode], take the place of what was chosen. */
    fun of(
        entry: ModelEntry,
        chosen: Settings,
        mode: Mode?,
        compared: Compared?,
        verification: Verification,
    ): EngineConfig {
        val own = chosen.of(entry.path)
        val provider = when (mode) {
            null -> chosen.provider
            Mode.CPU -> ExecutionProvider.CPU
            Mode.NPU, Mode.SPLIT -> ExecutionProvider.QNN
        }
        val onNpu = provider == ExecutionProvider.QNN // whose context is compiled in
        if (onNpu) AndroidDevice.setUpNpu(context)
        return EngineConfig {
            recipe = entry.manifest?.recipe
            contextLength = when {
                onNpu -> null
                compared != null -> compared.contextLength
                else -> own.contextLength ?: largestContext(entry, chosen.int8Kv)
            }
            threads = chosen.threads
            this.provider = provider
            npuMode = when (mode) {
                Mode.NPU -> NpuMode.NPU
                Mode.SPLIT -> NpuMode.SPLIT
                Mode.CPU, null -> null
            }
            driver = AndroidDevice.driver(context)
            measurementsFolder = File(context.noBackupFilesDir, "measurements")
            strict = mode != null
            speculation = Speculation.AUTO
            kvCache = if (chosen.int8Kv) KvCache.INT8 else null // what suits the file
            this.verification = verification
            availableBytes = { AndroidDevice.availableBytes(context) }
            heat = { AndroidDevice.heat(context) }
            cacheFolder = folders.arranged(entry.path).takeIf { own.keepsArranged }
            soc = AndroidDevice.soc()
        }
    }

    /** The most tokens that fit into the memory; null leaves it to the engine. */
    private fun largestContext(entry: ModelEntry, int8Kv: Boolean): Int? {
        val loaded = when (val state = engine.state.value) {
            is EngineState.Ready -> state.model
            is EngineState.Generating -> state.model // which saves an answer
            else -> null
        }
        val held = loaded?.let(ModelShape::heldBytes) ?: 0
        return entry.shape?.largestContext(AndroidDevice.availableBytes(context) + held, int8Kv)
    }
}
