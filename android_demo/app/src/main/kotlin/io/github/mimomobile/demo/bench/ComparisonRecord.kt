package io.github.mimomobile.demo.bench

import android.content.Context
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.Vitals
import io.github.mimomobile.demo.models.Mode
import org.json.JSONArray
import org.json.JSONObject

/** The record of a comparison: what [Record] has of the phone, and each recipe with its turns and their medians. */
class ComparisonRecord(
    private val context: Context,
    private val model: String,
    settings: Settings,
    vitals: Vitals,
    private val mode: Mode?,
) {
    private val head = RecordHead(context, settings, vitals, mode)
    var failure: String? = null

    val fileName: String get() = head.fileName(model, "compared")

    fun toJson(all: List<Contender>): JSONObject = head.toJson(JSONObject().put("name", model), Comparison.contextOf(all))
        .put("compared", JSONArray(all.map { contender(it, all.first()) }))
        .put("runs", JSONArray())
        .put("soak", JSONArray())
        .put("failure", orNull(failure?.let { JSONObject().put("depth", 0).put("reason", it) }))
        .put("after", head.facts.after())

    /** What it ran on, as people read it. */
    fun about(): String = context.describe(head.device, mode)

    private fun contender(each: Contender, first: Contender): JSONObject {
        val info = each.info
        return JSONObject()
            .put("recipe", each.name)
            .put("engine", each.engine)
            .put("size_bytes", orNull(each.sizeBytes))
            .put("provider", orNull(info?.provider?.name))
            .put("fallback", orNull(info?.fallback))
            .put("threads", orNull(info?.threads))
            .put("drafts", orNull(each.drafts))
            .put("weight_bytes", orNull(info?.weightBytes))
            .put("mapped_bytes", orNull(info?.mappedBytes))
            .put("kv_cache_bytes", orNull(info?.kvCacheBytes))
            .put("medians", JSONObject(MEASURES.mapValues { (_, of) -> orNull(each.median(of)) }))
            .put("ratio", orNull(ratio(each, first)))
            .put("turns", JSONArray(each.turns.map(::turn)))
            .put("failure", orNull(each.failure))
    }

    private fun turn(turn: Turn) = JSONObject(MEASURES.mapValues { (_, of) -> orNull(of(turn)) })
        .put("rested_s", turn.restedS)
        .put("battery_temperature_c", orNull(turn.batteryTemperatureC))
        .put("thermal_status", orNull(turn.thermalStatus))

    private companion object {
        val MEASURES: Map<String, (Turn) -> Number?> = mapOf(
            "load_s" to Turn::loadS,
            "first_token_s" to Turn::firstTokenS,
            "prefill_tps" to Turn::prefillTps,
            "decode_tps" to Turn::decodeTps,
            "drafted_tps" to Turn::draftedTps,
            "accepted_share" to Turn::acceptedShare,
            "peak_anon_bytes" to Turn::anonBytes,
            "peak_rss_bytes" to Turn::rssBytes,
        )
    }
}

/** How fast tokens come, over how fast they come from the first recipe; null where one of both gave none. */
fun ratio(each: Contender, first: Contender): Double? {
    val own = each.median(Turn::decodeTps) ?: return null
    return first.median(Turn::decodeTps)?.let { own / it }?.takeIf { it.isFinite() }
}
