package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ModelManifest
import java.io.File

/** What [EngineConfig.cacheFolder] keeps: weights of models in this CPU's order. Several models may share a folder. */
public object WeightCache {
    /** Storage that a model takes there, about, beside its own files: what to ask users before it is written. */
    public fun neededBytes(manifest: ModelManifest): Long =
        neededBytes(manifest.files.filter { it.path.endsWith("/${Prepacked.DATA}") }.sumOf { it.sizeBytes })

    /** The same for a model whose file of weights has [weightBytes]. */
    public fun neededBytes(weightBytes: Long): Long = (Prepacked.GROWTH * weightBytes).toLong()

    /** Storage that [folder] takes now. */
    public fun usedBytes(folder: File): Long = folder.walk().filter { it.isFile }.sumOf { it.length() }

    /**
     * Removes from [folder] what is kept of models that are gone, and returns how many bytes it took. Each load with the
     * folder as its [EngineConfig.cacheFolder] does so, too; what belongs to nothing of ours stays.
     */
    public fun clean(folder: File): Long {
        val gone = folder.listFiles().orEmpty().filter { entry -> Prepacked.modelOf(entry)?.exists() == false }
        return gone.sumOf { entry -> usedBytes(entry).also { entry.deleteRecursively() } }
    }
}
