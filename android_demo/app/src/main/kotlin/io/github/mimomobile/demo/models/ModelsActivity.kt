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
import io.github.mimomobile.demo.ui.ProblemCard
import io.github.mimomobile.demo.ui.SEPARATOR
import io.github.mimomobile.demo.ui.ScreenActivity
import io.github.mimomobile.demo.ui.Sheet
import io.github.mimomobile.demo.ui.bytes
import io.github.mimomobile.demo.ui.show
import io.github.mimomobile.demo.ui.shown
import kotlinx.coroutines.flow.combine

/** The model screen; renders [ModelsUiState]. */
class ModelsActivity : ScreenActivity() {
    private val models get() = app.models
    private val cards = LinkedHashMap<String, ModelCard>()
    private var detailed: String? = null
    private var sheet: Sheet? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.activity_models)
        findViewById<TextView>(R.id.title).setText(R.string.models_title)
        findViewById<View>(R.id.import_model).setOnClickListener { pick() }
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
        super.onDestroy()
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        val tree = data?.data
        if (request != PICK || result != RESULT_OK || tree == null) return
        try {
            // Without it the right to read ends with this screen, in the middle of a long import.
            contentResolver.takePersistableUriPermission(tree, data.flags and GRANTS)
        } catch (_: SecurityException) { // the provider gives none for longer
        }
        models.import(tree, move = findViewById<CheckBox>(R.id.move).isChecked)
    }

    private fun pick() = try {
        startActivityForResult(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK)
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
        findViewById<View>(R.id.import_model).isEnabled = state.task == null
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

    /** Asks for the context of one model; what cannot be is not taken. */
    @SuppressLint("SetTextI18n") // in digits as they are typed
    fun askContext(entry: ModelEntry) {
        val most = entry.shape?.trainedTokens ?: return
        val dialog = AlertDialog.Builder(this)
            .setTitle(getString(R.string.context_title, entry.name))
            .setView(R.layout.dialog_context)
            .setPositiveButton(R.string.save, null)
            .setNegativeButton(R.string.cancel, null)
            .show()
        val field = dialog.findViewById<EditText>(R.id.context_length)
        dialog.findViewById<TextView>(R.id.context_about).text = getString(R.string.context_about, most)
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
        val size = entry.manifest?.let { bytes(it.sizeBytes) } ?: entry.folder.name
        val isOnlyHere = isMoving(entry.folder)
        AlertDialog.Builder(this)
            .setTitle(getString(R.string.delete_named, entry.name))
            .setMessage(getString(if (isOnlyHere) R.string.delete_unfinished_text else R.string.delete_model_text, size))
            .setPositiveButton(R.string.delete) { _, _ -> models.delete(entry) }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    fun showDetails(entry: ModelEntry) {
        detailed = entry.path
        sheet = Sheet(this, R.string.details).apply {
            val info = (models.state.value.load as? LoadState.Ready)?.takeIf { it.path == entry.path }?.info
            fact(R.string.fact_model, entry.name)
            fact(R.string.fact_recipe, entry.manifest?.recipe)
            fact(R.string.fact_size, entry.manifest?.let { bytes(it.sizeBytes) })
            fact(R.string.fact_files, entry.manifest?.files?.size?.toString())
            if (info != null) {
                val context = info.contextLength
                fact(R.string.fact_context, resources.getQuantityString(R.plurals.tokens, context, context))
                fact(R.string.fact_weights, bytes(info.weightBytes))
                fact(R.string.fact_kv, bytes(info.kvCacheBytes))
                fact(R.string.fact_provider, info.provider.name)
                fact(R.string.fact_fallback, info.fallback)
            }
            fact(R.string.fact_path, entry.path)
            setOnDismissListener {
                detailed = null
                sheet = null
            }
            show()
        }
    }

    private companion object {
        const val PICK = 1
        const val GRANTS = Intent.FLAG_GRANT_READ_URI_PERMISSION or Intent.FLAG_GRANT_WRITE_URI_PERMISSION
        const val DETAILED = "detailed"
    }
}
