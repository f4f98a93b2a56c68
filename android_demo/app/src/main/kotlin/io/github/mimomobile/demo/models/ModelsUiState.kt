package io.github.mimomobile.demo.models

import io.github.mimomobile.demo.Problem
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.ModelManifest
import java.io.File

/** Where a model's folder is. */
enum class Origin { BUNDLED, IMPORTED, PUSHED, UNFINISHED }

/** A folder with a model, or with what should be one: then [problem] says why it is not. */
data class ModelEntry(
    val folder: File,
    val origin: Origin,
    val manifest: ModelManifest? = null,
    val shape: ModelShape? = null,
    val problem: String? = null,
) {
    val path: String get() = folder.path
    val name: String get() = manifest?.model ?: folder.name.removeSuffix(PARTIAL)
}

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

/** What the engine holds. */
sealed interface LoadState {
    /** The model's folder; null when there is none. */
    val path: String?

    /** The model's name; null when there is none. */
    val name: String?

    /** What was asked to compute; null leaves it to the settings. */
    val mode: Mode? get() = null

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
    ) : LoadState

    data class Ready(override val path: String, val info: ModelInfo, override val mode: Mode? = null) : LoadState {
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
 * @property problem Of the last task.
 * @property verified Name of the model that was found whole by the last task.
 */
data class ModelsUiState(
    val models: List<ModelEntry> = emptyList(),
    val listed: Boolean = false,
    val load: LoadState = LoadState.None,
    val crash: Crash? = null,
    val task: ModelTask? = null,
    val problem: Problem? = null,
    val verified: String? = null,
    val freeBytes: Long = 0,
)
