package io.github.mimomobile.demo.models

import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.ProgressBar
import android.widget.Switch
import android.widget.TextView
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.ui.SEPARATOR
import io.github.mimomobile.demo.ui.bytes
import io.github.mimomobile.demo.ui.show
import io.github.mimomobile.demo.ui.shown

/** One model on the model screen. */
class ModelCard(parent: ViewGroup, private val screen: ModelsActivity) {
    val view: View = LayoutInflater.from(screen).inflate(R.layout.item_model, parent, false)

    fun render(entry: ModelEntry, state: ModelsUiState) {
        val load = state.load
        val loaded = load is LoadState.Ready && load.path == entry.path
        val loading = (load as? LoadState.Loading)?.takeIf { it.path == entry.path }
        val failed = (load as? LoadState.Failed)?.takeIf { it.path == entry.path }
        text(R.id.model_name).show(entry.name)
        text(R.id.model_badge).shown = loaded
        text(R.id.model_facts).show(facts(entry))
        val crash = state.crash?.takeIf { it.path == entry.path }?.problem
        text(R.id.model_problem).show(problem(entry) ?: failed?.problem?.detail ?: crash?.detail)
        renderChoices(entry)
        view.findViewById<ProgressBar>(R.id.model_progress).apply {
            shown = loading != null
            if (loading != null) show(fraction(loading))
        }
        act(R.id.model_load, entry.isWhole && !loaded && loading == null) { screen.load(entry) }
        act(R.id.model_verify, entry.manifest != null && state.task == null) { screen.verify(entry) }
        act(R.id.model_details, entry.isWhole) { screen.showDetails(entry) }
        val isBeingWritten = entry.origin == Origin.UNFINISHED && state.task != null
        act(R.id.model_delete, entry.origin != Origin.BUNDLED && !isBeingWritten) { screen.confirmDelete(entry) }
        view.findViewById<View>(R.id.model_delete).contentDescription =
            screen.getString(R.string.delete_named, entry.name)
    }

    private fun renderChoices(entry: ModelEntry) {
        val (shape, onnx) = entry.shape to entry.shape as? OnnxShape
        val chosen = screen.chosen(entry)
        text(R.id.model_recipe).show(
            screen.getString(R.string.model_recipe, entry.manifest?.let(screen::describe).orEmpty()),
        )
        act(R.id.model_recipe, entry.recipes.size > 1) { screen.askRecipe(entry) }
        val tokens = chosen.contextLength?.let { screen.resources.getQuantityString(R.plurals.tokens, it, it) }
        text(R.id.model_context).show(
            screen.getString(R.string.model_context, tokens ?: screen.getString(R.string.automatic_context)),
        )
        act(R.id.model_context, shape != null) { screen.askContext(entry) }
        view.findViewById<Switch>(R.id.model_arranged).apply {
            shown = onnx != null && onnx.isWorthKeeping
            if (onnx == null) return
            setOnCheckedChangeListener(null)
            isChecked = chosen.keepsArranged
            text = screen.getString(
                R.string.keep_arranged,
                screen.bytes(onnx.arrangedBytes),
                screen.bytes(onnx.memoryBytes),
            )
            setOnCheckedChangeListener { _, on -> screen.choose(entry, chosen.copy(keepsArranged = on)) }
        }
    }

    private fun facts(entry: ModelEntry): String {
        val origin = when (entry.origin) {
            Origin.BUNDLED -> R.string.origin_bundled
            Origin.IMPORTED -> R.string.origin_imported
            Origin.DOCUMENT -> R.string.origin_document
            Origin.PUSHED -> R.string.origin_pushed
            Origin.UNFINISHED -> R.string.origin_unfinished
        }
        val size = entry.sizeBytes?.let(screen::bytes)
        val engine = engineOf(entry.manifest?.format ?: "gguf").takeIf { entry.isWhole }
        return listOfNotNull(entry.manifest?.recipe, engine, size, screen.getString(origin)).joinToString(SEPARATOR)
    }

    private fun problem(entry: ModelEntry): String? =
        if (entry.origin == Origin.UNFINISHED) screen.getString(R.string.unfinished) else entry.problem

    private fun fraction(loading: LoadState.Loading): Float? =
        if (loading.doneBytes < loading.totalBytes) loading.doneBytes.toFloat() / loading.totalBytes else null

    private fun act(id: Int, possible: Boolean, act: () -> Unit) = view.findViewById<View>(id).run {
        shown = possible
        setOnClickListener { act() }
    }

    private fun text(id: Int) = view.findViewById<TextView>(id)
}
