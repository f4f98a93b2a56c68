package io.github.mimomobile.runtime

import java.io.File
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** The engine as an app sees it, on MiMo-nano. */
class EngineTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val engine = MimoEngine()
    private val greedy = GenerationConfig { temperature = 0.0; maxTokens = 300 }
    private val question = chat("What is 25 + 17 * 3?")
    private val config = EngineConfig { recipe = "int4_b32"; threads = 1; speculation = Speculation.OFF }

    @After
    fun close() = engine.close()

    private fun chat(text: String, vararg before: Message) = Prompt.Chat(before.toList() + Message(Role.USER, text))

    private fun <T> within(work: suspend CoroutineScope.() -> T): T = runBlocking { withTimeout(60_000) { work() } }

    private inline fun <reified T : Exception> failure(noinline work: suspend () -> Unit): T = within {
        try {
            work()
            throw AssertionError("no ${T::class.simpleName}")
        } catch (error: Exception) {
            error as? T ?: throw error
        }
    }

    private fun List<GenerationEvent>.text(channel: Channel) =
        filterIsInstance<GenerationEvent.Token>().filter { it.channel == channel }.joinToString("") { it.text }

    private fun List<GenerationEvent>.finished() = last() as GenerationEvent.Finished

    /** A copy of nano's folder in which something can be broken. */
    private fun copy(): File = temporary.newFolder().also { nano.copyRecursively(it, overwrite = true) }

    @Test
    fun `a question is thought about and answered, and the next turn computes only what is new`() = within {
        assertEquals(EngineState.Empty, engine.state.value)
        engine.load(nano, config)
        val info = (engine.state.value as EngineState.Ready).model
        assertEquals(listOf("mimo-nano", "int4_b32", 2048), listOf(info.name, info.recipe, info.contextLength))
        assertEquals(2L * 4 * 2 * 64 * 2 * 2048, info.kvCacheBytes)
        assertTrue(info.hasChatTemplate && !info.synthetic && !info.draftsWithMtp)
        assertNull(info.fallback)

        val events = engine.generate(question, greedy).toList()
        assertEquals("76", events.text(Channel.ANSWER))
        assertTrue(events.text(Channel.THINKING).isNotEmpty())
        assertEquals(FinishReason.STOP, events.finished().reason)
        assertEquals(0, events.finished().stats.cachedTokens)
        assertTrue(events.finished().stats.decodeTps > 0)
        assertEquals(EngineState.Ready(info), engine.state.value)

        val next = chat("And 8 * 9?", *question.messages.toTypedArray(), Message(Role.ASSISTANT, "76"))
        val stats = engine.generate(next, greedy).toList().finished().stats
        assertEquals(engine.countTokens(next), stats.promptTokens)
        assertTrue(stats.cachedTokens >= engine.countTokens(question) - 1)
    }

    @Test
    fun `drafts and int8 caches answer the same question`() = within {
        for (variant in listOf(config.copy { speculation = Speculation.AUTO }, config.copy { kvCache = KvCache.INT8 })) {
            engine.load(nano, variant)
            assertEquals("76", engine.generate(question, greedy).toList().text(Channel.ANSWER))
        }
    }

    @Test
    fun `tools are said in the prompt, and calls and answers keep to what they must be`() = within {
        engine.load(nano, config)
        val free = greedy.copy { tools = listOf(Tool("""{"type": "function", "function": {"name": "now"}}""")) }
        val events = engine.generate(question, free).toList()
        assertTrue(events.finished().stats.promptTokens > engine.countTokens(question) + 50)
        val called = engine.generate(question, free.copy { toolChoice = "now" }).toList()
        assertEquals(listOf("now"), called.filterIsInstance<GenerationEvent.Token>().mapNotNull { it.toolCall?.name })
        val answers = listOf(Speculation.OFF, Speculation.AUTO).map { speculation ->
            engine.load(nano, config.copy { this.speculation = speculation })
            val said = greedy.copy { structure = Structure.regex("""it is \d\d, I am (quite )?sure\.""") }
            val answer = engine.generate(question, said).toList()
            assertEquals(FinishReason.STOP, answer.finished().reason)
            assertEquals(speculation != Speculation.OFF, answer.finished().stats.acceptedTokens > 0)
            answer.text(Channel.ANSWER)
        }
        assertTrue("$answers", Regex("""it is \d\d, I am (quite )?sure\.""").matches(answers[0]) && answers[0] == answers[1])
        val unknown = greedy.copy { structure = Structure.regex("(?i)a") }
        val error = runCatching { engine.generate(question, unknown).toList() }.exceptionOrNull() as MimoException.Unsupported
        assertTrue("${error.message}", "at character 0: (?i" in error.message!!)
    }

    @Test
    fun `the same seed gives the same text, another seed another`() = within {
        engine.load(nano, config)
        val hot = GenerationConfig { temperature = 5.0; topP = 1.0; maxTokens = 40 }
        suspend fun text(seed: Long) = engine.generate(question, hot.copy { this.seed = seed }).toList().dropLast(1)
        assertEquals(text(1), text(1))
        assertTrue(text(1) != text(2))
    }

    @Test
    fun `cancelling the flow ends decoding and leaves a cache that is right`() = within {
        engine.load(nano, config)
        val whole = engine.generate(question, greedy).toList()
        assertEquals(5, engine.generate(question, greedy).take(5).toList().size)
        val started = CompletableDeferred<Unit>()
        val job = launch(Dispatchers.Default) { engine.generate(question, greedy).collect { started.complete(Unit) } }
        started.await()
        job.cancelAndJoin()
        engine.state.first { it is EngineState.Ready }
        assertEquals(whole.dropLast(1), engine.generate(question, greedy).toList().dropLast(1))
    }

    @Test
    fun `stopping ends the flow with its statistics`() = within {
        engine.load(nano, config)
        val events = engine.generate(question, greedy).onEach { engine.stop() }.toList()
        assertEquals(FinishReason.CANCELLED, events.finished().reason)
        assertTrue(events.finished().stats.generatedTokens in 1..3)
        assertEquals(FinishReason.STOP, engine.generate(question, greedy).toList().finished().reason)
    }

    @Test
    fun `a hot device rests between tokens and says the same`() = within {
        var heat = Heat.CRITICAL
        engine.load(nano, config.copy { this.heat = { heat } })
        val shown = mutableSetOf<Heat>()
        val rested = engine.generate(question, greedy).onEach {
            (engine.state.value as? EngineState.Generating)?.let { state -> shown += state.heat }
        }.toList()
        assertTrue("$shown", Heat.CRITICAL in shown)
        assertEquals("76", rested.text(Channel.ANSWER))
        val stats = rested.finished().stats
        val seconds = stats.generatedTokens / stats.decodeTps
        assertTrue("$stats", stats.restedS > 0.5 * seconds && stats.restedS < seconds)

        heat = Heat.NONE
        val whole = engine.generate(question, greedy).toList()
        assertEquals(rested.dropLast(1), whole.dropLast(1))
        assertEquals(0.0, whole.finished().stats.restedS, 0.0)
    }

    @Test
    fun `a benchmark's generation does not end with the turn`() = within {
        engine.load(nano, config.copy { speculation = Speculation.MTP })
        val events = engine.generate(question, greedy.copy { ignoreEnd = true }).toList()
        assertEquals(FinishReason.LENGTH, events.finished().reason)
        assertEquals(300, events.finished().stats.generatedTokens)
        assertTrue(engine.generate(question, greedy).toList().finished().stats.generatedTokens < 300)
    }

    @Test
    fun `a second generation at the same time is refused, not queued`() = within {
        engine.load(nano, config)
        val started = CompletableDeferred<Unit>()
        val proceed = CompletableDeferred<Unit>()
        val first = async {
            engine.generate(question, greedy).onEach {
                started.complete(Unit)
                proceed.await()
            }.toList()
        }
        started.await()
        assertTrue(engine.state.value is EngineState.Generating)
        for (work in listOf<suspend () -> Unit>({ engine.generate(question).collect() }, { engine.load(nano) })) {
            try {
                work()
                fail("no error")
            } catch (error: MimoException.WrongState) {
                assertTrue(error.message!!, "busy" in error.message!!)
            }
        }
        proceed.complete(Unit)
        assertEquals("76", first.await().text(Channel.ANSWER))
    }

    @Test
    fun `closing ends a generation with an error that is no cancellation, and nothing can be done afterwards`() {
        within { engine.load(nano, config) }
        val tokens = mutableListOf<GenerationEvent>()
        val error = failure<MimoException.WrongState> {
            engine.generate(question, greedy).collect {
                tokens += it
                engine.close()
            }
        }
        assertEquals("the engine is closed", error.message)
        assertTrue(tokens.size <= 2)
        engine.close()
        assertEquals(EngineState.Closed, engine.state.value)
        failure<MimoException.WrongState> { engine.generate(question).collect() }
        failure<MimoException.WrongState> { engine.load(nano) }
        failure<MimoException.WrongState> { engine.countTokens(question) }
    }

    @Test
    fun `who has what it wanted of a flow gets no error when the engine is closed meanwhile`() = within {
        engine.load(nano, config)
        assertEquals(1, engine.generate(question, greedy).onEach { engine.close() }.take(1).toList().size)
    }

    @Test
    fun `stopping works as soon as the state says that tokens are generated`() = within {
        engine.load(nano, config)
        val stopper = launch(Dispatchers.Unconfined) {
            engine.state.first { it is EngineState.Generating }
            engine.stop()
        }
        assertEquals(FinishReason.CANCELLED, engine.generate(question, greedy).toList().finished().reason)
        stopper.join()
    }

    @Test
    fun `a prompt that is cancelled is not computed from its beginning again`() = within {
        engine.load(nano, config)
        val long = Prompt.Text("7".repeat(1900))
        val begun = launch(Dispatchers.Default) { engine.generate(long, greedy).collect() }
        delay(30)
        begun.cancelAndJoin()
        engine.state.first { it is EngineState.Ready }
        val stats = engine.generate(long, greedy.copy { maxTokens = 1 }).toList().finished().stats
        assertTrue("$stats", stats.cachedTokens % 128 == 0 || stats.cachedTokens == 1899)
    }

    @Test
    fun `errors of the JVM while a model is loaded are errors of this library, with a message`() {
        val broken = mapOf(
            UnsatisfiedLinkError("dlopen failed: libonnxruntime.so") to "ONNX Runtime's native library cannot be loaded",
            ExceptionInInitializerError(IllegalStateException("no ABI")) to "(no ABI)",
            StackOverflowError() to "cannot be loaded (StackOverflowError)",
        )
        for ((thrown, message) in broken) {
            val wish = config.copy { availableBytes = { throw thrown } }
            val error = failure<MimoException.ModelLoad> { engine.load(nano, wish) }
            assertTrue(error.message!!, message in error.message!!)
            assertSame(error, (engine.state.value as EngineState.Failed).error)
        }
        val full = config.copy { availableBytes = { throw OutOfMemoryError("Java heap") } }
        failure<MimoException.MemoryFull> { engine.load(nano, full) }
        within { engine.load(nano, config) }
    }

    @Test
    fun `what is unloaded can be loaded again, and nothing is unloaded while tokens are generated`() = within {
        engine.load(nano, config)
        engine.generate(question, greedy).take(2).collect {
            try {
                engine.unload()
                fail("no error")
            } catch (error: MimoException.WrongState) {
                assertTrue(error.message!!, "busy" in error.message!!)
            }
        }
        engine.state.first { it is EngineState.Ready }
        engine.unload()
        engine.unload()
        assertEquals(EngineState.Empty, engine.state.value)
        try {
            engine.countTokens(question)
            fail("no error")
        } catch (error: MimoException.WrongState) {
            assertEquals("no model is loaded; call load first", error.message)
        }
        engine.load(nano, config)
        assertEquals("76", engine.generate(question, greedy).toList().text(Channel.ANSWER))
    }

    @Test
    fun `without a model there is nothing to generate`() {
        val error = failure<MimoException.WrongState> { engine.generate(question).collect() }
        assertEquals("no model is loaded; call load first", error.message)
    }

    @Test
    fun `a prompt that fills the context is an error, and the last tokens of the context are used`() {
        within { engine.load(nano, config.copy { contextLength = 64 }) }
        val error = failure<MimoException.ContextFull> { engine.generate(Prompt.Text("7 ".repeat(64))).collect() }
        assertTrue(error.message!!, "the context holds 64" in error.message!!)
        val stats = within { engine.generate(question, greedy).toList() }.finished()
        assertEquals(FinishReason.LENGTH, stats.reason)
        assertEquals(64, stats.stats.promptTokens + stats.stats.generatedTokens)
        failure<IllegalArgumentException> { engine.generate(Prompt.Text("")).collect() }
    }

    @Test
    fun `a damaged or missing file is found before it is loaded`() {
        val folder = copy()
        val data = folder.walk().single { it.name == "model.onnx.data" }
        data.writeBytes(data.readBytes().also { it[1000] = (it[1000] + 1).toByte() })
        val error = failure<MimoException.ModelLoad> { engine.load(folder, config) }
        assertTrue(error.message!!, "model.onnx.data is damaged" in error.message!!)
        assertSame(error, (engine.state.value as EngineState.Failed).error)
        within { engine.load(folder, config.copy { verification = Verification.SIZE }) }
        data.delete()
        failure<MimoException.ModelLoad> { engine.load(folder, config.copy { verification = Verification.SIZE }) }
        within { engine.load(nano, config) }
    }

    @Test
    fun `other wrong folders and wishes are errors`() {
        val folder = copy()
        val onnx = folder.listFiles()!!.single { it.name.endsWith("-onnx") }
        fun rewrite(name: String, change: (String) -> String) {
            val file = File(onnx, name)
            file.writeText(change(file.readText()).padEnd(file.length().toInt()).take(file.length().toInt()))
        }
        val lax = config.copy { verification = Verification.SIZE }
        fun check(message: String, wish: EngineConfig = lax) {
            val error = failure<MimoException.ModelLoad> { engine.load(folder, wish) }
            assertTrue(error.message!!, message in error.message!!)
        }
        check("3000 asked for", lax.copy { contextLength = 3000 })
        check("recipe int2 asked for", lax.copy { recipe = "int2" })
        rewrite("model.onnx") { "no model" }
        check("cannot load it")
        rewrite("config.json") { "[]" }
        check("max_position_embeddings expected")
        rewrite("tokenizer.json") { "{}" }
        check("no added_tokens")
    }

    @Test
    fun `a chat needs a template that is known, a text does not`() {
        val folder = copy()
        val template = folder.walk().single { it.name == "chat_template.jinja" }
        template.writeText(" ".repeat(template.length().toInt()))
        within { engine.load(folder, config.copy { verification = Verification.SIZE }) }
        failure<MimoException.ModelLoad> { engine.generate(question).collect() }
        within { engine.generate(Prompt.Text("1 + 1 ="), greedy.copy { maxTokens = 3 }).toList() }
    }

    @Test
    fun `what does not fit in memory is not loaded`() {
        val cases = mapOf("weights" to listOf(100_000L), "KV cache of 2048 tokens" to listOf(9_000_000L, 4_000_000L))
        for ((what, available) in cases) {
            val answers = available.iterator()
            val wish = config.copy { availableBytes = answers::next }
            val error = failure<MimoException.MemoryFull> { engine.load(nano, wish) }
            assertTrue(error.message!!, what in error.message!!)
        }
    }

    @Test
    fun `a provider that is not here is an error, or a fallback that is told`() {
        for (provider in ExecutionProvider.entries - ExecutionProvider.CPU) {
            val wish = config.copy { this.provider = provider }
            val error = failure<MimoException.ProviderUnavailable> { engine.load(nano, wish) }
            assertTrue(error.message!!, "$provider cannot run" in error.message!!)
            within { engine.load(nano, wish.copy { strict = false }) }
            val info = (engine.state.value as EngineState.Ready).model
            assertEquals(ExecutionProvider.CPU, info.provider)
            assertTrue(info.fallback!!.isNotEmpty())
        }
    }

    @Test
    fun `values out of range are refused where they are given`() {
        val wrong = listOf<() -> Any>(
            { GenerationConfig { temperature = -1.0 } }, { GenerationConfig { topP = 0.0 } },
            { GenerationConfig { topK = -1 } }, { GenerationConfig { minP = 1.1 } }, { GenerationConfig { maxTokens = 0 } },
            { GenerationConfig { repetitionPenalty = 0.0 } }, { GenerationConfig { logitBias = mapOf(5 to 100.5) } },
            { GenerationConfig { logitBias = mapOf(-1 to 1.0) } }, { GenerationConfig { logitBias = mapOf(5 to Double.NaN) } },
            { GenerationConfig { stop = listOf("") } }, { GenerationConfig { thinkingBudget = -1 } },
            { EngineConfig { contextLength = 0 } }, { EngineConfig { threads = 0 } }, { Prompt.Chat(emptyList()) },
        )
        for (make in wrong) {
            try {
                fail("${make()}")
            } catch (_: IllegalArgumentException) {
            }
        }
    }
}
