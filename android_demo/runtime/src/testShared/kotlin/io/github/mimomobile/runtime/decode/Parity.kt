package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.Case
import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.LoadedModel
import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.Role
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Structure
import io.github.mimomobile.runtime.Tool
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.ThinkingSplitter
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue

/** The cases of a model in generation.json, turn after turn in one KV cache: tokens, texts, cache and drafts are Python's. */
internal fun checkParity(name: String, recipe: String, speculation: Speculation, load: (EngineConfig) -> LoadedModel) {
    val cases = golden("generation")
        .filter { it.text("model") == name && it.text("speculate") == speculation.name.lowercase() }
    assertTrue(cases.size > 3)
    val config = EngineConfig { this.recipe = recipe; threads = 1; this.speculation = speculation }
    load(config).use { model ->
        val decoder = Decoder(model.backend, model.name, speculation)
        cases.forEach { check(model, decoder, it) }
    }
}

/** The cases of a model in answers.json, whose answers keep to structures or are calls: tokens and texts are Python's. */
internal fun checkAnswers(name: String, recipe: String, load: (EngineConfig) -> LoadedModel) {
    val cases = golden("answers").filter { it.text("model") == name }
    assertTrue(cases.size > 10)
    for (speculation in listOf(Speculation.OFF, Speculation.MTP)) {
        val config = EngineConfig { this.recipe = recipe; threads = 1; this.speculation = speculation }
        load(config).use { model ->
            val decoder = Decoder(model.backend, model.name, speculation)
            cases.forEach { checkAnswer(model, decoder, it) }
        }
    }
}

private fun checkAnswer(model: LoadedModel, decoder: Decoder, case: Case) {
    val given = case.case("config")
    val config = GenerationConfig {
        temperature = given.double("temperature")
        topP = given.double("top_p")
        topK = given.int("top_k")
        maxTokens = given.int("max_tokens")
        thinking = given.boolean("thinking")
        thinkingBudget = given.optionalInt("thinking_budget")
        tools = given.texts("tools").map { Tool(it) }
        toolChoice = given.text("tool_choice")
        if (tools.isEmpty()) structure = Structure(Structure.Kind.valueOf(case.text("kind").uppercase()), case.text("structure"))
    }
    val several = config.toolChoice in Tool.CHOICES
    val matcher = config.structure?.let(model.grammars::matcher) ?: model.grammars.calls(config.callableTools, atOnce = true, several)
    val opening = ChatTemplate.opening(config.thinks)
    val messages = listOf(Message(Role.USER, case.text("question")))
    val ids = model.tokenizer.encode(ChatTemplate.render(messages, opening, config.callableTools))
    val uniforms = case.doubles("uniforms").iterator()
    val splitter = ThinkingSplitter().apply { resume(opening) }
    StructuredAnswer(matcher, model.tokenizer, config.thinks).use { structured ->
        val room = model.info.contextLength - ids.size
        val generation = Generation(model.tokenizer, config, splitter, ids, room, structured) {
            if (uniforms.hasNext()) uniforms.next() else 0.0 // greedy needs none
        }
        val events = mutableListOf<GenerationEvent>()
        runBlocking { decoder.run(ids, generation) { events += it } }
        val tokens = events.filterIsInstance<GenerationEvent.Token>()
        assertEquals("$case", case.ints("ids").toList(), tokens.mapNotNull { it.tokenId })
        assertEquals(case.text("answer"), tokens.filter { it.channel == Channel.ANSWER }.joinToString("") { it.text })
        assertEquals(case.text("reason"), (events.last() as GenerationEvent.Finished).reason.name.lowercase())
    }
}

private fun config(case: Case) = GenerationConfig {
    temperature = case.double("temperature")
    topP = case.double("top_p")
    topK = case.int("top_k")
    minP = case.double("min_p")
    repetitionPenalty = case.double("repetition_penalty")
    logitBias = case.list("logit_bias").associate {
        val (token, bias) = (it as List<*>).map { number -> number as Double }
        token.toInt() to bias
    }
    maxTokens = case.optionalInt("max_tokens")
    stop = case.texts("stop")
    thinking = case.boolean("thinking")
    thinkingBudget = case.optionalInt("thinking_budget")
    loopGuard = case.boolean("loop_guard")
}

private fun check(model: LoadedModel, decoder: Decoder, case: Case) {
    val config = config(case.case("config"))
    val uniforms = case.doubles("uniforms").iterator()
    val opening = ChatTemplate.opening(config.thinks)
    val ids = model.tokenizer.encode(ChatTemplate.render(case.messages(), opening))
    val splitter = ThinkingSplitter().apply { resume(opening) }
    val generation = Generation(model.tokenizer, config, splitter, ids, model.info.contextLength - ids.size) {
        if (uniforms.hasNext()) uniforms.next() else 0.0 // greedy needs none
    }
    val events = mutableListOf<GenerationEvent>()
    runBlocking { decoder.run(ids, generation) { events += it } }

    val tokens = events.filterIsInstance<GenerationEvent.Token>()
    fun text(channel: Channel) = tokens.filter { it.channel == channel }.joinToString("") { it.text }
    val end = events.last() as GenerationEvent.Finished
    assertEquals("$case", case.ints("ids"), tokens.mapNotNull { it.tokenId })
    assertEquals(case.text("thinking"), text(Channel.THINKING))
    assertEquals(case.text("answer"), text(Channel.ANSWER))
    assertEquals(case.text("reason"), end.reason.name.lowercase())
    val notices = tokens.mapNotNull { it.notice } + listOfNotNull(end.notice)
    assertEquals(case.texts("notices"), notices.map { it.name.lowercase() })
    val stats = end.stats
    assertEquals(case.int("prompt_tokens"), stats.promptTokens)
    assertEquals(case.int("cached_tokens"), stats.cachedTokens)
    assertEquals(case.int("drafted_tokens"), stats.draftedTokens)
    assertEquals(case.int("accepted_tokens"), stats.acceptedTokens)
}
