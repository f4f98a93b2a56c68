package io.github.mimomobile.demo.bench

import android.content.Context
import android.os.SystemClock
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.Vitals
import io.github.mimomobile.demo.models.Mode
import io.github.mimomobile.demo.models.engineOf
import io.github.mimomobile.demo.statusBytes
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.ModelManifest
import kotlin.math.round
import org.json.JSONArray
import org.json.JSONObject

/** The record of a benchmark; a field has the name it has in the records of `make bench-phone` if it means the same. */
class Record(
    context: Context,
    private val info: ModelInfo,
    private val manifest: ModelManifest?,
    private val settings: Settings,
    private val vitals: Vitals,
    mode: Mode?,
) {
    private val head = RecordHead(context, settings, vitals, mode)
    private var failure: JSONObject? = null

    var answer = ""

    /** Whether every byte of the model was read and found right. */
    var verified = false
    val soak = mutableListOf<SoakSample>()
    val runs = mutableListOf<Run>()

    val fileName: String get() = head.fileName(info.name)

    /** The rounds of one depth and what was read meanwhile. */
    inner class Run(val depth: Int) {
        private val started = SystemClock.elapsedRealtime()
        private val readings = JSONArray()
        private var rss = 0L
        private var anon = 0L
        val rounds = mutableListOf<Round>()

        fun read() {
            val signs = vitals.read()
            rss = maxOf(rss, signs.memoryBytes ?: 0)
            anon = maxOf(anon, statusBytes("RssAnon") ?: 0)
            readings.put(
                JSONObject()
                    .put("at_s", round((SystemClock.elapsedRealtime() - started) / 100.0) / 10)
                    .put("temperatures_c", JSONObject()) // Android lets apps read no thermal zone
                    .put("thermal_status", orNull(signs.thermalStatus))
                    .put("battery_current_ua", orNull(signs.batteryCurrentUa))
                    .put("battery_voltage_uv", orNull(signs.batteryVoltageUv))
                    .put("battery_temperature_c", orNull(signs.batteryTemperatureC))
                    .put("battery_percent", orNull(signs.batteryPercent))
                    .put("battery_status", orNull(signs.batteryStatus)),
            )
        }

        fun toJson(): JSONObject {
            val prefill = spread(rounds.map { it.prefillTps })
            val decode = spread(rounds.map { it.decodeTps })
            val speed = JSONObject()
                .put("threads", orNull(settings.threads))
                .put("prefill_tps", prefill.mean)
                .put("prefill_stddev_tps", prefill.stddev)
                .put("decode_tps", decode.mean)
                .put("decode_stddev_tps", decode.stddev)
            return JSONObject()
                .put("depth", depth)
                .put("speeds", JSONArray().put(speed))
                .put("peak_rss_bytes", orNull(rss.takeIf { it > 0 }))
                .put("peak_anon_bytes", orNull(anon.takeIf { it > 0 }))
                .put("readings", readings)
                .put("rounds", JSONArray(rounds.map(::roundToJson)))
        }
    }

    fun failed(depth: Int, reason: String) = apply { failure = JSONObject().put("depth", depth).put("reason", reason) }

    fun toJson(): JSONObject = head.toJson(model())
        .put("backend", "${engineOf(manifest?.format ?: LONE_FORMAT)}, ${info.provider}")
        .put("answer", answer)
        .put("verified", verified)
        .put("runs", JSONArray(runs.map { it.toJson() }))
        .put("soak", JSONArray(soak.map(::soakToJson)))
        .put("failure", orNull(failure))
        .put("after", head.facts.after())

    private fun model() = JSONObject()
        .put("name", info.name)
        .put("recipe", info.recipe)
        .put("size_bytes", orNull(manifest?.sizeBytes))
        .put("sha256", orNull(manifest?.files?.maxByOrNull { it.sizeBytes }?.sha256))
        .put("weight_bytes", info.weightBytes)
        .put("context_length", info.contextLength)
        .put("kv_cache_bytes", info.kvCacheBytes)
        .put("provider", info.provider.name)
        .put("fallback", orNull(info.fallback))
        .put("placement", JSONObject(info.placement))
        .put("npu_mode", orNull(info.npuMode?.name?.lowercase()))
        .put("self_test", orNull(info.selfTest))
        .put("synthetic", info.synthetic)

    companion object {
        /** Without a manifest. */
        private const val LONE_FORMAT = "gguf"
    }
}

private fun roundToJson(round: Round) = JSONObject()
    .put("prompt_tokens", round.promptTokens)
    .put("cached_tokens", round.cachedTokens)
    .put("generated_tokens", round.generatedTokens)
    .put("prefill_tps", round.prefillTps)
    .put("decode_tps", round.decodeTps)
    .put("rested_s", round.restedS)
    .put("battery_temperature_c", orNull(round.batteryTemperatureC))

private fun soakToJson(sample: SoakSample) = JSONObject()
    .put("at_s", sample.atS)
    .put("decode_tps", sample.decodeTps)
    .put("battery_temperature_c", orNull(sample.batteryTemperatureC))
    .put("battery_percent", orNull(sample.batteryPercent))
    .put("battery_current_ua", orNull(sample.batteryCurrentUa))
    .put("thermal_status", orNull(sample.thermalStatus))
