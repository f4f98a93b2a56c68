package io.github.mimomobile.demo

import android.content.Context
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.GenerationConfig
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import org.json.JSONException
import org.json.JSONObject

/** What the user chose; null leaves a choice to the engine. */
data class Settings(
    val systemPrompt: String = "",
    val generation: GenerationConfig = GenerationConfig(),
    val threads: Int? = null,
    val contextLength: Int? = null,
    val int8Kv: Boolean = false,
    val provider: ExecutionProvider = ExecutionProvider.CPU,
) {
    /** Those that a loaded model was loaded with: when they change it must be loaded again. */
    val loading: List<Any?> get() = listOf(threads, contextLength, int8Kv, provider)

    fun toJson() = JSONObject()
        .put("system_prompt", systemPrompt)
        .put("temperature", generation.temperature)
        .put("top_p", generation.topP)
        .put("top_k", generation.topK)
        .put("min_p", generation.minP)
        .putOpt("seed", generation.seed)
        .putOpt("max_tokens", generation.maxTokens)
        .put("thinking", generation.thinking)
        .putOpt("thinking_budget", generation.thinkingBudget)
        .put("speculate", generation.speculate)
        .putOpt("threads", threads)
        .putOpt("context_length", contextLength)
        .put("int8_kv", int8Kv)
        .put("provider", provider.name)

    companion object {
        fun fromJson(data: JSONObject) = Settings(
            systemPrompt = data.getString("system_prompt"),
            generation = GenerationConfig {
                temperature = data.getDouble("temperature")
                topP = data.getDouble("top_p")
                topK = data.getInt("top_k")
                minP = data.getDouble("min_p")
                seed = if (data.has("seed")) data.getLong("seed") else null
                maxTokens = data.optionalInt("max_tokens")
                thinking = data.getBoolean("thinking")
                thinkingBudget = data.optionalInt("thinking_budget")
                speculate = data.getBoolean("speculate")
            },
            threads = data.optionalInt("threads"),
            contextLength = data.optionalInt("context_length"),
            int8Kv = data.getBoolean("int8_kv"),
            provider = ExecutionProvider.valueOf(data.getString("provider")),
        )

        private fun JSONObject.optionalInt(name: String) = if (has(name)) getInt(name) else null
    }
}

/** Keeps the settings and small facts in the app's preferences. */
class SettingsStore(context: Context) {
    private val preferences = context.getSharedPreferences("settings", Context.MODE_PRIVATE)
    private val current = MutableStateFlow(read())

    val values: StateFlow<Settings> = current.asStateFlow()

    /** Path of the model that was chosen last. */
    var modelPath: String?
        get() = preferences.getString("model", null)
        set(value) = preferences.edit().putString("model", value).apply()

    /** The conversation that was open last. */
    var conversation: String?
        get() = preferences.getString("conversation", null)
        set(value) = preferences.edit().putString("conversation", value).apply()

    /** Whether the permission for notifications was asked for: Android wants it asked in context, and not again. */
    var askedToNotify: Boolean
        get() = preferences.getBoolean("asked_to_notify", false)
        set(value) = preferences.edit().putBoolean("asked_to_notify", value).apply()

    /** Marks of models whose every byte was verified. */
    var verified: Set<String>
        get() = preferences.getStringSet("verified", null) ?: emptySet()
        set(value) = preferences.edit().putStringSet("verified", value).apply()

    fun set(settings: Settings) {
        current.value = settings
        preferences.edit().putString("settings", settings.toJson().toString()).apply()
    }

    private fun read(): Settings {
        val text = preferences.getString("settings", null) ?: return Settings()
        return try {
            Settings.fromJson(JSONObject(text))
        } catch (_: JSONException) {
            Settings() // written by another version
        } catch (_: IllegalArgumentException) {
            Settings()
        }
    }
}
