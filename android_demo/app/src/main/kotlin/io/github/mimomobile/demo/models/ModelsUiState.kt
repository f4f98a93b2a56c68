package io.github.mimomobile.demo.models

import android.net.Uri
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.bench.Speeds
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.ModelManifest
import java.io.File

/** Where a model's folder is. */
enum class Origin { BUNDLED, IMPORTED, DOCUMENT, PUSHED, UNFINISHED }

/**
 * A folder with a model, or with what should be one: then [problem] says why it is not.
 *
 * @property manifest Of the recipe that is taken.
 * @property recipes All that are here, where there is a manifest.
 * @property lone The GGUF file, where there is no manifest.
 */
data class ModelEntry(
    val folder: File,
    val origin: Origin,
    val manifest: ModelManifest? = null,
    val shape: ModelShape? = null,
    val problem: String? = null,
    val recipes: List<ModelManifest> = listOfNotNull(manifest),
    val lone: LoneModel? = null,
) {
    val path: String get() = folder.path
    val name: String get() = manifest?.model ?: lone?.name ?: folder.name.removeSuffix(PARTIAL)
    val sizeBytes: Long? get() = if (manifest != null) manifest.sizeBytes else lone?.sizeBytes

    /** The same with another one of its recipes. */
    fun taking(recipe: String?): ModelEntry =
        recipes.firstOrNull { it.recipe == recipe }?.let { copy(manifest = it) } ?: this

    /** Whether there is anything to load. */
    val isWhole: Boolean get() = manifest != null || lone != null
}

/** A picked folder has several recipes, of which the user takes one. */
data class RecipeChoice(val tree: Uri, val move: Boolean, val recipes: List<ModelManifest>)

/** What computes, where it is not left to the settings; [label] is its name in intents and records. */
enum class Mode(val label: String) {
    /** All on Qualcomm's NPU. */
    NPU("npu"),

    /** Prompts on the NPU, tokens on the CPU. */
    SPLIT("split"),

    /** All on the CPU. */
    CPU("cpu"),
    ;

    companion object {
        fun named(label: String): Mode? = entries.firstOrNull { it.label == label }
    }
}

/** How a model is loaded to be compared with another one, whatever the settings say. */
data class Compared(val recipe: String?, val contextLength: Int)

/** What the engine holds. */
sealed interface LoadState {
    /** The model's folder; null when there is none. */
    val path: String?

    /** The model's name; null when there is none. */
    val name: String?

    /** What was asked to compute; null leaves it to the settings. */
    val mode: Mode? get() = null

    /** As what it was loaded to be compared; null when it was not. */
    val compared: Compared? get() = null

    /** Whether it is known how the load ended. */
    val isDecided: Boolean get() = this is Ready || this is Unloaded || this is Failed

    /** Whether there is a model to compute with, at once or when it was loaded again. */
    val canCompute: Boolean get() = this is Ready || this is Unloaded

    data object None : LoadState {
        override val path: String? get() = null
        override val name: String? get() = null
    }

    data class Loading(
        override val path: String,
        override val name: String,
        val doneBytes: Long,
        val totalBytes: Long,
        override val compared: Compared? = null,
    ) : LoadState

    data class Ready(
        override val path: String,
        val info: ModelInfo,
        override val mode: Mode? = null,
        override val compared: Compared? = null,
    ) : LoadState {
        override val name: String get() = info.name
    }

    /** Memory was short while the app was in the background; [ModelHolder.ready] brings it back. */
    data class Unloaded(
        override val path: String,
        override val name: String,
        override val mode: Mode? = null,
    ) : LoadState

    data class Failed(
        override val path: String,
        override val name: String,
        val problem: Problem,
        override val mode: Mode? = null,
        override val compared: Compared? = null,
    ) : LoadState
}

/** The load of the model of [path] ended the app. */
data class Crash(val path: String, val problem: Problem)

/** Long work on files. */
data class ModelTask(val kind: Kind, val name: String, val doneBytes: Long = 0, val totalBytes: Long = 0) {
    enum class Kind { UNPACK, IMPORT, VERIFY }

    val fraction: Float? get() = if (totalBytes > 0) doneBytes.toFloat() / totalBytes else null
}

/**
 * The model screen.
 *
 * @property listed Whether the folders were looked at.
 * @property crash That the load of a model ended the app before; until another model is chosen.
 * @property choice What is asked before an import.
 * @property problem Of the last task.
 * @property speeds Those that benchmarks on this phone found.
 * @property verified Name of the model that was found whole by the last task.
 */
data class ModelsUiState(
    val models: List<ModelEntry> = emptyList(),
    val listed: Boolean = false,
    val load: LoadState = LoadState.None,
    val crash: Crash? = null,
    val task: ModelTask? = null,
    val choice: RecipeChoice? = null,
    val problem: Problem? = null,
    val verified: String? = null,
    val freeBytes: Long = 0,
    val speeds: Speeds = Speeds(),
)
