package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.LoadedModel
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.Progress
import io.github.mimomobile.runtime.WeightFile
import io.github.mimomobile.runtime.devices.MemoryCheck
import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.JsonReader
import io.github.mimomobile.runtime.files.MOST_DOCUMENT_BYTES
import io.github.mimomobile.runtime.files.ModelFolder
import io.github.mimomobile.runtime.files.long
import io.github.mimomobile.runtime.files.untrustedInput
import io.github.mimomobile.runtime.files.untrustedText
import io.github.mimomobile.runtime.npu.OpenPiece
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.TokenizerException
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.io.IOException

/**
 * What the runtime needs of a model's config.json.
 *
 * @property trained The longest context.
 * @property readsNormedStates Whether the MTP layer wants hidden states after the trunk's last norm.
 */
internal class Described(val trained: Long, val readsNormedStates: Boolean)

/**
 * Makes a [LoadedModel] of a folder that `mimo quantize` wrote.
 *
 * @param leastKeptBytes and [openPiece] as in [ModelOpener].
 */
internal class ModelLoader(
    private val model: ModelFolder,
    private val config: EngineConfig,
    private val leastKeptBytes: Long = Prepacked.LEAST_BYTES,
    private val openPiece: OpenPiece? = null,
) {
    /**
     * Verifies and opens the model.
     *
     * @param progress Told how many bytes of how many were verified, of the model and then of kept weights; may throw to
     *   give up.
     */
    fun load(progress: Progress): LoadedModel {
        model.verify(config.verification, progress)
        val folder = model.model
        val tokenizer = try {
            TokenizerFile.read(File(folder, "tokenizer.json"))
        } catch (error: TokenizerException) {
            throw MimoException.ModelLoad(error.message.orEmpty(), error)
        }
        val settings = settings(File(folder, "config.json"))
        val memory = MemoryCheck(model.path, config.availableBytes)
        val described = Described(settings.long("max_position_embeddings"), settings["mtp_hidden_state"] == "post_norm")
        val content = Prepacked.digest(model.manifest.files.joinToString("\n") { "${it.path} ${it.sha256}" })
        val opened =
            ModelOpener(folder, config, described, content, memory, leastKeptBytes, openPiece, progress).open()
        val template = File(folder, "chat_template.jinja")
        val info = ModelInfo(
            name = model.manifest.model,
            recipe = model.manifest.recipe,
            contextLength = opened.backend.contextLength,
            weightBytes = opened.weightBytes,
            mappedBytes = memory.mapped,
            kvCacheBytes = opened.kvBytes,
            provider = opened.provider,
            fallback = opened.fallback,
            placement = opened.placement,
            draftsWithMtp = opened.backend.mtp != null,
            hasChatTemplate = template.isFile && ChatTemplate.isKnown(text(template)),
            threads = opened.threads,
            npuMode = opened.npuMode,
            selfTest = opened.selfTest,
            synthetic = settings["mimo_mobile_synthetic"] == true,
        )
        val sums = model.manifest.files.associate { it.path to it.sha256 }
        val graph = if (config.kvCache == KvCache.INT8) "model.kv-int8.onnx" else "model.onnx"
        val weights = listOf(graph, Prepacked.DATA).filter { File(folder, it).isFile }.map {
            WeightFile(File(folder, it), sums["${model.manifest.path}/$it"])
        }
        return LoadedModel(info, tokenizer, opened.backend, weights = weights)
    }

    private fun text(file: File): String = try {
        untrustedText(file)
    } catch (error: IOException) {
        throw MimoException.ModelLoad("$file: cannot be read (${error.message}); copy the folder again", error)
    }

    private fun settings(file: File): Map<*, *> = try {
        val found = untrustedInput(file, MOST_DOCUMENT_BYTES).use { JsonReader(it).readDocument() }
        (found as Map<*, *>).also { it.long("max_position_embeddings") }
    } catch (error: IOException) {
        throw MimoException.ModelLoad("$file: cannot be read; copy the folder again", error)
    } catch (error: JsonException) {
        throw MimoException.ModelLoad("$file: max_position_embeddings expected (${error.message})", error)
    } catch (error: ClassCastException) {
        throw MimoException.ModelLoad("$file: max_position_embeddings expected", error)
    }
}
