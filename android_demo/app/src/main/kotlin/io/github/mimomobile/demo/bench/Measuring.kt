package io.github.mimomobile.demo.bench

import io.github.mimomobile.demo.onceIdle
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.GenerationStats
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.Prompt

/** What the benchmark's tokens after a text take, one by one. */
internal suspend fun MimoEngine.measured(text: String): GenerationStats = measured(
    Prompt.Text(text),
    GenerationConfig { temperature = 0.0; maxTokens = BenchmarkHolder.GENERATE_TOKENS; speculate = false; ignoreEnd = true },
)

/** What an answer takes. */
internal suspend fun MimoEngine.measured(prompt: Prompt, config: GenerationConfig): GenerationStats {
    var stats: GenerationStats? = null
    onceIdle { generate(prompt, config).collect { if (it is GenerationEvent.Finished) stats = it.stats } }
    return checkNotNull(stats)
}
