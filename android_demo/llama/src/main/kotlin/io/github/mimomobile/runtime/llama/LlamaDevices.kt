package io.github.mimomobile.runtime.llama

import com.sun.jna.Pointer
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.MimoException
import java.io.File

/**
 * Something that computes beside the CPU.
 *
 * @property name By llama.cpp, such as HTP0.
 * @property description What it is, and what it is driven by as far as llama.cpp tells.
 * @property handle llama.cpp's.
 */
internal class LlamaDevice(val name: String, val description: String, val handle: Pointer) {
    override fun toString(): String = "$name ($description)"
}

/** Finds devices; tests give others. */
internal fun interface LlamaDevices {
    /**
     * The devices of [provider].
     *
     * @throws MimoException.ProviderUnavailable There are none.
     */
    fun find(provider: ExecutionProvider): List<LlamaDevice>
}

/**
 * The devices of llama.cpp's libraries in this app, which are loaded when they are asked for.
 *
 * It was never run on a phone: no Hexagon and no Adreno was at hand. What is tested is all that llama.cpp does not do itself.
 *
 * @param folder Where files for the NPU are put, which loads them from there.
 */
internal class LoadedDevices(private val api: LlamaApi, private val folder: File) : LlamaDevices {
    override fun find(provider: ExecutionProvider): List<LlamaDevice> {
        val (library, registered) = LIBRARIES[provider]
            ?: throw MimoException.ProviderUnavailable("$provider does not compute GGUF files; take CPU, HEXAGON or OPENCL")
        if (provider == ExecutionProvider.HEXAGON) HexagonFiles(folder).prepare()
        val before = (0 until api.ggml_backend_reg_count()).map { api.ggml_backend_reg_name(api.ggml_backend_reg_get(it)) }
        // Loaded once for the process. Drivers that are not there are no devices, or no library.
        if (registered !in before) LlamaLibrary.log.listening { api.ggml_backend_load(System.mapLibraryName(library)) }
        val found = (0 until api.ggml_backend_dev_count()).map(api::ggml_backend_dev_get)
            .filter { api.ggml_backend_reg_name(api.ggml_backend_dev_backend_reg(it)) == registered }
            .map { LlamaDevice(api.ggml_backend_dev_name(it), api.ggml_backend_dev_description(it), it) }
        if (found.isEmpty()) {
            val told = LlamaLibrary.log.text()
            throw MimoException.ProviderUnavailable("$provider: llama.cpp finds no such device here ($told); take CPU")
        }
        // More sessions on one NPU are for models that one has no room for; llama.cpp has them asked for by its own variables.
        return found
    }

    private companion object {
        /** The library of each, and the name under which llama.cpp registers it. */
        val LIBRARIES = mapOf(
            ExecutionProvider.HEXAGON to ("ggml-hexagon" to "HTP"),
            ExecutionProvider.OPENCL to ("ggml-opencl" to "OpenCL"),
        )
    }
}
