package io.github.mimomobile.demo.chat

import android.content.Context
import android.os.PowerManager
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.VitalSigns
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.ui.SEPARATOR
import io.github.mimomobile.demo.ui.Sheet
import io.github.mimomobile.demo.ui.bytes
import io.github.mimomobile.demo.ui.seconds
import io.github.mimomobile.demo.ui.speed
import io.github.mimomobile.runtime.GenerationStats

/** The quiet line above the composer: speed, memory, processor, heat. */
fun statusLine(context: Context, state: ChatUiState, signs: VitalSigns?): String {
    val stats = state.conversation.exchanges.lastOrNull()?.answer?.stats
    val tps = if (state.generating) state.liveTps else stats?.decodeTps
    return listOfNotNull(
        context.speed(tps),
        stats?.let { context.getString(R.string.ttft_short, context.seconds(it.timeToFirstTokenS)) },
        stats?.let { draftsOf(it) }?.let { context.getString(R.string.drafts_short, it) },
        signs?.memoryBytes?.let(context::bytes),
        (state.load as? LoadState.Ready)?.info?.provider?.name,
        signs?.batteryTemperatureC?.let { context.getString(R.string.celsius, it) },
        signs?.thermalStatus?.takeIf { it > 0 }?.let { context.getString(thermal(it)) },
    ).joinToString(SEPARATOR)
}

/** Accepted drafts, in per cent; null when there were none. */
private fun draftsOf(stats: GenerationStats): Int? =
    if (stats.draftedTokens > 0) stats.acceptedTokens * 100 / stats.draftedTokens else null

/** All there is to know of the model, the last answer and the phone. */
fun details(context: Context, sheet: Sheet, state: ChatUiState, signs: VitalSigns?) {
    state.conversation.exchanges.lastOrNull()?.answer?.stats?.let { answerDetails(context, sheet, it) }
    modelDetails(context, sheet, state)
    sheet.heading(R.string.section_phone)
    sheet.fact(R.string.fact_memory, signs?.memoryBytes?.let(context::bytes))
    sheet.fact(R.string.fact_battery, signs?.batteryPercent?.let { context.getString(R.string.percent, it) })
    sheet.fact(R.string.fact_temperature, signs?.batteryTemperatureC?.let { context.getString(R.string.celsius, it) })
    sheet.fact(R.string.fact_thermal, signs?.thermalStatus?.let { context.getString(thermal(it)) })
}

private fun answerDetails(context: Context, sheet: Sheet, stats: GenerationStats) {
    sheet.heading(R.string.section_answer)
    sheet.fact(R.string.fact_decode, context.speed(stats.decodeTps))
    sheet.fact(R.string.fact_prefill, context.speed(stats.prefillTps))
    sheet.fact(R.string.fact_ttft, context.seconds(stats.timeToFirstTokenS))
    sheet.fact(
        R.string.fact_tokens,
        context.getString(R.string.tokens_detail, stats.promptTokens, stats.cachedTokens, stats.generatedTokens),
    )
    draftsOf(stats)?.let {
        val text = context.getString(R.string.drafts_detail, stats.acceptedTokens, stats.draftedTokens, it)
        sheet.fact(R.string.fact_drafts, text)
    }
    if (stats.restedS > 0) sheet.fact(R.string.fact_rested, context.seconds(stats.restedS))
}

private fun modelDetails(context: Context, sheet: Sheet, state: ChatUiState) {
    val info = (state.load as? LoadState.Ready)?.info ?: return
    sheet.heading(R.string.section_model)
    sheet.fact(R.string.fact_model, listOf(info.name, info.recipe).joinToString(SEPARATOR))
    sheet.fact(R.string.fact_provider, info.provider.name)
    sheet.fact(R.string.fact_fallback, info.fallback)
    sheet.fact(R.string.fact_placement, info.placement.entries.joinToString { "${it.key}: ${it.value}" })
    val used = state.usedTokens ?: 0
    val all = info.contextLength
    sheet.fact(R.string.fact_context, context.resources.getQuantityString(R.plurals.context_used, all, used, all))
    sheet.fact(R.string.fact_weights, context.bytes(info.weightBytes))
    if (info.mappedBytes > 0) sheet.fact(R.string.fact_mapped, context.bytes(info.mappedBytes))
    sheet.fact(R.string.fact_kv, context.bytes(info.kvCacheBytes))
    sheet.fact(R.string.fact_mtp, context.getString(if (info.draftsWithMtp) R.string.yes else R.string.no))
    if (info.synthetic) sheet.fact(R.string.fact_synthetic, context.getString(R.string.synthetic))
}

/** Android's name for how hot it is. */
fun thermal(status: Int): Int = when (status) {
    PowerManager.THERMAL_STATUS_NONE -> R.string.thermal_none
    PowerManager.THERMAL_STATUS_LIGHT -> R.string.thermal_light
    PowerManager.THERMAL_STATUS_MODERATE -> R.string.thermal_moderate
    PowerManager.THERMAL_STATUS_SEVERE -> R.string.thermal_severe
    else -> R.string.thermal_critical
}
