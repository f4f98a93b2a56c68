package io.github.mimomobile.demo.bench

import android.content.Context
import android.os.Build
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.Vitals
import io.github.mimomobile.demo.models.Mode
import java.time.Instant
import java.time.temporal.ChronoUnit
import org.json.JSONObject

/** What every record begins with: when and on what something was measured, of which model, and how it was asked for. */
class RecordHead(private val context: Context, private val settings: Settings, vitals: Vitals, private val mode: Mode?) {
    private val measuredAt = Instant.now().truncatedTo(ChronoUnit.SECONDS)
    val facts = DeviceFacts(context, vitals)
    val device = facts.device()

    /** A file's name that tells the phone, [parts] and the time. */
    fun fileName(vararg parts: String): String = listOf(Build.MANUFACTURER, Build.MODEL, *parts, measuredAt)
        .joinToString("-").replace(Regex("[^A-Za-z0-9_.]+"), "-") + ".json"

    /** @param contextLength The context that was asked for; null leaves it out. */
    fun toJson(model: JSONObject, contextLength: Int? = null): JSONObject = JSONObject()
        .put("record_version", VERSION)
        .put("measured_at", measuredAt.toString())
        .put("device", device)
        .put("mode", orNull(mode?.label))
        .put("model", model)
        .put("app", facts.app())
        .put(
            "settings",
            JSONObject()
                .put("prompt_tokens", BenchmarkHolder.PROMPT_TOKENS)
                .put("generate_tokens", BenchmarkHolder.GENERATE_TOKENS)
                .put("repeats", BenchmarkHolder.REPEATS)
                .put("asked", Conditions.of(context, settings, mode).toJson())
                .apply { contextLength?.let { put("context_length", it) } },
        )
        .put("question", BenchmarkHolder.QUESTION)

    companion object {
        const val VERSION = 1
    }
}
