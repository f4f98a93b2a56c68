package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.FinishReason
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Prompt
import io.github.mimomobile.runtime.Role
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Structure
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.Tool
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Constraint
import io.github.mimomobile.runtime.decode.Costs
import io.github.mimomobile.runtime.decode.Decoder
import io.github.mimomobile.runtime.decode.Generation
import io.github.mimomobile.runtime.decode.StructuredAnswer
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.grammar.Decoded
import io.github.mimomobile.runtime.grammar.Grammars
import io.github.mimomobile.runtime.grammar.SchemaGrammar
import io.github.mimomobile.runtime.nano
import io.github.mimomobile.runtime.nanoOnnx
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.Json
import io.github.mimomobile.runtime.text.ThinkingSplitter
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.util.SplittableRandom
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.junit.AfterClass
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.experimental.categories.Category

/** Structures with MiMo-nano on llama.cpp of this computer, and against its own grammar sampler. */
class LlamaGrammarsTest {
    private class Answer(val thinking: String, val text: String, val events: List<GenerationEvent>) {
        val calls = events.filterIsInstance<GenerationEvent.Token>().mapNotNull { it.toolCall }
        val end = events.last() as GenerationEvent.Finished
    }

    private fun answer(decoder: Decoder, config: GenerationConfig, matcher: Constraint): Answer {
        val opening = ChatTemplate.opening(config.thinks)
        val messages = listOf(Message(Role.USER, "What is 12 + 30?"))
        val ids = tokenizer.encode(ChatTemplate.render(messages, opening, config.callableTools))
        val random = SplittableRandom(config.seed ?: 0)
        val splitter = ThinkingSplitter().apply { resume(opening) }
        val events = mutableListOf<GenerationEvent>()
        StructuredAnswer(matcher, tokenizer, config.thinks).use { structured ->
            val generation = Generation(tokenizer, config, splitter, ids, CONTEXT - ids.size, structured, random::nextDouble)
            runBlocking { decoder.run(ids, generation) { events += it } }
        }
        val tokens = events.filterIsInstance<GenerationEvent.Token>()
        fun text(channel: Channel) = tokens.filter { it.channel == channel }.joinToString("") { it.text }
        return Answer(text(Channel.THINKING), text(Channel.ANSWER), events)
    }

    private fun constraint(structure: Structure) = grammars.matcher(structure)

    @Category(Sweep::class)
    @Test
    fun `sampled answers are JSON of their schema, whatever the model would rather say`() {
        val schema = """{"type": "object", "properties": {"result": {"type": "integer", "minimum": 0, "maximum": 9999},
            "steps": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
            "kind": {"enum": ["sum", "other"]}}, "required": ["result", "kind"], "additionalProperties": false}"""
        val keeping = Structure.schema(schema)
        val decoder = Decoder(backend, "nano", Speculation.OFF)
        for (seed in 1L..25L) {
            val config = GenerationConfig {
                temperature = 1.5; topP = 1.0; this.seed = seed; maxTokens = 300; thinkingBudget = 12
                structure = keeping
            }
            val found = answer(decoder, config, constraint(keeping))
            assertEquals(found.text, FinishReason.STOP, found.end.reason)
            val value = Json.parse(found.text) as Map<*, *>
            assertTrue(found.text, value.keys.all { it in listOf("result", "steps", "kind") })
            assertTrue(found.text, value["result"] as Long in 0..9999 && value["kind"] in listOf("sum", "other"))
            val steps = value["steps"] as List<*>? ?: emptyList<Any>()
            assertTrue(found.text, steps.size <= 3 && steps.all { (it as String).codePointCount(0, it.length) <= 12 })
        }
    }

    @Test
    fun `drafts change no token, thinking stays free, and calls keep to their schema`() {
        val number = """{"type": "integer", "minimum": 0, "maximum": 999}"""
        val add = Tool(
            """{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties":
            {"a": $number, "b": $number}, "required": ["a", "b"], "additionalProperties": false}}}""",
        )
        val plain = GenerationConfig { temperature = 0.0; maxTokens = 200 }
        val texts = Structure.choice(listOf("five hundred", "42 exactly, I am sure", "no"))
        val choice = plain.copy { structure = texts }
        val call = plain.copy { tools = listOf(add); toolChoice = "add" }
        val found = listOf(Speculation.OFF, Speculation.NGRAM, Speculation.MTP).map { speculation ->
            val decoder = Decoder(backend, "nano", speculation)
            listOf(
                answer(decoder, choice, constraint(texts)),
                answer(decoder, choice.copy { thinking = false }, constraint(texts)),
                answer(decoder, call, grammars.calls(call.callableTools, atOnce = true, several = false)),
            )
        }
        for (answers in found) {
            assertEquals(found[0].map { it.thinking to it.text }, answers.map { it.thinking to it.text })
            assertEquals(listOf("add"), answers[2].calls.map { it.name })
            assertTrue(answers[2].calls.single().arguments.values.all { it as Long in 0..999 })
            assertEquals("", answers[2].text)
            assertTrue(answers.all { it.end.reason == FinishReason.STOP })
        }
        assertTrue(found[0][0].thinking.isNotEmpty() && found[0][0].text.length > 1)
        assertTrue(found[0][1].thinking.isEmpty())
    }

    @Test
    fun `an engine with a GGUF file keeps to structures and tools, and says at once what it cannot`() = runBlocking {
        Libllama.api
        MimoEngine().use { engine ->
            engine.load(File(nano, "mimo-nano-q8_0.gguf"), EngineConfig { contextLength = CONTEXT; threads = 1 })
            val chat = Prompt.Chat(listOf(Message(Role.USER, "What is 12 + 30?")))
            suspend fun said(prompt: Prompt, config: GenerationConfig): List<GenerationEvent.Token> =
                engine.generate(prompt, config).toList().filterIsInstance<GenerationEvent.Token>()
            fun answer(tokens: List<GenerationEvent.Token>) =
                tokens.filter { it.channel == Channel.ANSWER }.joinToString("") { it.text }
            val greedy = GenerationConfig { temperature = 0.0; maxTokens = 100 }
            val kept = greedy.copy { structure = Structure.grammar("root ::= \"is \" [0-9]{2}") }
            assertTrue(Regex("is [0-9]{2}").matches(answer(said(chat, kept))))
            assertTrue(Regex("is [0-9]{2}").matches(answer(said(Prompt.Text("12 + 30 "), kept))))
            val now = greedy.copy {
                tools = listOf(Tool("""{"type": "function", "function": {"name": "now"}}"""))
                toolChoice = "required"
                parallelToolCalls = false
            }
            assertEquals(listOf("now"), said(chat, now).mapNotNull { it.toolCall?.name })
            val free = said(chat, now.copy { toolChoice = "auto" })
            assertTrue(free.none { it.toolCall != null } && answer(free).isNotEmpty()) // nano was not trained for tools
            val regex = greedy.copy { structure = Structure.regex("(is|was) \\d{2}") }
            assertTrue(Regex("(is|was) [0-9]{2}").matches(answer(said(chat, regex))))
            val unknown = greedy.copy { structure = Structure.regex("(?i)a") }
            assertTrue(runCatching { said(chat, unknown) }.exceptionOrNull() is MimoException.Unsupported)
            val continued = Prompt.Continued(chat.messages, "12")
            assertTrue(runCatching { said(continued, kept) }.exceptionOrNull() is IllegalArgumentException)
        }
    }

    @Test
    fun `forced text is verified in one batch, which changes no token`() {
        val schema = """{"type": "object", "properties": {"the_first_number": {"type": "integer", "maximum": 99, "minimum": 10},
            "the_second_number": {"enum": ["twelve", "thirteen"]}}, "required": ["the_first_number", "the_second_number"],
            "additionalProperties": false}"""
        // As compact as calls are, since white space that may be there leaves nothing certain.
        val keeping = Structure.grammar(SchemaGrammar(isCompact = true).of(Json.parse(schema) as Map<*, *>))
        val config = GenerationConfig { temperature = 0.0; maxTokens = 120; thinking = false; structure = keeping }
        class Counted(val inner: Backend) : Backend by inner {
            var runs = 0
            override fun decode(ids: IntArray, position: Int, rows: Int) = inner.decode(ids, position, rows).also { runs++ }
        }
        // Rows cost hardly anything: on a busy machine measured costs can say that they do.
        val costs = Costs(List(8) { 1 + 0.01 * it }, draftS = 0.0)
        val found = listOf(null, costs).map {
            val counted = Counted(backend)
            val decoder = Decoder(counted, "nano", Speculation.NGRAM, costs = it)
            counted.runs = 0
            Pair(answer(decoder, config, constraint(keeping)), counted.runs)
        }
        val ids = found.map { (answer, _) -> answer.events.filterIsInstance<GenerationEvent.Token>().map { it.tokenId } }
        assertEquals(ids[0], ids[1])
        assertTrue("${found.map { it.second }} runs of ${ids[0].size}", found[1].second * 2 < found[0].second)
        assertEquals(ids[0].size, found[0].second)
    }

    @Test
    fun `every token may come where llama cpp says so, and nowhere else`() {
        val params = Libllama.api.llama_model_default_params().apply { vocab_only = 1 }
        val model = checkNotNull(Libllama.api.llama_model_load_from_file("$nano/mimo-nano-q8_0.gguf", params))
        val known = (0 until tokenizer.size).filter { id ->
            val text = tokenizer.tokenBytes(id)
            text.isNotEmpty() && 0 !in text && Decoded.of(text) != null
        }
        var steps = 0
        var compared = 0
        for (case in golden("structures")) {
            val text = grammars.gbnf(Structure(Structure.Kind.valueOf(case.text("kind").uppercase()), case.text("structure")))
            if (UNKNOWN.containsMatchIn(case.text("structure"))) continue
            val random = SplittableRandom(steps.toLong())
            LlamaSampler(Libllama.api.llama_model_get_vocab(model), text, tokenizer.size).use { sampler ->
                val matcher = constraint(Structure.grammar(text))
                repeat(5) {
                    val ours = FloatArray(tokenizer.size).also(matcher::mask)
                    val theirs = sampler.allowed()
                    val may = known.filter { ours[it] == 0f && !sampler.isEnd(it) }
                    val allowed = known.filter { theirs[it] && !sampler.isEnd(it) }
                    // Where the text can be one only, llama.cpp lets it be cut in every way.
                    if (matcher.certain().isEmpty()) assertEquals(text, allowed, may) else assertTrue(text, allowed.containsAll(may))
                    if (matcher.certain().isEmpty()) compared++
                    assertEquals(text, theirs[tokenizer.stopIds.first()], ours[tokenizer.stopIds.first()] == 0f)
                    val next = may.filter { Decoded.of(tokenizer.tokenBytes(it))!!.rest.isEmpty() }
                    if (next.isEmpty()) return@use
                    val token = next[random.nextInt(next.size)]
                    matcher.accept(token)
                    sampler.accept(token)
                    steps++
                }
            }
        }
        Libllama.api.llama_model_free(model)
        assertTrue("$steps, $compared compared whole", steps > 150 && compared > 100)
    }

    companion object {
        private const val CONTEXT = 1024

        /** Repetitions that llama.cpp does not end, or takes for unbounded ones. */
        private val UNKNOWN = Regex("""3000|\?\)\*|\*\*|\|\)\+|\*\)\+""")
        private val tokenizer by lazy { TokenizerFile.read(File(nanoOnnx, "tokenizer.json")) }
        private val opened = lazy {
            val norm = FloatArray(256) { 1f }
            val way = LlamaWay(
                File(nano, "mimo-nano-q8_0.gguf"), File(nano, "mimo-nano-q8_0-mtp.gguf"), norm, tokenizer.size, CONTEXT, 1,
                KvCache.FLOAT16, repack = true,
            )
            LlamaOpener(Libllama.api, Libllama.log).open(way)
        }
        private val backend by opened
        private val grammars by lazy { Grammars(tokenizer) }

        @AfterClass
        @JvmStatic
        fun close() {
            if (opened.isInitialized()) backend.close()
        }
    }
}
