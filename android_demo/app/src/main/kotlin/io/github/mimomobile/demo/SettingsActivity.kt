package io.github.mimomobile.demo

import android.annotation.SuppressLint
import android.os.Bundle
import android.view.View
import android.widget.ArrayAdapter
import android.widget.EditText
import android.widget.Spinner
import android.widget.Switch
import android.widget.TextView
import io.github.mimomobile.demo.ui.ScreenActivity
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.GenerationConfig

/** The form of [Settings]: nothing is changed before all of it is right and saved. */
class SettingsActivity : ScreenActivity() {
    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.activity_settings)
        setTitle(R.string.settings_title)
        findViewById<TextView>(R.id.title).setText(R.string.settings_title)
        findViewById<TextView>(R.id.toolbar_action).apply {
            visibility = View.VISIBLE
            setText(R.string.save)
            setOnClickListener { save() }
        }
        findViewById<Spinner>(R.id.provider).adapter =
            ArrayAdapter(this, android.R.layout.simple_spinner_dropdown_item, ExecutionProvider.entries)
        findViewById<View>(R.id.defaults).setOnClickListener { fill(Settings()) }
        if (state == null) fill(app.settings.values.value)
    }

    @SuppressLint("SetTextI18n") // numbers as they are typed, and read again: no language's own digits and commas
    private fun fill(settings: Settings) {
        field(R.id.system_prompt).setText(settings.systemPrompt)
        field(R.id.thinking_budget).setText(settings.generation.thinkingBudget?.toString())
        field(R.id.max_tokens).setText(settings.generation.maxTokens?.toString())
        field(R.id.temperature).setText(settings.generation.temperature.toString())
        field(R.id.top_p).setText(settings.generation.topP.toString())
        field(R.id.top_k).setText(settings.generation.topK.toString())
        field(R.id.min_p).setText(settings.generation.minP.toString())
        field(R.id.seed).setText(settings.generation.seed?.toString())
        field(R.id.threads).setText(settings.threads?.toString())
        findViewById<Switch>(R.id.thinking_on).isChecked = settings.generation.thinking
        findViewById<Switch>(R.id.drafts).isChecked = settings.generation.speculate
        findViewById<Switch>(R.id.int8_kv).isChecked = settings.int8Kv
        findViewById<Spinner>(R.id.provider).setSelection(settings.provider.ordinal)
    }

    private fun save() {
        val wrong = mutableListOf<EditText>()

        /** The value of a field; for one that is wrong [instead], and the field says what is right. */
        fun <T> read(id: Int, range: Int, instead: T, parse: (String) -> T?, right: (T & Any) -> Boolean): T {
            val field = field(id)
            val text = field.text.toString().trim()
            if (text.isEmpty() && instead == null) return instead
            val value = parse(text.replace(',', '.'))
            if (value != null && right(value)) return value
            field.error = getString(range)
            wrong += field
            return instead
        }

        val settings = Settings(
            systemPrompt = field(R.id.system_prompt).text.toString().trim(),
            generation = GenerationConfig {
                temperature = read(R.id.temperature, R.string.range_temperature, 0.0, ::real) { it in 0.0..5.0 }
                topP = read(R.id.top_p, R.string.range_top_p, 1.0, ::real) { it > 0 && it <= 1 }
                topK = read(R.id.top_k, R.string.range_top_k, 0, ::whole) { it >= 0 }
                minP = read(R.id.min_p, R.string.range_min_p, 0.0, ::real) { it in 0.0..1.0 }
                seed = read<Long?>(R.id.seed, R.string.range_whole, null, ::long) { true }
                maxTokens = read<Int?>(R.id.max_tokens, R.string.range_positive, null, ::whole) { it >= 1 }
                thinking = findViewById<Switch>(R.id.thinking_on).isChecked
                thinkingBudget = read<Int?>(R.id.thinking_budget, R.string.range_top_k, null, ::whole) { it >= 0 }
                speculate = findViewById<Switch>(R.id.drafts).isChecked
            },
            threads = read<Int?>(R.id.threads, R.string.range_threads, null, ::whole) { it in 1..MAX_THREADS },
            int8Kv = findViewById<Switch>(R.id.int8_kv).isChecked,
            provider = ExecutionProvider.entries[findViewById<Spinner>(R.id.provider).selectedItemPosition],
            models = app.settings.values.value.models,
        )
        if (wrong.isNotEmpty()) {
            wrong.first().requestFocus()
            return
        }
        app.settings.set(settings)
        finish()
    }

    private fun real(text: String) = text.toDoubleOrNull()

    private fun whole(text: String) = text.toIntOrNull()

    private fun long(text: String) = text.toLongOrNull()

    private fun field(id: Int) = findViewById<EditText>(id)

    private companion object {
        const val MAX_THREADS = 64
    }
}
