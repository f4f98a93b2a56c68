package io.github.mimomobile.demo.models

import android.content.Context
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelManifest
import java.io.File
import java.io.IOException

/** The folders that hold models, on this phone. */
class ModelFolders(private val context: Context) {
    /** In the app's own storage: unpacked or imported. */
    val own = File(context.filesDir, "models")

    /** Where `adb push` puts models; they are loaded in place. */
    val pushed: File? get() = context.getExternalFilesDir("models")

    private val everyArranged = File(context.noBackupFilesDir, "prepacked")

    val lone = LoneModels(context)
    private val shapes = Shapes(lone)
    val nano = File(own, NANO)
    val nanoSource = AssetSource(context.assets, "models/$NANO")

    /** The manifest of the bundled model when it is still to be unpacked: at the first start, or after an update. */
    fun nanoToUnpack(): ModelManifest? {
        val text = nanoSource.open(ModelManifest.NAME).use { it.readBytes().decodeToString() }
        val here = File(nano, ModelManifest.NAME)
        return if (here.isFile && here.readText() == text) null else ModelManifest.parse(text)
    }

    /** Removes what interrupted copies left, unless it exists nowhere else. */
    fun clean() {
        val partial = own.listFiles().orEmpty().filter { it.name.endsWith(PARTIAL) }
        partial.filterNot(::isMoving).forEach { it.deleteRecursively() }
    }

    /** Where a model's weights are kept in this CPU's order, if the user wants it: a folder for each model. */
    fun arranged(path: String) = File(everyArranged, "${File(path).name}-${Integer.toHexString(path.hashCode())}")

    /** Removes all that is kept in this CPU's order except of the models of [paths]: `adb` deletes models, too. */
    fun cleanArranged(paths: List<String>) {
        if (pushed == null) return // the storage is away, and so are its models
        val wanted = paths.map(::arranged)
        everyArranged.listFiles().orEmpty().filterNot { it in wanted }.forEach { it.deleteRecursively() }
    }

    /** Everything there is, the bundled model first; [recipe] is the one that was chosen for a path. */
    fun list(recipe: (path: String) -> String?): List<ModelEntry> {
        val inOwn = own.listFiles().orEmpty().filter { it.isDirectory }.map { folder ->
            when {
                folder == nano -> read(folder, Origin.BUNDLED, recipe)
                folder.name.endsWith(PARTIAL) -> ModelEntry(folder, Origin.UNFINISHED)
                else -> read(folder, Origin.IMPORTED, recipe)
            }
        }
        val inPushed = pushed?.listFiles().orEmpty().filter { it.isDirectory || lone.read(it) != null }
            .map { read(it, Origin.PUSHED, recipe) }
        return (inOwn + inPushed).map { it.copy(shape = shapes.of(it)) }.sortedWith(compareBy({ it.origin }, { it.name }))
    }

    /** A folder of its own for each model and recipe. */
    fun target(manifest: ModelManifest) =
        File(own, "${manifest.model}-${manifest.recipe}".replace(Regex("[^A-Za-z0-9_.-]+"), "-").trimStart('.'))

    private fun read(folder: File, origin: Origin, recipe: (String) -> String?): ModelEntry = try {
        val file = File(folder, ModelManifest.NAME)
        val lone = if (file.exists()) null else lone.read(folder)
        if (lone != null) ModelEntry(folder, origin(lone, origin), lone = lone) else {
            val all = recipesIn(file.readText())
            val here = all.presentIn(folder)
            val chosen = recipe(folder.path)
            val manifest = here.firstOrNull { it.recipe == chosen } ?: here.firstOrNull() ?: all.first()
            ModelEntry(folder, origin, manifest, recipes = here)
        }
    } catch (error: IOException) {
        ModelEntry(folder, origin, problem = error.message)
    } catch (error: MimoException) {
        ModelEntry(folder, origin, problem = error.message)
    }

    private fun origin(lone: LoneModel, origin: Origin) = if (lone.document != null) Origin.DOCUMENT else origin

    private companion object {
        const val NANO = "mimo-nano"
    }
}
