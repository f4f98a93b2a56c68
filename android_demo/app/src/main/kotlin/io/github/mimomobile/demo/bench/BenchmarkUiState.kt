package io.github.mimomobile.demo.bench

import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.models.LoadState
import kotlin.math.sqrt

/** One measurement: [depth] tokens were in the KV cache, then came a prompt and a generation. */
data class Round(
    val depth: Int,
    val promptTokens: Int,
    val cachedTokens: Int,
    val generatedTokens: Int,
    val prefillTps: Double,
    val decodeTps: Double,
    val restedS: Double,
    val batteryTemperatureC: Double?,
)

/** A benchmark under way: [done] of [total] rounds, or seconds of a soak. */
data class Running(
    val done: Int,
    val total: Int,
    val depth: Int = 0,
    val kind: BenchmarkRequest.Kind = BenchmarkRequest.Kind.SPEED,
) {
    val fraction: Float get() = done.toFloat() / total
}

/**
 * The benchmark screen.
 *
 * @property rounds Of the benchmark under way or the last one.
 * @property soak Of the soak under way or the last one.
 * @property compared Of the comparison under way or the last one.
 * @property about What that ran on.
 * @property skipped Depths that the model's context does not hold.
 * @property json The record of the last benchmark, whole or with its failure.
 * @property file Where it was saved.
 */
data class BenchmarkUiState(
    val load: LoadState = LoadState.None,
    val running: Running? = null,
    val rounds: List<Round> = emptyList(),
    val soak: List<SoakSample> = emptyList(),
    val compared: List<Contender> = emptyList(),
    val about: String? = null,
    val skipped: List<Int> = emptyList(),
    val json: String? = null,
    val file: String? = null,
    val problem: Problem? = null,
) {
    val depths: List<Int> get() = rounds.map { it.depth }.distinct()
}

/** Mean and standard deviation of a sample. */
data class Spread(val mean: Double, val stddev: Double)

fun spread(values: List<Double>): Spread {
    val mean = values.average()
    val squares = values.sumOf { (it - mean) * (it - mean) }
    return Spread(mean, if (values.size > 1) sqrt(squares / (values.size - 1)) else 0.0)
}
