package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.files.ModelFolder
import io.github.mimomobile.runtime.npu.OpenPiece
import java.io.File

/** A loader of the model for ONNX Runtime in a folder, with what tests change of it. */
internal fun loader(
    root: File,
    config: EngineConfig,
    leastKeptBytes: Long = Prepacked.LEAST_BYTES,
    openPiece: OpenPiece? = null,
) = ModelLoader(ModelFolder.read(root, config.recipe, setOf(OnnxFormat.NAME)), config, leastKeptBytes, openPiece)
