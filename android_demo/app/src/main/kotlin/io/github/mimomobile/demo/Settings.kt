package io.github.mimomobile.demo

import android.content.Context
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.GenerationConfig
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import org.json.JSONException
import org.json.JSONObject

/** What the user chose. The defaults are what Xiaomi recommends for MiMo-7B; null leaves a choice to the engine. */
data class Settings(
    val systemPrompt: String = "",
    val temperature: Double = 0.6,
    val topP: Double = 0.95,
    val topK: Int = 0,
    val minP: Double = 0.0,
    val seed: Long? = null,
    val maxTokens: Int = 2048,
    val thinking: Boolean = true,
    val thinkingBudget: Int? = null,
    val drafts: Boolean = true,
    val threads: Int? = null,
    val contextLength: Int? = null,
    val int8Kv: Boolean = false,
    val provider: ExecutionProvider = ExecutionProvider.CPU,
) {
    fun generation() = GenerationConfig(
        temperature = temperature,
        topP = topP,
        topK = topK,
        minP = minP,
        seed = seed,
        maxTokens = maxTokens,
        thinking = thinking,
        thinkingBudget = thinkingBudget,
        speculate = drafts,
    )

    /** Those that a loaded model was loaded with: when they change it must be loaded again. */
    val loading: List<Any?> get() = listOf(threads, contextLength, int8Kv, provider)

    fun toJson() = JSONObject()
        .put("system_prompt", systemPrompt)
        .put("temperature", temperature)
        .put("top_p", topP)
        .put("top_k", topK)
        .put("min_p", minP)
        .putOpt("seed", seed)
        .put("max_tokens", maxTokens)
        .put("thinking", thinking)
        .putOpt("thinking_budget", thinkingBudget)
        .put("drafts", drafts)
        .putOpt("threads", threads)
        .putOpt("context_length", contextLength)
        .put("int8_kv", int8Kv)
        .put("provider", provider.name)

    companion object {
        fun fromJson(data: JSONObject) = Settings(
            systemPrompt = data.getString("system_prompt"),
            temperature = data.getDouble("temperature"),
            topP = data.getDouble("top_p"),
            topK = data.getInt("top_k"),
            minP = data.getDouble("min_p"),
            seed = if (data.has("seed")) data.getLong("seed") else null,
            maxTokens = data.getInt("max_tokens"),
            thinking = data.getBoolean("thinking"),
            thinkingBudget = data.optionalInt("thinking_budget"),
            drafts = data.getBoolean("drafts"),
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
