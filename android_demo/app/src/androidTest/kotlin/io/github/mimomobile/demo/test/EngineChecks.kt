package io.github.mimomobile.demo.test

import io.github.mimomobile.demo.chat.statsToJson
import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.Prompt
import io.github.mimomobile.runtime.Role
import io.github.mimomobile.runtime.Speculation
import java.io.InputStream
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.json.JSONArray
import org.json.JSONObject

/**
 * The library on this CPU against what Python computed, by its public API.
 *
 * Logits differ from CPU to CPU by what int8 kernels round, but not so far that these tokens do: they are the same on
 * emulated ARM CPUs without dot products, with them, with matrix products and with SVE2, and on x86 without AVX.
 */
internal class EngineChecks(
    private val setup: Setup,
    private val golden: (String) -> InputStream,
    private val facts: JSONObject,
) {
    val all = listOf(
        Check("texts_have_as_many_tokens_as_in_python", ::counts),
        Check("tokens_are_pythons_without_drafts") { tokens(Speculation.OFF) },
        Check("tokens_are_pythons_with_drafts") { tokens(Speculation.MTP) },
        Check("tokens_are_pythons_with_prompt_lookup") { tokens(Speculation.NGRAM) },
    )

    private fun counts() = loaded(Speculation.OFF) { engine ->
        for (case in cases("tokenization_nano")) {
            val text = case.getString("text")
            same(case.getJSONArray("ids").length(), engine.countTokens(Prompt.Text(text)), "tokens of '$text'")
        }
    }

    private fun tokens(speculation: Speculation) = loaded(speculation) { engine ->
        val mode = speculation.name.lowercase()
        // Python's random numbers cannot be given to an engine.
        val greedy = cases("generation").filter {
            it.getString("model") == "nano" && it.getString("speculate") == mode &&
                it.getJSONArray("uniforms").length() == 0
        }
        check(greedy.size > 5) { "${greedy.size} cases" }
        val ends = greedy.map { answers(engine, it) }
        facts.put("nano_$mode", statsToJson(ends.maxBy { it.stats.generatedTokens }.stats))
    }

    private suspend fun answers(engine: MimoEngine, case: JSONObject): GenerationEvent.Finished {
        val events = engine.generate(Prompt.Chat(messages(case)), config(case.getJSONObject("config"))).toList()
        val tokens = events.filterIsInstance<GenerationEvent.Token>()
        val answer = tokens.filter { it.channel == Channel.ANSWER }.joinToString("") { it.text }
        val end = events.last() as GenerationEvent.Finished
        val question = messages(case).last().content
        same(ints(case.getJSONArray("ids")), tokens.mapNotNull { it.tokenId }, "tokens after '$question'")
        same(case.getString("answer"), answer, "the answer to '$question'")
        same(case.getString("reason"), end.reason.name.lowercase(), "why the answer to '$question' ended")
        same(case.getInt("prompt_tokens"), end.stats.promptTokens, "tokens of the prompt '$question'")
        return end
    }

    /** An engine of its own beside the app's, with the settings that Python had. */
    private fun loaded(speculation: Speculation, act: suspend (MimoEngine) -> Unit) = MimoEngine().use { engine ->
        runBlocking {
            withTimeout(MOST_MS) {
                engine.load(setup.nano, EngineConfig { recipe = "int4_b32"; threads = 1; this.speculation = speculation })
                act(engine)
            }
        }
    }

    private fun cases(name: String): List<JSONObject> {
        val list = JSONArray(golden("$name.json").use { it.readBytes().decodeToString() })
        return (0 until list.length()).map(list::getJSONObject)
    }

    private fun messages(case: JSONObject): List<Message> {
        val list = case.getJSONArray("messages")
        return (0 until list.length()).map {
            val (role, content) = list.getJSONArray(it).let { pair -> pair.getString(0) to pair.getString(1) }
            Message(Role.valueOf(role.uppercase()), content)
        }
    }

    private fun config(data: JSONObject): GenerationConfig {
        val stop = data.getJSONArray("stop")
        val biases = data.getJSONArray("logit_bias")
        return GenerationConfig {
            temperature = data.getDouble("temperature")
            repetitionPenalty = data.getDouble("repetition_penalty")
            logitBias = (0 until biases.length()).map(biases::getJSONArray).associate { it.getInt(0) to it.getDouble(1) }
            maxTokens = if (data.isNull("max_tokens")) null else data.getInt("max_tokens")
            this.stop = (0 until stop.length()).map(stop::getString)
            thinking = data.getBoolean("thinking")
            thinkingBudget = if (data.isNull("thinking_budget")) null else data.getInt("thinking_budget")
        }
    }

    private fun ints(list: JSONArray) = (0 until list.length()).map(list::getInt)

    private fun same(expected: Any, found: Any, what: String) {
        if (expected != found) throw AssertionError("$what: $found, $expected expected")
    }

    private companion object {
        /** An emulator without hardware acceleration takes long. */
        const val MOST_MS = 300_000L
    }
}
