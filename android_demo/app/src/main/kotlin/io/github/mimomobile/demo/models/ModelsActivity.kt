package io.github.mimomobile.demo.models

import android.annotation.SuppressLint
import android.app.AlertDialog
import android.content.ActivityNotFoundException
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.widget.CheckBox
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import io.github.mimomobile.demo.ModelSettings
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.app
import io.github.mimomobile.demo.bench.Conditions
import io.github.mimomobile.demo.ui.ProblemCard
import io.github.mimomobile.demo.ui.SEPARATOR
import io.github.mimomobile.demo.ui.ScreenActivity
import io.github.mimomobile.demo.ui.Sheet
import io.github.mimomobile.demo.ui.bytes
import io.github.mimomobile.demo.ui.show
import io.github.mimomobile.demo.ui.shown
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.ModelManifest
import io.github.mimomobile.runtime.android.AndroidDevice
import kotlinx.coroutines.flow.combine

/** The model screen; renders [ModelsUiState]. */
class ModelsActivity : ScreenActivity() {
    private val models get() = app.models
    private val cards = LinkedHashMap<String, ModelCard>()
    private var detailed: String? = null
    private var sheet: Sheet? = null
    private var question: AlertDialog? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.activity_models)
        findViewById<TextView>(R.id.title).setText(R.string.models_title)
        findViewById<View>(R.id.import_model).setOnClickListener { pick() }
        findViewById<View>(R.id.import_file).setOnClickListener { pickFile() }
        findViewById<View>(R.id.task_cancel).setOnClickListener { models.cancel() }
        val pushed = getExternalFilesDir("models")?.path.orEmpty()
        findViewById<TextView>(R.id.push_hint).text = getString(R.string.push_hint, pushed)
        render(models.state.combine(app.settings.values) { state, _ -> state }, ::render)
        detailed = state?.getString(DETAILED)
    }

    override fun onStart() {
        super.onStart()
        models.refresh()
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putString(DETAILED, detailed)
    }

    override fun onDestroy() {
        sheet?.setOnDismissListener(null)
        sheet?.dismiss()
        question?.setOnDismissListener(null)
        question?.setOnCancelListener(null)
        question?.dismiss()
        super.onDestroy()
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        val picked = data?.data
        if (result != RESULT_OK || picked == null) return
        try {
            // Without it the right to read ends with this screen, in the middle of a long import.
            val wanted = if (request == PICK) GRANTS else Intent.FLAG_GRANT_READ_URI_PERMISSION
            contentResolver.takePersistableUriPermission(picked, data.flags and wanted)
        } catch (_: SecurityException) { // the provider gives none for longer
        }
        when (request) {
            PICK -> models.import(picked, move = findViewById<CheckBox>(R.id.move).isChecked)
            PICK_FILE -> models.open(picked)
        }
    }

    private fun pick() = pick(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK)

    /** Of any type: Android knows none for GGUF. */
    private fun pickFile() =
        pick(Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*"), PICK_FILE)

    private fun pick(intent: Intent, request: Int) = try {
        startActivityForResult(intent, request)
    } catch (error: ActivityNotFoundException) { // a device without a file picker
        models.tell(Problem(Problem.Kind.STORAGE, error.message.orEmpty()))
    }

    private fun render(state: ModelsUiState) {
        findViewById<TextView>(R.id.storage).text = getString(R.string.storage_free, bytes(state.freeBytes))
        findViewById<ProblemCard>(R.id.problem).render(state.problem, R.string.dismiss) { models.dismiss() }
        findViewById<TextView>(R.id.verified).show(state.verified?.let { getString(R.string.verified, it) })
        renderTask(state.task)
        val list = findViewById<LinearLayout>(R.id.models)
        val wanted = state.models.associateBy { it.path }
        (cards.keys - wanted.keys).forEach { list.removeView(cards.remove(it)?.view) }
        wanted.values.forEachIndexed { index, entry ->
            val card = cards.getOrPut(entry.path) { ModelCard(list, this).also { list.addView(it.view, index) } }
            card.render(entry, state)
        }
        if (sheet == null) wanted[detailed]?.let(::showDetails)
        for (id in listOf(R.id.import_model, R.id.import_file)) findViewById<View>(id).isEnabled = state.task == null
        state.choice?.takeIf { question == null }?.let(::askImport)
    }

    private fun renderTask(task: ModelTask?) {
        findViewById<View>(R.id.task).shown = task != null
        if (task == null) return
        val title = when (task.kind) {
            ModelTask.Kind.UNPACK -> R.string.work_unpack
            ModelTask.Kind.IMPORT -> R.string.work_import
            ModelTask.Kind.VERIFY -> R.string.work_verify
        }
        val known = task.totalBytes > 0
        val size = if (known) getString(R.string.of, bytes(task.doneBytes), bytes(task.totalBytes)) else ""
        findViewById<TextView>(R.id.task_title).show(
            listOf(getString(title), task.name, size).filter { it.isNotEmpty() }.joinToString(SEPARATOR),
        )
        findViewById<ProgressBar>(R.id.task_progress).show(task.fraction)
    }

    fun load(entry: ModelEntry) = models.load(entry.path)

    fun verify(entry: ModelEntry) = models.verify(entry)

    fun chosen(entry: ModelEntry): ModelSettings = app.settings.values.value.of(entry.path)

    fun choose(entry: ModelEntry, chosen: ModelSettings) = models.choose(entry, chosen)

    /** A recipe, what computes it, its size and how fast it was. */
    fun describe(recipe: ModelManifest): String = listOfNotNull(
        recipe.recipe,
        engineOf(recipe.format),
        bytes(recipe.sizeBytes),
        speed(recipe),
    ).joinToString(SEPARATOR)

    private fun speed(recipe: ModelManifest): String? {
        val now = Conditions.of(this, app.settings.values.value)
        val speed = models.state.value.speeds.of(recipe.model, recipe.recipe, now) ?: return null
        val text = getString(R.string.tps, speed.decodeTps)
        return if (speed.isSame) text else getString(R.string.tps_before, text)
    }

    /** Asks which of the recipes in a model's folder is taken, and so which engine. */
    fun askRecipe(entry: ModelEntry) {
        val names = entry.recipes.map(::describe).toTypedArray()
        AlertDialog.Builder(this)
            .setTitle(getString(R.string.recipe_title, entry.name))
            .setSingleChoiceItems(names, entry.recipes.indexOfFirst { it.recipe == entry.manifest?.recipe }) { dialog, index ->
                choose(entry, chosen(entry).copy(recipe = entry.recipes[index].recipe))
                dialog.dismiss()
            }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    /** Asks which recipe of a picked folder is brought. */
    private fun askImport(choice: RecipeChoice) {
        question = AlertDialog.Builder(this)
            .setTitle(getString(R.string.recipe_title, choice.recipes.first().model))
            .setItems(choice.recipes.map(::describe).toTypedArray()) { _, index ->
                models.import(choice.tree, choice.move, choice.recipes[index].recipe)
            }
            .setNegativeButton(R.string.cancel) { _, _ -> models.importNothing() }
            .setOnCancelListener { models.importNothing() }
            .setOnDismissListener { question = null }
            .show()
    }

    /** Asks for the context of one model; what cannot be is not taken. */
    @SuppressLint("SetTextI18n") // in digits as they are typed
    fun askContext(entry: ModelEntry) {
        val shape = entry.shape ?: return
        val most = shape.trainedTokens
        val dialog = AlertDialog.Builder(this)
            .setTitle(getString(R.string.context_title, entry.name))
            .setView(R.layout.dialog_context)
            .setPositiveButton(R.string.save, null)
            .setNegativeButton(R.string.cancel, null)
            .show()
        val field = dialog.findViewById<EditText>(R.id.context_length)
        dialog.findViewById<TextView>(R.id.context_about).text =
            getString(R.string.context_about, most) + " " + getString(R.string.context_fits, fitting(shape))
        field.setText(chosen(entry).contextLength?.toString())
        dialog.getButton(AlertDialog.BUTTON_POSITIVE).setOnClickListener {
            val text = field.text.toString().trim()
            val tokens = text.toIntOrNull()
            if (text.isNotEmpty() && (tokens == null || tokens !in 1..most)) {
                field.error = getString(R.string.range_context, most)
            } else {
                choose(entry, chosen(entry).copy(contextLength = tokens))
                dialog.dismiss()
            }
        }
    }

    fun confirmDelete(entry: ModelEntry) {
        val size = entry.sizeBytes?.let(::bytes) ?: entry.folder.name
        val text = when {
            isMoving(entry.folder) -> R.string.delete_unfinished_text
            entry.lone?.document != null -> R.string.delete_document_text
            else -> R.string.delete_model_text
        }
        AlertDialog.Builder(this)
            .setTitle(getString(R.string.delete_named, entry.name))
            .setMessage(getString(text, size))
            .setPositiveButton(R.string.delete) { _, _ -> models.delete(entry) }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    /** The longest context that fits into the memory now. */
    private fun fitting(shape: ModelShape) =
        shape.largestContext(AndroidDevice.availableBytes(this), app.settings.values.value.int8Kv)

    /** What memory a model takes in each way of loading it. */
    private fun needs(shape: ModelShape, context: Int): String {
        val int8 = app.settings.values.value.int8Kv
        return when (shape) {
            is OnnxShape -> {
                val kv = context * shape.tokenBytes / if (int8) 2 else 1
                getString(R.string.needs_onnx, bytes(shape.memoryBytes + kv), context)
            }
            is GgufShape -> {
                val kvCache = if (int8) KvCache.INT8 else shape.memory.kvCache
                fun needed(repack: Boolean) = shape.memory.neededBytes(context, repack, kvCache)
                val mapped = shape.memory.mappedBytes(repack = false)
                getString(R.string.needs_gguf, bytes(needed(true)), bytes(needed(false) - mapped), bytes(mapped), context)
            }
        }
    }

    fun showDetails(entry: ModelEntry) {
        detailed = entry.path
        sheet = Sheet(this, R.string.details).apply {
            val info = (models.state.value.load as? LoadState.Ready)?.takeIf { it.path == entry.path }?.info
            fact(R.string.fact_model, entry.name)
            fact(R.string.fact_recipe, entry.manifest?.recipe)
            fact(R.string.fact_engine, engineOf(entry.manifest?.format ?: "gguf"))
            fact(R.string.fact_size, entry.sizeBytes?.let(::bytes))
            fact(R.string.fact_files, entry.manifest?.files?.size?.toString())
            entry.shape?.let { shape ->
                val available = AndroidDevice.availableBytes(this@ModelsActivity)
                fact(R.string.fact_needs, needs(shape, chosen(entry).contextLength ?: fitting(shape)))
                fact(R.string.fact_available, bytes(available))
            }
            if (info != null) {
                val context = info.contextLength
                fact(R.string.fact_context, resources.getQuantityString(R.plurals.tokens, context, context))
                fact(R.string.fact_weights, bytes(info.weightBytes))
                fact(R.string.fact_kv, bytes(info.kvCacheBytes))
                fact(R.string.fact_provider, info.provider.name)
                fact(R.string.fact_fallback, info.fallback)
            }
            fact(R.string.fact_path, entry.lone?.document?.toString() ?: entry.path)
            setOnDismissListener {
                detailed = null
                sheet = null
            }
            show()
        }
    }

    private companion object {
        const val PICK = 1
        const val PICK_FILE = 2
        const val GRANTS = Intent.FLAG_GRANT_READ_URI_PERMISSION or Intent.FLAG_GRANT_WRITE_URI_PERMISSION
        const val DETAILED = "detailed"
    }
}
