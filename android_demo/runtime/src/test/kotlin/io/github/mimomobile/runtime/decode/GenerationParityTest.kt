package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.Case
import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.nano
import io.github.mimomobile.runtime.nanoHot
import io.github.mimomobile.runtime.nanoNpu
import io.github.mimomobile.runtime.nanoPrompts
import io.github.mimomobile.runtime.npu.openOnCpu
import io.github.mimomobile.runtime.onnx.LoadedModel
import io.github.mimomobile.runtime.onnx.ModelLoader
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.ThinkingSplitter
import java.io.File
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** The real ONNX Runtime on the real MiMo-nano in int4, turn after turn in one KV cache, against Python's. */
class GenerationParityTest {
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

    private fun parity(speculation: Speculation, name: String = "nano", load: (EngineConfig) -> LoadedModel) {
        val cases = golden("generation")
            .filter { it.text("model") == name && it.text("speculate") == speculation.name.lowercase() }
        assertTrue(cases.size > 3)
        val config = EngineConfig { recipe = "int4_b32"; threads = 1; this.speculation = speculation }
        load(config).use { model ->
            val decoder = Decoder(model.backend, model.name, speculation)
            cases.forEach { check(model, decoder, it) }
        }
    }

    private fun onHot(config: EngineConfig) = ModelLoader(nanoHot, config).load { _, _ -> }

    private fun onCpu(config: EngineConfig) = ModelLoader(nano, config).load { _, _ -> }

    /** Pieces for an NPU, in its windows, on the CPU: it stands in for the NPU. */
    private fun inPieces(config: EngineConfig) =
        ModelLoader(nanoNpu, config.copy { provider = ExecutionProvider.QNN }, openPiece = ::openOnCpu).load { _, _ -> }

    /** Prompts in pieces for an NPU, tokens on the CPU. */
    private fun inSplit(root: File) = { config: EngineConfig ->
        val split = config.copy { provider = ExecutionProvider.QNN; npuMode = NpuMode.SPLIT }
        ModelLoader(root, split, openPiece = ::openOnCpu).load { _, _ -> }
            .also { assertEquals(NpuMode.SPLIT, it.info.npuMode) }
    }

    @Test
    fun `tokens, texts and cache are Python's without drafts`() = parity(Speculation.OFF, load = ::onCpu)

    @Test
    fun `tokens, texts, cache and drafts are Python's with the MTP layer`() = parity(Speculation.MTP, load = ::onCpu)

    @Test
    fun `tokens, texts, cache and drafts are Python's with prompt lookup`() = parity(Speculation.NGRAM, load = ::onCpu)

    @Test
    fun `they are Python's with prompt lookup in pieces for an NPU, and in its prompts alone, too`() {
        parity(Speculation.NGRAM, load = ::inPieces)
        parity(Speculation.NGRAM, load = inSplit(nanoPrompts))
    }

    @Test
    fun `prompt lookup's drafts are often right, and change no text`() {
        val cases = golden("generation")
        val (off, ngram) = listOf("off", "ngram").map { mode -> cases.filter { it.text("speculate") == mode } }
        assertEquals(off.map { it.ints("ids").toList() }, ngram.map { it.ints("ids").toList() })
        assertTrue(ngram.sumOf { it.int("accepted_tokens") } > 100)
    }

    @Test
    fun `they are Python's in pieces for an NPU, too`() = parity(Speculation.OFF, load = ::inPieces)

    @Test
    fun `they are Python's in pieces for an NPU with the MTP layer, too`() = parity(Speculation.MTP, load = ::inPieces)

    @Test
    fun `they are Python's with prompts in pieces for an NPU and tokens on the CPU, too`() {
        parity(Speculation.OFF, load = inSplit(nanoNpu))
        parity(Speculation.MTP, load = inSplit(nanoPrompts))
    }

    @Test
    fun `they are Python's when numbers are too large for float16, with drafts and without`() {
        parity(Speculation.OFF, "hot", ::onHot)
        parity(Speculation.MTP, "hot", ::onHot)
        parity(Speculation.NGRAM, "hot", ::onHot)
    }
}
