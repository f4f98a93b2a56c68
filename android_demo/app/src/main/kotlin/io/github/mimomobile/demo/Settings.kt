package io.github.mimomobile.demo

import android.annotation.SuppressLint
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
    val int8Kv: Boolean = false,
    val provider: ExecutionProvider = ExecutionProvider.CPU,
    val models: Map<String, ModelSettings> = emptyMap(),
) {
    /** What was chosen for the model in the folder [path]. */
    fun of(path: String?): ModelSettings = models[path] ?: ModelSettings()

    /** The same with another choice for this model. */
    fun with(path: String, chosen: ModelSettings): Settings =
        copy(models = if (chosen == ModelSettings()) models - path else models + (path to chosen))

    /** Those that the model of [path] is loaded with: when they change it must be loaded again. */
    fun loading(path: String): List<Any?> = listOf(threads, int8Kv, provider, of(path))

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
        .put("int8_kv", int8Kv)
        .put("provider", provider.name)
        .put("models", JSONObject(models.mapValues { it.value.toJson() }))

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
            int8Kv = data.getBoolean("int8_kv"),
            provider = ExecutionProvider.valueOf(data.getString("provider")),
            models = data.getJSONObject("models").run {
                keys().asSequence().associateWith { ModelSettings.fromJson(getJSONObject(it)) }
            },
        )
    }
}

/**
 * What the user chose for one model: what is right for a model of 5 GB is not for one of 4 MB.
 *
 * @property contextLength Tokens; null takes the most that fit into the memory.
 * @property recipe Of the manifest's; null takes the first that is here.
 * @property keepsArranged Keeps its weights as this phone's CPU wants them, which takes more than twice its size.
 */
data class ModelSettings(
    val contextLength: Int? = null,
    val keepsArranged: Boolean = false,
    val recipe: String? = null,
) {
    fun toJson(): JSONObject = JSONObject()
        .putOpt("context_length", contextLength)
        .put("keeps_arranged", keepsArranged)
        .putOpt("recipe", recipe)

    companion object {
        fun fromJson(data: JSONObject) =
            ModelSettings(
                data.optionalInt("context_length"),
                data.getBoolean("keeps_arranged"),
                if (data.has("recipe")) data.getString("recipe") else null,
            )
    }
}

private fun JSONObject.optionalInt(name: String) = if (has(name)) getInt(name) else null

/** Keeps the settings and small facts in the app's preferences. */
class SettingsStore(context: Context) {
    private val preferences = context.getSharedPreferences("settings", Context.MODE_PRIVATE)
    private val current = MutableStateFlow(read())

    val values: StateFlow<Settings> = current.asStateFlow()

    /** Path of the model that was chosen last. */
    var modelPath: String?
        get() = preferences.getString("model", null)
        set(value) = preferences.edit().putString("model", value).apply()

    /** Path of the model whose load has begun and not ended. On disk before anything else is done: the load may kill. */
    var loading: String?
        get() = preferences.getString("loading", null)
        @SuppressLint("ApplySharedPref")
        set(value) {
            preferences.edit().putString("loading", value).commit()
        }

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
