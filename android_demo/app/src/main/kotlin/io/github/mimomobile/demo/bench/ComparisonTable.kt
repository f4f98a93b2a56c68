package io.github.mimomobile.demo.bench

import android.content.Context
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.models.Mode
import io.github.mimomobile.demo.ui.SEPARATOR
import io.github.mimomobile.demo.ui.bytes
import org.json.JSONObject

/** A comparison as one table: a column for each recipe, after one with what is measured. */
fun Context.comparisonTable(all: List<Contender>): List<List<String>> {
    fun row(name: Int, cell: (Contender) -> String?) = listOf(getString(name)) + all.map { cell(it) ?: NOTHING }
    fun speed(name: Int, of: (Turn) -> Number?) = row(name) { each -> each.median(of)?.let { "%,.1f".format(it) } }
    fun seconds(name: Int, of: (Turn) -> Number?) = row(name) { each -> each.median(of)?.let { "%,.2f s".format(it) } }
    fun memory(name: Int, of: (Turn) -> Number?) = row(name) { each -> each.median(of)?.let { bytes(it.toLong()) } }
    val failed = all.any { it.failure != null }
    return listOfNotNull(
        listOf("") + all.map { it.name },
        row(R.string.compare_engine) { it.engine },
        row(R.string.compare_provider) { it.info?.provider?.name },
        speed(R.string.compare_decode, Turn::decodeTps),
        row(R.string.compare_ratio) { each -> ratio(each, all.first())?.let { "%.2f".format(it) } },
        speed(R.string.compare_prefill, Turn::prefillTps),
        seconds(R.string.compare_first_token, Turn::firstTokenS),
        row(R.string.compare_drafts) { it.drafts },
        speed(R.string.compare_drafted, Turn::draftedTps),
        row(R.string.compare_accepted) { each -> each.median(Turn::acceptedShare)?.let { "%.0f %%".format(100 * it) } },
        seconds(R.string.compare_load, Turn::loadS),
        memory(R.string.compare_anon, Turn::anonBytes),
        memory(R.string.compare_rss, Turn::rssBytes),
        row(R.string.compare_size) { each -> each.sizeBytes?.let { bytes(it) } },
        if (failed) row(R.string.compare_failure) { it.failure } else null,
    )
}

/** The phone, its cores and how hot it is, of a record. */
fun Context.describe(device: JSONObject, mode: Mode?): String {
    val cores = device.getInt("cores")
    val heat = if (device.isNull("thermal_status")) null else HEAT.getOrNull(device.getInt("thermal_status"))
    return listOfNotNull(
        device.getString("name"),
        getString(R.string.compare_android, device.getString("android")),
        if (device.isNull("soc_model")) null else device.getString("soc_model"),
        resources.getQuantityString(R.plurals.compare_cores, cores, cores),
        bytes(device.getLong("memory_bytes")),
        heat?.let { getString(R.string.compare_heat, it) },
        mode?.label,
    ).joinToString(SEPARATOR)
}

/** The same as plain text, for a font in which all letters are as wide. */
fun asText(about: String, table: List<List<String>>): String {
    val widths = table.first().indices.map { column -> table.maxOf { it[column].length } }
    val lines = table.map { row ->
        row.mapIndexed { index, cell -> if (index == 0) cell.padEnd(widths[0]) else cell.padStart(widths[index]) }
            .joinToString("  ").trimEnd()
    }
    return (listOf(about) + lines).joinToString("\n")
}

private const val NOTHING = "–"

/** Android's thermal states, by their numbers. */
private val HEAT = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
