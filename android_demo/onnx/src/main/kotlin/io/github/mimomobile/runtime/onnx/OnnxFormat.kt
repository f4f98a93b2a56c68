package io.github.mimomobile.runtime.onnx

import ai.onnxruntime.OrtException
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.LoadedModel
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelFormat
import io.github.mimomobile.runtime.Progress
import io.github.mimomobile.runtime.files.ModelFolder
import io.github.mimomobile.runtime.files.ModelSource
import io.github.mimomobile.runtime.reason
import java.io.File

/** Folders with ONNX graphs, by ONNX Runtime. */
internal class OnnxFormat : ModelFormat {
    override val name: String get() = NAME

    override fun load(source: ModelSource, config: EngineConfig, progress: Progress): LoadedModel =
        ModelLoader(source as ModelFolder, config).load(progress) // no file alone is of this format

    override fun explain(path: File, error: Throwable): MimoException? = when (error) {
        is LinkageError -> MimoException.ModelLoad(
            "$path: ONNX Runtime's native library cannot be loaded on this device (${reason(error)}); the app needs" +
                " onnxruntime-android, whole and for this device's ABI",
            error,
        )
        is OrtException -> MimoException.ModelLoad("$path: cannot be loaded (${reason(error)})", error)
        else -> null
    }

    companion object {
        /** As manifests name it. */
        const val NAME: String = "onnx"
    }
}
