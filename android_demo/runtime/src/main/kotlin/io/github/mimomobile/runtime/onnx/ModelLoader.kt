package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.JsonReader
import io.github.mimomobile.runtime.files.Manifest
import io.github.mimomobile.runtime.files.long
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.Tokenizer
import io.github.mimomobile.runtime.text.TokenizerException
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.io.IOException
import java.util.Locale

/** A model that is ready, and what is known of it. */
internal class LoadedModel(val info: ModelInfo, val tokenizer: Tokenizer, val backend: Backend) : AutoCloseable {
    override fun close() = backend.close()
}

/** Makes a [LoadedModel] of a folder that `mimo quantize` wrote. */
internal class ModelLoader(private val root: File, private val config: EngineConfig) {
    /**
     * Verifies and opens the model.
     *
     * @param progress Told how many bytes of how many were verified; may throw to give up.
     */
    fun load(progress: (doneBytes: Long, totalBytes: Long) -> Unit): LoadedModel {
        val manifest = Manifest.read(root)
        val entry = manifest.entry(config.recipe)
        manifest.verify(entry, config.verification, progress)
        val folder = manifest.folder(entry)
        val tokenizer = try {
            TokenizerFile.read(File(folder, "tokenizer.json"))
        } catch (error: TokenizerException) {
            throw MimoException.ModelLoad(error.message.orEmpty(), error)
        }
        val settings = settings(File(folder, "config.json"))
        val context = contextLength(settings.long("max_position_embeddings"))
        val weights = entry.parts.filter { it.path.endsWith(".data") }.sumOf { it.sizeBytes }
        val memory = MemoryCheck(root, config.availableBytes)
        memory.fits("weights in this CPU's order", (PREPACKED_SIZE * weights).toLong())

        val runtime = OrtRuntime(config)
        val trunk = CachedGraph(runtime, trunkFile(folder), context, OrtBackend.MOST_ROWS, profiled = true) {
            memory.fits("KV cache of $context tokens", it)
        }
        var placement = emptyMap<String, Int>()
        val layer = try {
            if (runtime.provider != ExecutionProvider.CPU) placement = trunk.placement().also(runtime::learn)
            openMtp(folder, context, runtime, memory)
        } catch (error: MimoException) {
            trunk.close()
            throw error
        }
        val template = File(folder, "chat_template.jinja")
        val info = ModelInfo(
            name = manifest.model,
            recipe = entry.recipe,
            contextLength = context,
            weightBytes = weights,
            kvCacheBytes = trunk.kvBytes,
            provider = runtime.provider,
            fallback = runtime.fallback,
            placement = placement,
            draftsWithMtp = layer != null,
            hasChatTemplate = template.isFile && ChatTemplate.isKnown(template.readText()),
            synthetic = settings["mimo_mobile_synthetic"] == true,
        )
        return LoadedModel(info, tokenizer, OrtBackend(trunk, layer, runtime))
    }

    private fun openMtp(folder: File, context: Int, runtime: OrtRuntime, memory: MemoryCheck): OrtMtpLayer? {
        val file = File(folder, "mtp.onnx")
        if (config.speculation == Speculation.OFF || config.speculation == Speculation.AUTO && !file.isFile) return null
        if (!file.isFile) {
            throw MimoException.ModelLoad("$folder: no mtp.onnx; the checkpoint had no MTP layer, take AUTO or OFF")
        }
        val graph = CachedGraph(runtime, file, context, 1, setOf("hidden_states")) {
            memory.fits("KV cache of the MTP layer", it)
        }
        return OrtMtpLayer(graph, runtime)
    }

    private fun trunkFile(folder: File): File {
        val name = if (config.kvCache == KvCache.INT8) "model.kv-int8.onnx" else "model.onnx"
        return File(folder, name).also {
            if (!it.isFile) throw MimoException.ModelLoad("$folder: no $name; quantize again, or take another kvCache")
        }
    }

    private fun settings(file: File): Map<*, *> = try {
        (file.inputStream().use { JsonReader(it).readValue() } as Map<*, *>).also { it.long("max_position_embeddings") }
    } catch (error: IOException) {
        throw MimoException.ModelLoad("$file: cannot be read; copy the folder again", error)
    } catch (error: JsonException) {
        throw MimoException.ModelLoad("$file: max_position_embeddings expected (${error.message})", error)
    } catch (error: ClassCastException) {
        throw MimoException.ModelLoad("$file: max_position_embeddings expected", error)
    }

    private fun contextLength(trained: Long): Int {
        val asked = config.contextLength ?: return minOf(trained, DEFAULT_CONTEXT).toInt()
        if (asked > trained) {
            throw MimoException.ModelLoad("$root: contextLength $asked asked for, trained for $trained")
        }
        return asked
    }

    private companion object {
        /** Prepacked weights over the data file: 544 MB of 451 were measured for blocks of 32. */
        const val PREPACKED_SIZE = 1.2

        /** Tokens; a KV cache for all that MiMo-7B was trained for would take 4.8 GB. */
        const val DEFAULT_CONTEXT = 4096L
    }
}

/** Says beforehand that a model would not fit. */
internal class MemoryCheck(private val model: File, private val availableBytes: () -> Long?) {
    /** @throws MimoException.MemoryFull [bytes] more are not available. */
    fun fits(what: String, bytes: Long) {
        val available = availableBytes() ?: return
        if (bytes > available) {
            throw MimoException.MemoryFull(
                "$model: ${gb(bytes)} of memory needed for $what, ${gb(available)} available;" +
                    " take a shorter contextLength or a smaller recipe, or close other apps",
            )
        }
    }

    private fun gb(bytes: Long): String = "%.2f GB".format(Locale.ROOT, bytes / 1e9)
}
