package io.github.mimomobile.demo.bench

import android.content.Context
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.Vitals
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.ModelHolder
import io.github.mimomobile.demo.problemOf
import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.GenerationStats
import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Prompt
import io.github.mimomobile.runtime.Role
import java.io.File
import java.io.IOException
import kotlin.random.Random
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.distinctUntilChanged
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** The fixed benchmark, that of `make bench-phone`; state holder of its screen. Survives activities. */
class BenchmarkHolder(
    private val context: Context,
    private val scope: CoroutineScope,
    private val engine: MimoEngine,
    private val settings: SettingsStore,
    private val models: ModelHolder,
    private val vitals: Vitals,
) {
    private val current = MutableStateFlow(BenchmarkUiState())

    @Volatile
    private var job: Job? = null

    val state: StateFlow<BenchmarkUiState> = current.asStateFlow()

    init {
        scope.launch {
            models.state.map { it.load }.distinctUntilChanged().collect { load ->
                if (load !is LoadState.Ready) job?.cancel() // or it would go on with another model
                current.update { it.copy(load = load) }
            }
        }
    }

    fun start() {
        scope.launch {
            if (state.value.running != null) return@launch
            val ready = models.state.value.load as? LoadState.Ready ?: return@launch
            val room = ready.info.contextLength - PROMPT_TOKENS - GENERATE_TOKENS
            val (fitting, skipped) = DEPTHS.partition { it < room }
            val total = fitting.size * REPEATS
            current.update {
                BenchmarkUiState(it.load, Running(0, total, fitting.firstOrNull() ?: 0), skipped = skipped)
            }
            job = scope.launch { run(ready, fitting, total) }
        }
    }

    fun cancel() {
        job?.cancel()
    }

    private suspend fun run(ready: LoadState.Ready, depths: List<Int>, total: Int) {
        var measured: Record? = null
        try {
            val entry = models.state.value.models.firstOrNull { it.path == ready.path }
            val record = Record(context, ready.info, entry?.manifest, settings.values.value, vitals)
            record.answer = ask()
            measured = record
            for (depth in depths) measure(depth, total, record)
            finish(record)
        } catch (error: MimoException) {
            val problem = problemOf(error)
            current.update { it.copy(problem = problem) }
            measured?.let { finish(it.failed(state.value.running?.depth ?: 0, problem.detail)) }
        } finally {
            current.update { it.copy(running = null) }
        }
    }

    private suspend fun measure(depth: Int, total: Int, record: Record) {
        current.update { it.copy(running = it.running?.copy(depth = depth)) }
        val run = record.Run(depth)
        val watch = scope.launch {
            while (true) {
                run.read()
                delay(READING_MS)
            }
        }
        try {
            val cached = digits(depth, Random(depth))
            // Rounds differ from their first token on, so that the cache holds the depth and no token more. Like
            // llama-bench's, the first one warms up and does not count.
            for (number in 0..REPEATS) {
                val stats = generate("$cached$number" + digits(PROMPT_TOKENS - 1, Random(number)))
                if (number == 0) continue
                val round = round(depth, stats)
                run.rounds += round
                run.read()
                current.update {
                    it.copy(rounds = it.rounds + round, running = Running(it.rounds.size + 1, total, depth))
                }
            }
        } finally {
            watch.cancelAndJoin()
            if (run.rounds.isNotEmpty()) record.runs += run
        }
    }

    private fun round(depth: Int, stats: GenerationStats) = Round(
        depth = depth,
        promptTokens = stats.promptTokens,
        cachedTokens = stats.cachedTokens,
        generatedTokens = stats.generatedTokens,
        prefillTps = stats.prefillTps,
        decodeTps = stats.decodeTps,
        restedS = stats.restedS,
        batteryTemperatureC = vitals.read().batteryTemperatureC,
    )

    private suspend fun generate(text: String): GenerationStats {
        val config =
            GenerationConfig { temperature = 0.0; maxTokens = GENERATE_TOKENS; speculate = false; ignoreEnd = true }
        var stats: GenerationStats? = null
        engine.generate(Prompt.Text(text), config).collect { if (it is GenerationEvent.Finished) stats = it.stats }
        return checkNotNull(stats)
    }

    private suspend fun ask(): String {
        val prompt = Prompt.Chat(listOf(Message(Role.USER, QUESTION)))
        val config = GenerationConfig { temperature = 0.0; maxTokens = ANSWER_TOKENS; speculate = false }
        val text = Channel.entries.associateWith { StringBuilder() }
        engine.generate(prompt, config).collect {
            if (it is GenerationEvent.Token) text.getValue(it.channel).append(it.text)
        }
        return text.values.joinToString("\n\n").trim()
    }

    private suspend fun finish(record: Record) {
        val json = record.toJson().toString(2)
        val file = File(context.filesDir, "benchmarks/${record.fileName}")
        try {
            withContext(Dispatchers.IO) {
                file.parentFile?.mkdirs()
                file.writeText(json)
            }
            current.update { it.copy(json = json, file = file.path) }
        } catch (error: IOException) {
            current.update { it.copy(json = json, problem = Problem(Problem.Kind.STORAGE, error.message.orEmpty())) }
        }
    }

    companion object {
        /** The same as benchmarks/phone/job.py. */
        const val PROMPT_TOKENS = 128
        const val GENERATE_TOKENS = 32
        const val REPEATS = 3
        const val QUESTION = "What is 17 + 25?"
        val DEPTHS = listOf(0, 1024, 4096)
        private const val ANSWER_TOKENS = 64
        private const val READING_MS = 5000L

        /** A text of so many tokens: the tokenizer of MiMo makes one of every digit. */
        fun digits(count: Int, random: Random): String = String(CharArray(count) { '0' + random.nextInt(10) })
    }
}
