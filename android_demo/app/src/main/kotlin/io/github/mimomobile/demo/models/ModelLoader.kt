package io.github.mimomobile.demo.models

import android.content.Context
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.ProblemException
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.onceIdle
import io.github.mimomobile.demo.problemOf
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Verification
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.collectLatest
import kotlinx.coroutines.flow.combine
import kotlinx.coroutines.flow.filterIsInstance
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.receiveAsFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/**
 * Loads models into the engine, one in place of the other, and says so in [current].
 *
 * @property list Looks at the folders again.
 */
class ModelLoader(
    context: Context,
    private val scope: CoroutineScope,
    private val engine: MimoEngine,
    private val settings: SettingsStore,
    private val folders: ModelFolders,
    private val marker: LoadMarker,
    private val verified: VerifiedModels,
    private val current: MutableStateFlow<ModelsUiState>,
    private val list: suspend () -> Unit,
) {
    private val configs = LoadConfigs(context, engine, folders)

    private data class Wanted(val path: String, val mode: Mode? = null, val compared: Compared? = null)

    /** Models to be loaded; only the last one counts. */
    private val wanted = Channel<Wanted>(Channel.CONFLATED)

    /** What is open for the engine: documents must be as long as they are loaded. */
    private val opened = ArrayDeque<OpenedModel>()

    /** The settings of the last load. */
    private var loadedWith: List<Any?> = emptyList()

    /** Loads whatever is wanted from now on, and again when the settings of what is loaded change. */
    fun start() {
        scope.launch { combine(engine.state, current.map { it.load }) { _, _ -> }.collect { noticeUnloading() } }
        scope.launch { wanted.receiveAsFlow().collectLatest(::loadNow) }
        scope.launch {
            settings.values.collect { chosen ->
                val path = current.value.load.path
                if (path != null && chosen.loading(path) != loadedWith) reload()
            }
        }
    }

    fun load(path: String, mode: Mode? = null, compared: Compared? = null) {
        current.update { it.copy(crash = null) }
        wanted.trySend(Wanted(path, mode, compared))
    }

    /** The same at the app's start: what ended the app before is still to be seen. */
    fun loadUnasked(path: String) {
        wanted.trySend(Wanted(path))
    }

    suspend fun ready(path: String, mode: Mode? = null, compared: Compared? = null): LoadState.Ready {
        fun isIt(load: LoadState) = load.path == path && load.mode == mode && load.compared == compared
        fun isOver(load: LoadState) = load is LoadState.Ready || load is LoadState.Failed
        val now = current.value.load
        val ended = if (compared == null && isIt(now) && isOver(now)) now else {
            load(path, mode, compared)
            current.map { it.load }.first { it !== now && isOver(it) }
        }
        if (ended is LoadState.Failed) throw ProblemException(ended.problem)
        if (ended !is LoadState.Ready || !isIt(ended)) throw ProblemException(Problem.Kind.MODEL, "$path: not there any more")
        engine.state.first { it !is EngineState.Generating } // or is saving what it computed
        return ended
    }

    fun reload() {
        when (val load = current.value.load) {
            is LoadState.Ready -> load(load.path)
            is LoadState.Failed -> load(load.path)
            is LoadState.Loading -> load(load.path)
            is LoadState.Unloaded -> load(load.path)
            LoadState.None -> Unit
        }
    }

    /** Android's shortage of memory has the engine unload, at any time. */
    private fun noticeUnloading() {
        if (engine.state.value != EngineState.Empty) return
        current.update { state ->
            val load = state.load as? LoadState.Ready ?: return@update state
            state.copy(load = LoadState.Unloaded(load.path, load.info.name, load.mode))
        }
    }

    private suspend fun loadNow(asked: Wanted) {
        list()
        val found = current.value.models.firstOrNull { it.path == asked.path } ?: ModelEntry(folders.nano, Origin.BUNDLED)
        val entry = found.taking(asked.compared?.recipe)
        val name = entry.name
        settings.modelPath = entry.path
        val chosen = settings.values.value
        loadedWith = chosen.loading(entry.path)
        become(LoadState.Loading(entry.path, name, 0, 0, asked.compared))
        engine.stop()
        engine.state.first { it !is EngineState.Generating }
        val watch = scope.launch {
            engine.state.filterIsInstance<EngineState.Loading>().collect {
                become(LoadState.Loading(entry.path, name, it.doneBytes, it.totalBytes, asked.compared))
            }
        }
        try {
            val config = withContext(Dispatchers.IO) {
                val known = entry in verified
                marker.begin(entry.path)
                configs.of(entry, chosen, asked.mode, asked.compared, if (known) Verification.SIZE else Verification.SHA256)
            }
            val model = withContext(Dispatchers.IO) { folders.lone.open(entry) }.also(opened::addLast)
            load(model, config, name)
            verified += entry
            watch.cancelAndJoin()
            val info = when (val state = engine.state.value) {
                is EngineState.Ready -> state.model
                is EngineState.Generating -> state.model // somebody was quick
                EngineState.Empty -> return become(LoadState.Unloaded(entry.path, name, asked.mode))
                else -> return
            }
            become(LoadState.Ready(entry.path, if (entry.lone == null) info else info.copy(name = name), asked.mode, asked.compared))
        } catch (error: ProblemException) {
            watch.cancelAndJoin()
            become(LoadState.Failed(entry.path, name, error.problem, asked.mode, asked.compared))
        } finally {
            watch.cancel()
            marker.end()
        }
    }

    /** An error names the model, and not the number of its open file. */
    private suspend fun load(model: OpenedModel, config: EngineConfig, name: String) = try {
        engine.onceIdle(needsModel = false) { engine.load(model.file, config) }
        closeOthers()
    } catch (error: MimoException) {
        closeOthers()
        val problem = problemOf(error)
        throw ProblemException(problem.copy(detail = problem.detail.replace(model.file.path, name)))
    }

    /** The engine has let go of what it had before. */
    private fun closeOthers() {
        while (opened.size > 1) opened.removeFirst().close()
    }

    private fun become(load: LoadState) = current.update { it.copy(load = load) }
}
