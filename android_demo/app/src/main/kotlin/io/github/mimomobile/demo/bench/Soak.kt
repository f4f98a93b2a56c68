package io.github.mimomobile.demo.bench

import android.os.SystemClock
import io.github.mimomobile.demo.Vitals
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.Prompt
import kotlin.random.Random

/** A part of a soak: [atS] seconds after its beginning it ended, and [decodeTps] tokens came in each of its seconds. */
data class SoakSample(
    val atS: Double,
    val decodeTps: Double,
    val batteryTemperatureC: Double?,
    val batteryPercent: Int?,
    val batteryCurrentUa: Int?,
    val thermalStatus: Int?,
)

/** Generates without a pause for [seconds], in [PARTS] parts; the short prompts between texts count as time. */
class Soak(private val engine: MimoEngine, private val vitals: Vitals, private val seconds: Int) {
    private val begun = SystemClock.elapsedRealtime()
    private var partBegun = begun
    private var tokens = 0

    suspend fun run(sampled: (SoakSample) -> Unit) {
        val config = GenerationConfig { temperature = 0.0; maxTokens = TEXT_TOKENS; speculate = false; ignoreEnd = true }
        var number = 0
        while (passedMs() < seconds * 1000L) {
            val prompt = Prompt.Text(BenchmarkHolder.digits(PROMPT_TOKENS, Random(number++)))
            engine.generate(prompt, config).collect { event ->
                if (event !is GenerationEvent.Token || event.tokenId == null) return@collect
                tokens++
                if (SystemClock.elapsedRealtime() - partBegun >= seconds * 1000L / PARTS) sampled(sample())
                if (passedMs() >= seconds * 1000L) engine.stop()
            }
        }
    }

    private fun passedMs() = SystemClock.elapsedRealtime() - begun

    private fun sample(): SoakSample {
        val now = SystemClock.elapsedRealtime()
        val signs = vitals.read()
        val sample = SoakSample(
            atS = (now - begun) / 1000.0,
            decodeTps = tokens * 1000.0 / (now - partBegun),
            batteryTemperatureC = signs.batteryTemperatureC,
            batteryPercent = signs.batteryPercent,
            batteryCurrentUa = signs.batteryCurrentUa,
            thermalStatus = signs.thermalStatus,
        )
        partBegun = now
        tokens = 0
        return sample
    }

    companion object {
        const val PARTS = 60
        private const val PROMPT_TOKENS = 16
        private const val TEXT_TOKENS = 512
    }
}
