package io.github.mimomobile.demo.models

import android.content.Context
import android.content.Intent
import android.net.Uri
import io.github.mimomobile.demo.ModelSettings
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.ProblemException
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.Throttle
import io.github.mimomobile.demo.problemOf
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelManifest
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.android.AndroidDevice
import java.io.File
import java.util.concurrent.atomic.AtomicBoolean
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.collectLatest
import kotlinx.coroutines.flow.combine
import kotlinx.coroutines.flow.filterIsInstance
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.receiveAsFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** The models on this phone and the one that is loaded; state holder of the model screen. Survives activities. */
class ModelHolder(
    private val context: Context,
    private val scope: CoroutineScope,
    private val engine: MimoEngine,
    private val settings: SettingsStore,
) {
    private val folders = ModelFolders(context)
    private val marker = LoadMarker(context, settings)
    private val current = MutableStateFlow(ModelsUiState())
    private val started = AtomicBoolean()

    private data class Wanted(val path: String, val mode: Mode? = null)

    /** Models to be loaded; only the last one counts. */
    private val wanted = Channel<Wanted>(Channel.CONFLATED)

    @Volatile
    private var task: Job? = null

    /** The settings of the last load. */
    private var loadedWith: List<Any?> = emptyList()

    val state: StateFlow<ModelsUiState> = current.asStateFlow()

    /** Unpacks the bundled model if that is to be done, and loads what was loaded last. Only the first call counts. */
    fun start() {
        if (started.getAndSet(true)) return
        run(ModelTask(ModelTask.Kind.UNPACK, folders.nano.name)) { progress ->
            folders.clean()
            folders.nanoToUnpack()?.let { manifest ->
                folders.nano.deleteRecursively()
                ModelCopy(folders.nanoSource, folders.nano).run(manifest, progress)
                markVerified(ModelEntry(folders.nano, Origin.BUNDLED, manifest))
            }
        }.invokeOnCompletion { loadFirst() }
        scope.launch { combine(engine.state, state.map { it.load }) { _, _ -> }.collect { noticeUnloading() } }
        scope.launch { wanted.receiveAsFlow().collectLatest(::loadNow) }
        scope.launch {
            settings.values.collect { chosen ->
                val path = state.value.load.path
                if (path != null && chosen.loading(path) != loadedWith) reload()
            }
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

    /** Loads what was loaded last. A model that ended the app is not tried again before the user asks for it. */
    private fun loadFirst() {
        val path = marker.unfinished
        if (path == null) return wanted.trySend(Wanted(settings.modelPath ?: folders.nano.path)).let {}
        scope.launch {
            list()
            val crash = Crash(path, marker.problem(path, state.value.models.firstOrNull { it.path == path }))
            current.update { it.copy(crash = crash) }
            if (path == folders.nano.path) {
                become(LoadState.Failed(path, folders.nano.name, crash.problem))
            } else {
                wanted.trySend(Wanted(folders.nano.path))
            }
        }
    }

    /** Looks at the folders again: `adb push` tells nobody. */
    fun refresh() {
        scope.launch { list() }
    }

    /** Loads a model in place of the one before; a running answer is stopped. A [mode] takes the place of the settings. */
    fun load(path: String, mode: Mode? = null) {
        current.update { it.copy(crash = null) }
        wanted.trySend(Wanted(path, mode))
    }

    /**
     * The model of [path], once it is loaded, with [mode] as in [load]; also one that was unloaded.
     *
     * @throws ProblemException It cannot be loaded.
     */
    suspend fun ready(path: String, mode: Mode? = null): LoadState.Ready {
        fun isIt(load: LoadState) = load.path == path && load.mode == mode
        fun isOver(load: LoadState) = load is LoadState.Ready || load is LoadState.Failed
        val now = state.value.load
        val ended = if (isIt(now) && isOver(now)) now else {
            load(path, mode)
            state.map { it.load }.first { it !== now && isOver(it) }
        }
        if (ended is LoadState.Failed) throw ProblemException(ended.problem)
        if (ended !is LoadState.Ready || !isIt(ended)) throw ProblemException(Problem.Kind.MODEL, "$path: not there any more")
        return ended
    }

    /** Loads the same model again, with the settings as they are now. */
    fun reload() {
        when (val load = state.value.load) {
            is LoadState.Ready -> load(load.path)
            is LoadState.Failed -> load(load.path)
            is LoadState.Loading -> load(load.path)
            is LoadState.Unloaded -> load(load.path)
            LoadState.None -> Unit
        }
    }

    /** Copies or moves a model out of a folder that the user picked, verifying it on the way, and loads it. */
    fun import(tree: Uri, move: Boolean) {
        val resolver = context.contentResolver
        import(TreeSource(resolver, tree), move).invokeOnCompletion {
            try {
                resolver.releasePersistableUriPermission(tree, Intent.FLAG_GRANT_READ_URI_PERMISSION)
                resolver.releasePersistableUriPermission(tree, Intent.FLAG_GRANT_WRITE_URI_PERMISSION)
            } catch (_: SecurityException) { // there was none
            }
        }
    }

    private fun import(source: ModelSource, move: Boolean): Job =
        run(ModelTask(ModelTask.Kind.IMPORT, "")) { progress ->
            val text = source.open(ModelManifest.NAME).use { it.readBytes().decodeToString() }
            val manifest = ModelManifest.parse(text)
            val target = folders.target(manifest)
            current.update { it.copy(task = it.task?.copy(name = manifest.model)) }
            ModelCopy(source, target, move).run(manifest, progress)
            markVerified(ModelEntry(target, Origin.IMPORTED, manifest))
            load(target.path)
        }

    fun verify(entry: ModelEntry) {
        val manifest = entry.manifest ?: return
        run(ModelTask(ModelTask.Kind.VERIFY, entry.name)) { progress ->
            settings.verified -= mark(entry)
            verifyModel(entry.folder, manifest, progress)
            markVerified(entry)
            current.update { it.copy(verified = entry.name) }
        }
    }

    fun delete(entry: ModelEntry) {
        scope.launch {
            withContext(Dispatchers.IO) {
                entry.folder.deleteRecursively()
            }
            settings.set(settings.values.value.with(entry.path, ModelSettings()))
            list()
            if (state.value.load.path == entry.path) load(folders.nano.path)
        }
    }

    /** Cancels the task on files, except unpacking: without it there is nothing to load. */
    fun cancel() {
        if (state.value.task?.kind != ModelTask.Kind.UNPACK) task?.cancel()
    }

    /** Changes what is chosen for one model; it is loaded again if it is the one that is loaded. */
    fun choose(entry: ModelEntry, chosen: ModelSettings) {
        settings.set(settings.values.value.with(entry.path, chosen))
        refresh()
    }

    /** The user has seen it. */
    fun forgetCrash() = current.update { it.copy(crash = null) }

    /** Shows why a task cannot even begin. */
    fun tell(problem: Problem) = current.update { it.copy(problem = problem) }

    /** Forgets what the last task found. */
    fun dismiss() = current.update { it.copy(problem = null, verified = null) }

    private fun run(new: ModelTask, work: suspend (Bytes) -> Unit): Job {
        val previous = task
        val job = scope.launch {
            previous?.join()
            current.update { it.copy(task = new, problem = null, verified = null) }
            val shown = Throttle()
            try {
                withContext(Dispatchers.IO) {
                    work { done, total ->
                        if (shown.due() || done == total) {
                            current.update { it.copy(task = it.task?.copy(doneBytes = done, totalBytes = total)) }
                        }
                    }
                }
            } catch (error: CancellationException) {
                throw error
            } catch (error: Exception) {
                current.update { it.copy(problem = problemOf(error)) }
            } finally {
                current.update { it.copy(task = null) }
                refresh()
            }
        }
        task = job
        return job
    }

    private suspend fun list() {
        val models = withContext(Dispatchers.IO) {
            folders.list().also { found -> folders.cleanArranged(found.map { it.path }.filter(::keeps)) }
        }
        current.update { it.copy(models = models, listed = true, freeBytes = context.filesDir.usableSpace) }
    }

    private fun keeps(path: String) = settings.values.value.of(path).keepsArranged

    private suspend fun loadNow(asked: Wanted) {
        list()
        val entry = state.value.models.firstOrNull { it.path == asked.path } ?: ModelEntry(folders.nano, Origin.BUNDLED)
        val name = entry.name
        settings.modelPath = entry.path
        val chosen = settings.values.value
        loadedWith = chosen.loading(entry.path)
        become(LoadState.Loading(entry.path, name, 0, 0))
        engine.stop()
        engine.state.first { it !is EngineState.Generating }
        val watch = scope.launch {
            engine.state.filterIsInstance<EngineState.Loading>().collect {
                become(LoadState.Loading(entry.path, name, it.doneBytes, it.totalBytes))
            }
        }
        try {
            val config = withContext(Dispatchers.IO) {
                val known = mark(entry) in settings.verified
                marker.begin(entry.path)
                config(entry, chosen, asked.mode, if (known) Verification.SIZE else Verification.SHA256)
            }
            engine.load(entry.folder, config)
            markVerified(entry)
            watch.cancelAndJoin()
            val info = when (val state = engine.state.value) {
                is EngineState.Ready -> state.model
                is EngineState.Generating -> state.model // somebody was quick
                EngineState.Empty -> return become(LoadState.Unloaded(entry.path, name, asked.mode))
                else -> return
            }
            become(LoadState.Ready(entry.path, info, asked.mode))
        } catch (error: MimoException) {
            watch.cancelAndJoin()
            become(LoadState.Failed(entry.path, name, problemOf(error), asked.mode))
        } finally {
            watch.cancel()
            marker.end()
        }
    }

    private fun config(entry: ModelEntry, chosen: Settings, mode: Mode?, verification: Verification): EngineConfig {
        val own = chosen.of(entry.path)
        val provider = when (mode) {
            null -> chosen.provider
            Mode.CPU -> ExecutionProvider.CPU
            Mode.NPU, Mode.SPLIT -> ExecutionProvider.QNN
        }
        val onNpu = provider == ExecutionProvider.QNN // whose context is compiled in
        if (onNpu) AndroidDevice.setUpNpu(context)
        return EngineConfig {
            contextLength = if (onNpu) null else own.contextLength ?: largestContext(entry, chosen.int8Kv)
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
            kvCache = if (chosen.int8Kv) KvCache.INT8 else KvCache.FLOAT16
            this.verification = verification
            availableBytes = { AndroidDevice.availableBytes(context) }
            heat = { AndroidDevice.heat(context) }
            cacheFolder = folders.arranged(entry.path).takeIf { own.keepsArranged }
            soc = AndroidDevice.soc()
        }
    }

    /** The most tokens that fit into the memory; null leaves it to the engine. */
    private fun largestContext(entry: ModelEntry, int8Kv: Boolean): Int? {
        val held = (engine.state.value as? EngineState.Ready)?.model?.let(ModelShape::heldBytes) ?: 0
        return entry.shape?.largestContext(AndroidDevice.availableBytes(context) + held, int8Kv)
    }

    private fun become(load: LoadState) = current.update { it.copy(load = load) }

    private fun markVerified(entry: ModelEntry) {
        settings.verified += mark(entry)
    }

    /** Changes when a file of the model does. */
    private fun mark(entry: ModelEntry): String {
        val files = entry.manifest?.files.orEmpty().map { File(entry.folder, it.path) }
        return "${entry.path}|${files.sumOf { it.length() }}|${files.maxOfOrNull { it.lastModified() } ?: 0}"
    }
}
