package io.github.mimomobile.demo.models

import android.content.Context
import android.content.Intent
import android.net.Uri
import io.github.mimomobile.demo.ModelSettings
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.ProblemException
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.Throttle
import io.github.mimomobile.demo.bench.Speeds
import io.github.mimomobile.demo.bench.recordsFolder
import io.github.mimomobile.demo.problemOf
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.ModelManifest
import java.util.concurrent.atomic.AtomicBoolean
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
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
    private val verified = VerifiedModels(settings)
    private val loader = ModelLoader(context, scope, engine, settings, folders, marker, verified, current, ::list)

    @Volatile
    private var task: Job? = null

    val state: StateFlow<ModelsUiState> = current.asStateFlow()

    /** Unpacks the bundled model if that is to be done, and loads what was loaded last. Only the first call counts. */
    fun start() {
        if (started.getAndSet(true)) return
        run(ModelTask(ModelTask.Kind.UNPACK, folders.nano.name)) { progress ->
            folders.clean()
            folders.nanoToUnpack()?.let { manifest ->
                folders.nano.deleteRecursively()
                ModelCopy(folders.nanoSource, folders.nano).run(manifest, progress)
                verified += ModelEntry(folders.nano, Origin.BUNDLED, manifest)
            }
        }.invokeOnCompletion { loadFirst() }
        loader.start()
    }

    /** Loads what was loaded last. A model that ended the app is not tried again before the user asks for it. */
    private fun loadFirst() {
        val path = marker.unfinished
        if (path == null) return loader.loadUnasked(settings.modelPath ?: folders.nano.path)
        scope.launch {
            list()
            val crash = Crash(path, marker.problem(path, state.value.models.firstOrNull { it.path == path }))
            current.update { it.copy(crash = crash) }
            if (path == folders.nano.path) {
                current.update { it.copy(load = LoadState.Failed(path, folders.nano.name, crash.problem)) }
            } else {
                loader.loadUnasked(folders.nano.path)
            }
        }
    }

    /** Looks at the folders again: `adb push` tells nobody. */
    fun refresh() {
        scope.launch { list() }
    }

    /**
     * Loads a model in place of the one before; a running answer is stopped. A [mode] takes the place of the settings,
     * and so does what is [compared].
     */
    fun load(path: String, mode: Mode? = null, compared: Compared? = null) = loader.load(path, mode, compared)

    /**
     * The model of [path], once it is loaded, with [mode] as in [load]; also one that was unloaded. What is [compared] is
     * always loaded anew.
     *
     * @throws ProblemException It cannot be loaded.
     */
    suspend fun ready(path: String, mode: Mode? = null, compared: Compared? = null): LoadState.Ready =
        loader.ready(path, mode, compared)

    /** Loads the same model again, with the settings as they are now. */
    fun reload() = loader.reload()

    /**
     * Copies or moves a model out of a folder that the user picked, verifying it on the way, and loads it. Of several
     * recipes the user takes one: without [recipe] it is asked for, and nothing done yet.
     */
    fun import(tree: Uri, move: Boolean, recipe: String? = null) {
        val resolver = context.contentResolver
        current.update { it.copy(choice = null) }
        import(TreeSource(resolver, tree), move, recipe) { recipes ->
            current.update { it.copy(choice = RecipeChoice(tree, move, recipes)) }
        }.invokeOnCompletion {
            if (state.value.choice?.tree == tree) return@invokeOnCompletion // it goes on with the user's choice
            release(tree)
        }
    }

    private fun release(tree: Uri) = try {
        context.contentResolver.releasePersistableUriPermission(tree, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        context.contentResolver.releasePersistableUriPermission(tree, Intent.FLAG_GRANT_WRITE_URI_PERMISSION)
    } catch (_: SecurityException) { // there was none
    }

    private fun import(source: ModelSource, move: Boolean, recipe: String?, ask: (List<ModelManifest>) -> Unit): Job =
        run(ModelTask(ModelTask.Kind.IMPORT, "")) { progress ->
            val text = source.open(ModelManifest.NAME).use { it.readBytes().decodeToString() }
            val recipes = recipesIn(text)
            if (recipe == null && recipes.size > 1) return@run ask(recipes)
            val manifest = if (recipe == null) recipes.single() else ModelManifest.parse(text, recipe)
            val target = folders.target(manifest)
            current.update { it.copy(task = it.task?.copy(name = manifest.model)) }
            ModelCopy(source, target, move).run(manifest, progress)
            verified += ModelEntry(target, Origin.IMPORTED, manifest)
            load(target.path)
        }

    /** The user takes none of the recipes that were offered. */
    fun importNothing() {
        val tree = state.value.choice?.tree ?: return
        current.update { it.copy(choice = null) }
        release(tree)
    }

    /** Adds a GGUF file that the user picked, read where it is or else copied, and loads it. */
    fun open(document: Uri) {
        run(ModelTask(ModelTask.Kind.IMPORT, "")) { progress ->
            val named = { model: LoneModel -> current.update { it.copy(task = it.task?.copy(name = model.name)) } }
            load(folders.lone.add(document, folders.own, named, progress).path)
        }
    }

    fun verify(entry: ModelEntry) {
        val manifest = entry.manifest ?: return
        run(ModelTask(ModelTask.Kind.VERIFY, entry.name)) { progress ->
            verified -= entry
            verifyModel(entry.folder, manifest, progress)
            verified += entry
            current.update { it.copy(verified = entry.name) }
        }
    }

    fun delete(entry: ModelEntry) {
        scope.launch {
            withContext(Dispatchers.IO) {
                entry.folder.deleteRecursively()
                if (entry.lone?.file == entry.folder) mtpBeside(entry.folder).delete()
                entry.lone?.document?.let(folders.lone::release)
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
            folders.list { settings.values.value.of(it).recipe }.also { found -> folders.cleanArranged(found.map { it.path }.filter(::keeps)) }
        }
        val speeds = withContext(Dispatchers.IO) { Speeds.read(recordsFolder(context)) }
        current.update {
            it.copy(models = models, listed = true, freeBytes = context.filesDir.usableSpace, speeds = speeds)
        }
    }

    private fun keeps(path: String) = settings.values.value.of(path).keepsArranged
}
