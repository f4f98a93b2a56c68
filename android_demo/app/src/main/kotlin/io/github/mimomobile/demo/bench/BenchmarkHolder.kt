package io.github.mimomobile.demo.bench

import android.content.Context
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.ProblemException
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.Vitals
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.Mode
import io.github.mimomobile.demo.models.ModelHolder
import io.github.mimomobile.demo.models.ModelsUiState
import io.github.mimomobile.demo.models.verifyModel
import io.github.mimomobile.demo.onceIdle
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
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.distinctUntilChanged
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import org.json.JSONObject

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

    /** Under way. */
    @Volatile
    private var comparison: Comparison? = null

    val state: StateFlow<BenchmarkUiState> = current.asStateFlow()

    init {
        scope.launch {
            models.state.map { it.load }.distinctUntilChanged().collect { load ->
                val isExpected = comparison?.expects(load) ?: (load is LoadState.Ready)
                if (!isExpected) job?.cancel() // or it would go on with another model
                current.update { it.copy(load = load) }
            }
        }
    }

    fun start(request: BenchmarkRequest = BenchmarkRequest()) {
        scope.launch {
            if (state.value.running != null) return@launch
            val ready = try {
                if (request.kind == BenchmarkRequest.Kind.COMPARE) return@launch compare(request)
                loaded(request)
            } catch (error: ProblemException) {
                return@launch fail(error.problem, request)
            }
            if (state.value.running == null) begin(ready, request)
        }
    }

    /**
     * The model that is asked for, once it is loaded.
     *
     * @throws ProblemException There is none of this name, or it cannot be loaded.
     */
    private suspend fun loaded(request: BenchmarkRequest): LoadState.Ready {
        val mode = mode(request)
        return models.ready(path(request, quiet()), mode)
    }

    /** The models, once nothing is under way. */
    private suspend fun quiet() = models.state.first { it.listed && it.task == null && it.load.isDecided }

    private fun mode(request: BenchmarkRequest) = request.mode?.let { Mode.named(it) ?: throw unknownMode(it) }

    private fun path(request: BenchmarkRequest, quiet: ModelsUiState): String {
        val name = request.model ?: return checkNotNull(quiet.load.path)
        return quiet.models.firstOrNull { name == it.folder.name || name == it.name }?.path ?: throw ProblemException(
            Problem.Kind.MODEL,
            "no model is called $name; there are ${quiet.models.joinToString { it.folder.name }}",
        )
    }

    /** @throws ProblemException There is nothing to compare. */
    private suspend fun compare(request: BenchmarkRequest) {
        val (mode, quiet) = mode(request) to quiet()
        val path = path(request, quiet)
        val model = quiet.models.firstOrNull { it.path == path }?.name ?: checkNotNull(quiet.load.name)
        val all = contenders(quiet.models, model)
        if (all.size < 2) {
            val here = all.joinToString { it.name }
            throw ProblemException(Problem.Kind.STATE, "$here: the only recipe of $model here; bring another one to compare it with")
        }
        if (state.value.running != null) return
        current.update {
            BenchmarkUiState(it.load, Running(0, all.size * REPEATS, kind = request.kind), compared = all)
        }
        val record = ComparisonRecord(context, model, settings.values.value, vitals, mode)
        val name = request.result ?: record.fileName
        job = scope.launch { compare(all, quiet.load.path, mode, record, name) }
    }

    private suspend fun compare(all: List<Contender>, before: String?, mode: Mode?, record: ComparisonRecord, name: String) {
        current.update { it.copy(about = record.about()) }
        try {
            val new = Comparison(engine, models, vitals, mode, before, all) { found ->
                val done = found.sumOf { if (it.failure == null) it.turns.size else REPEATS }
                current.update { it.copy(compared = found, running = it.running?.copy(done = done)) }
                write(name + SO_FAR, record.toJson(found).toString(2))
            }
            comparison = new
            val found = new.run()
            if (found.all { it.turns.isEmpty() }) record.failure = found.first().failure
            finish(record.toJson(found), name)
        } finally {
            comparison = null
            current.update { it.copy(running = null) }
            if (!isReplaced(before)) before?.let(models::load) // as it was, with the settings
        }
    }

    /** Whether the user loads another model meanwhile, which ended the comparison. */
    private fun isReplaced(before: String?): Boolean =
        models.state.value.load.run { compared == null && path != before && this !is LoadState.Unloaded }

    private fun unknownMode(name: String) = ProblemException(
        Problem.Kind.PROVIDER,
        "no mode is called $name; there are ${Mode.entries.joinToString { it.label }}",
    )

    private fun begin(ready: LoadState.Ready, request: BenchmarkRequest) {
        val room = ready.info.contextLength - PROMPT_TOKENS - GENERATE_TOKENS
        val (fitting, skipped) = DEPTHS.partition { it < room }
        val speed = request.kind == BenchmarkRequest.Kind.SPEED
        val total = if (speed) fitting.size * REPEATS else if (request.kind == BenchmarkRequest.Kind.SOAK) request.seconds else 1
        current.update {
            val running = Running(0, total, fitting.firstOrNull() ?: 0, request.kind)
            BenchmarkUiState(it.load, running, skipped = if (speed) skipped else emptyList())
        }
        job = scope.launch { run(ready, request, fitting, total) }
    }

    /** Nothing was measured; who waits for a file is told in it. */
    private suspend fun fail(problem: Problem, request: BenchmarkRequest) {
        current.update { it.copy(problem = problem) }
        val name = request.result ?: return
        val failure = JSONObject().put("depth", 0).put("reason", problem.detail)
        save(name, JSONObject().put("record_version", RecordHead.VERSION).put("failure", failure).toString(2))
    }

    fun cancel() {
        job?.cancel()
    }

    private suspend fun run(ready: LoadState.Ready, request: BenchmarkRequest, depths: List<Int>, total: Int) {
        val entry = models.state.value.models.firstOrNull { it.path == ready.path }
        val record = Record(context, ready.info, entry?.manifest, settings.values.value, vitals, ready.mode)
        val name = request.result ?: record.fileName
        try {
            if (request.kind == BenchmarkRequest.Kind.SELF_TEST && entry?.manifest != null) {
                withContext(Dispatchers.IO) { verifyModel(entry.folder, entry.manifest) { _, _ -> } }
                record.verified = true
            }
            record.answer = ask()
            when (request.kind) {
                BenchmarkRequest.Kind.SPEED -> for (depth in depths) {
                    measure(depth, total, record)
                    if (request.result != null) write(name + SO_FAR, record.toJson().toString(2))
                }
                BenchmarkRequest.Kind.SOAK -> soak(request.seconds, record)
                BenchmarkRequest.Kind.SELF_TEST, BenchmarkRequest.Kind.COMPARE -> Unit
            }
            finish(record.toJson(), name)
        } catch (error: CancellationException) {
            throw error
        } catch (error: Exception) {
            val problem = problemOf(error)
            current.update { it.copy(problem = problem) }
            finish(record.failed(state.value.running?.depth ?: 0, problem.detail).toJson(), name)
        } finally {
            current.update { it.copy(running = null) }
        }
    }

    private suspend fun soak(seconds: Int, record: Record) = Soak(engine, vitals, seconds).run { sample ->
        record.soak += sample
        current.update {
            it.copy(soak = it.soak + sample, running = it.running?.copy(done = minOf(sample.atS.toInt(), seconds)))
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
                val stats = engine.measured("$cached$number" + digits(PROMPT_TOKENS - 1, Random(number)))
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

    private suspend fun ask(): String {
        val prompt = Prompt.Chat(listOf(Message(Role.USER, QUESTION)))
        val config = GenerationConfig { temperature = 0.0; maxTokens = ANSWER_TOKENS; speculate = false }
        val text = Channel.entries.associateWith { StringBuilder() }
        engine.onceIdle {
            engine.generate(prompt, config).collect {
                if (it is GenerationEvent.Token) text.getValue(it.channel).append(it.text)
            }
        }
        return text.values.joinToString("\n\n").trim()
    }

    private suspend fun finish(record: JSONObject, name: String) {
        val json = record.toString(2)
        current.update { it.copy(json = json) }
        save(name, json)
    }

    /** Writes a whole record, in place of the one so far. */
    private suspend fun save(name: String, json: String) {
        val file = write(name, json) ?: return
        withContext(Dispatchers.IO) { File(file.parentFile, name + SO_FAR).delete() }
        current.update { it.copy(file = file.path) }
    }

    /** Writes a record where adb can read it; whoever waits for the file finds it whole. Null when that fails. */
    private suspend fun write(name: String, json: String): File? = try {
        val folder = recordsFolder(context)
        File(folder, name).also { file ->
            withContext(Dispatchers.IO) {
                folder.mkdirs()
                val partial = File(folder, "$name.partial")
                partial.writeText(json)
                if (!partial.renameTo(file)) throw IOException("$file: cannot be written")
            }
        }
    } catch (error: IOException) {
        current.update { it.copy(problem = Problem(Problem.Kind.STORAGE, error.message.orEmpty())) }
        null
    }

    companion object {
        /** The same as benchmarks/phone/job.py. */
        const val PROMPT_TOKENS = 128
        const val GENERATE_TOKENS = 32
        const val REPEATS = 3
        const val ANSWER_TOKENS = 64
        const val QUESTION = "What is 17 + 25?"
        val DEPTHS = listOf(0, 1024, 4096)

        /** What the name of a record ends in that is not finished: Android may end the app. */
        const val SO_FAR = ".so-far"
        private const val READING_MS = 5000L

        /** A text of so many tokens: the tokenizer of MiMo makes one of every digit. */
        fun digits(count: Int, random: Random): String = String(CharArray(count) { '0' + random.nextInt(10) })
    }
}
