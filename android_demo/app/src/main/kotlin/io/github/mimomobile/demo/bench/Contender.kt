package io.github.mimomobile.demo.bench

import io.github.mimomobile.demo.models.ModelEntry
import io.github.mimomobile.demo.models.engineOf
import io.github.mimomobile.runtime.ModelInfo

/**
 * What one turn of a recipe took.
 *
 * @property loadS From the wish to load until it is ready; the first time every byte may be verified.
 * @property firstTokenS From the prompt to the first token, of [BenchmarkHolder.PROMPT_TOKENS] that nothing is known of.
 * @property draftedTps Tokens a second of an answer with drafts; null where nothing drafts.
 * @property acceptedShare Of the drafts, those that were right.
 * @property anonBytes The most memory of the process's own meanwhile.
 * @property rssBytes The same with pages of files.
 */
data class Turn(
    val loadS: Double,
    val firstTokenS: Double,
    val prefillTps: Double,
    val decodeTps: Double,
    val draftedTps: Double?,
    val acceptedShare: Double?,
    val restedS: Double,
    val anonBytes: Long?,
    val rssBytes: Long?,
    val batteryTemperatureC: Double?,
    val thermalStatus: Int?,
)

/**
 * A recipe that is compared with others of its model.
 *
 * @property recipe Null of a GGUF file without a manifest.
 * @property info Of the loaded model; null before it was loaded.
 * @property failure Why it is not measured any more.
 */
data class Contender(
    val path: String,
    val recipe: String?,
    val engine: String,
    val sizeBytes: Long?,
    val trainedTokens: Int?,
    val info: ModelInfo? = null,
    val turns: List<Turn> = emptyList(),
    val failure: String? = null,
) {
    val name: String get() = recipe ?: info?.recipe ?: engine

    /** How the answers with drafts are made. */
    val drafts: String? get() = info?.let { if (it.draftsWithMtp) "mtp" else "off" }

    fun median(of: (Turn) -> Number?): Double? = median(turns.mapNotNull { of(it)?.toDouble() })
}

/** The one in the middle, or between the two in the middle; null of none. */
fun median(values: List<Double>): Double? {
    if (values.isEmpty()) return null
    val sorted = values.sorted()
    return (sorted[(sorted.size - 1) / 2] + sorted[sorted.size / 2]) / 2
}

/** All recipes of a model that are on this phone, each once, whatever folder it lies in. */
fun contenders(models: List<ModelEntry>, model: String): List<Contender> =
    models.filter { it.name == model && it.isWhole }.flatMap { entry ->
        if (entry.lone != null) listOf(contender(entry)) else entry.recipes.map { contender(entry.taking(it.recipe)) }
    }.distinctBy { it.recipe }

private fun contender(entry: ModelEntry) = Contender(
    entry.path,
    entry.manifest?.recipe,
    engineOf(entry.manifest?.format ?: "gguf"),
    entry.sizeBytes,
    entry.shape?.trainedTokens,
)
