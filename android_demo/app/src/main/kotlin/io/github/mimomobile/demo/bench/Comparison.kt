package io.github.mimomobile.demo.bench

import io.github.mimomobile.demo.ProblemException
import io.github.mimomobile.demo.Vitals
import io.github.mimomobile.demo.models.Compared
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.Mode
import io.github.mimomobile.demo.models.ModelHolder
import io.github.mimomobile.demo.problemOf
import io.github.mimomobile.demo.statusBytes
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationStats
import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Prompt
import io.github.mimomobile.runtime.Role
import kotlin.random.Random
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch

/**
 * Measures recipes of one model, and so engines, in turn: heat makes what comes later slower, so that each recipe has a
 * turn in each round, and every second round goes the other way. A phone has memory for one of them: each turn loads its
 * recipe in place of the one before, with the same context, threads and KV cache.
 *
 * @property before What was loaded before, which may still be.
 * @property turned Told after each turn, or when one failed.
 */
class Comparison(
    private val engine: MimoEngine,
    private val models: ModelHolder,
    private val vitals: Vitals,
    private val mode: Mode?,
    private val before: String?,
    private val all: List<Contender>,
    private val turned: suspend (List<Contender>) -> Unit,
) {
    private val context = contextOf(all)

    /** Whether a load is one of this comparison, or what was loaded before it: any other one ends it. */
    fun expects(load: LoadState): Boolean {
        val compared = load.compared ?: return load is LoadState.Ready && load.path == before
        return compared.contextLength == context && all.any { it.path == load.path && it.recipe == compared.recipe }
    }

    /** All recipes with their turns. */
    suspend fun run(): List<Contender> {
        var found = all
        for (round in 0 until BenchmarkHolder.REPEATS) {
            val order = if (round % 2 == 0) all.indices.toList() else all.indices.reversed()
            for (index in order) {
                val each = found[index]
                if (each.failure != null) continue
                val after = turn(each, round)
                found = found.toMutableList().also { it[index] = after }
                turned(found)
            }
        }
        return found
    }

    /** One that fails, for want of memory say, does not keep the others from being measured. */
    private suspend fun turn(each: Contender, round: Int): Contender = try {
        val begun = System.nanoTime()
        val ready = models.ready(each.path, mode, Compared(each.recipe, context))
        val loadS = (System.nanoTime() - begun) / 1e9
        each.copy(info = ready.info, turns = each.turns + measured(ready, loadS, round))
    } catch (error: ProblemException) {
        each.copy(failure = error.problem.detail)
    } catch (error: MimoException) {
        each.copy(failure = problemOf(error).detail)
    }

    private suspend fun measured(ready: LoadState.Ready, loadS: Double, round: Int): Turn = coroutineScope {
        var (anon, rss) = 0L to 0L
        fun read() {
            anon = maxOf(anon, statusBytes("RssAnon") ?: 0)
            rss = maxOf(rss, statusBytes("VmRSS") ?: 0)
        }
        val watch = launch {
            while (true) {
                read()
                delay(READING_MS)
            }
        }
        // A text of this round for all: the first one warms up, and has no token in common with the one that counts.
        engine.measured("9" + BenchmarkHolder.digits(BenchmarkHolder.PROMPT_TOKENS - 1, Random(-1)))
        val plain = engine.measured("$round" + BenchmarkHolder.digits(BenchmarkHolder.PROMPT_TOKENS - 1, Random(round)))
        read()
        val drafted = if (ready.info.draftsWithMtp && ready.info.hasChatTemplate) answer() else null
        read()
        watch.cancelAndJoin()
        val signs = vitals.read()
        Turn(
            loadS = loadS,
            firstTokenS = plain.timeToFirstTokenS,
            prefillTps = plain.prefillTps,
            decodeTps = plain.decodeTps,
            draftedTps = drafted?.decodeTps,
            acceptedShare = drafted?.takeIf { it.draftedTokens > 0 }?.run { acceptedTokens.toDouble() / draftedTokens },
            restedS = plain.restedS + (drafted?.restedS ?: 0.0),
            anonBytes = anon.takeIf { it > 0 },
            rssBytes = rss.takeIf { it > 0 },
            batteryTemperatureC = signs.batteryTemperatureC,
            thermalStatus = signs.thermalStatus,
        )
    }

    /** With drafts: the numbers of a text without a meaning would tell nothing of how often they are right. */
    private suspend fun answer(): GenerationStats = engine.measured(
        Prompt.Chat(listOf(Message(Role.USER, BenchmarkHolder.QUESTION))),
        GenerationConfig { temperature = 0.0; maxTokens = BenchmarkHolder.ANSWER_TOKENS },
    )

    companion object {
        private const val READING_MS = 500L

        /** Tokens; more would take memory that nothing here fills. */
        private const val CONTEXT = 1024

        /** The context that all are loaded with. */
        fun contextOf(all: List<Contender>): Int = minOf(CONTEXT, all.minOfOrNull { it.trainedTokens ?: CONTEXT } ?: CONTEXT)
    }
}
