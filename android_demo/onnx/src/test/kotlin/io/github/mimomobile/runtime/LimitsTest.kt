package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.text.TokenizerFile
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** How long answers may get, how they go on, and what may be said in them, on MiMo-nano. */
class LimitsTest {
    private val engine = MimoEngine()
    private val greedy = GenerationConfig { temperature = 0.0; maxTokens = 300 }
    private val question = Prompt.Chat(listOf(Message(Role.USER, "What is 25 + 17 * 3?")))
    private val config = EngineConfig { recipe = "int4_b32"; threads = 1; speculation = Speculation.OFF }

    @After
    fun close() = engine.close()

    private fun <T> within(work: suspend CoroutineScope.() -> T): T = runBlocking { withTimeout(60_000) { work() } }

    private fun List<GenerationEvent>.text(channel: Channel) =
        filterIsInstance<GenerationEvent.Token>().filter { it.channel == channel }.joinToString("") { it.text }

    private fun List<GenerationEvent>.finished() = last() as GenerationEvent.Finished

    @Test
    fun `an answer that was cut goes on where it was cut, in its thinking or its answer`() = within {
        engine.load(nano, config)
        val whole = engine.generate(question, greedy).toList()
        val tokens = whole.finished().stats.generatedTokens
        assertNull(whole.finished().notice)
        for (cut in listOf(7, tokens - 1)) {
            val begun = engine.generate(question, greedy.copy { maxTokens = cut }).toList()
            assertEquals(FinishReason.LENGTH, begun.finished().reason)
            val (thinking, answer) = Channel.entries.map { begun.text(it) }
            val prompt = Prompt.Continued(question.messages, thinking, answer)
            val rest = engine.generate(prompt, greedy).toList()
            assertEquals(FinishReason.STOP, rest.finished().reason)
            assertEquals(whole.text(Channel.ANSWER), answer + rest.text(Channel.ANSWER))
            assertEquals(whole.text(Channel.THINKING), thinking + rest.text(Channel.THINKING))
            assertTrue("${rest.finished()}", rest.finished().stats.cachedTokens > engine.countTokens(question))
        }
        val thought = Prompt.Continued(question.messages, whole.text(Channel.THINKING))
        val answered = engine.generate(thought, greedy.copy { thinking = false }).toList() // enough thought: answer now
        assertEquals("" to "76", answered.text(Channel.THINKING) to answered.text(Channel.ANSWER))
        val plain = engine.generate(question, greedy.copy { thinking = false }).toList()
        val nothing = Prompt.Continued(question.messages, "")
        assertEquals(plain.dropLast(1), engine.generate(nothing, greedy.copy { thinking = false }).toList().dropLast(1))
    }

    @Test
    fun `without a limit an answer may take what the context leaves, and thinking leaves a quarter of it`() = within {
        engine.load(nano, config.copy { contextLength = 100 })
        val six = tokenOf("6")
        val free = GenerationConfig { temperature = 0.0; logitBias = mapOf(six to 100.0) }
        val events = engine.generate(Prompt.Text("1 + 1 ="), free).toList()
        assertEquals(FinishReason.LENGTH, events.finished().reason)
        assertEquals(Notice.CONTEXT_FULL, events.finished().notice)
        assertEquals(100, events.finished().stats.run { promptTokens + generatedTokens })
        assertNull(engine.generate(Prompt.Text("1 + 1 ="), free.copy { maxTokens = 5 }).toList().finished().notice)
        val room = 100 - engine.countTokens(Prompt.Continued(question.messages, "x"))
        val thinking = engine.generate(Prompt.Continued(question.messages, "x"), free).toList()
        val thought = thinking.filterIsInstance<GenerationEvent.Token>().takeWhile { it.channel == Channel.THINKING }
        assertTrue("$room", room - room / 4 - thought.size in -9..0) // and the tokens that close it
    }

    /** The id of the token that is a character. */
    private fun tokenOf(text: String): Int =
        TokenizerFile.read(nano.walk().single { it.name == "tokenizer.json" }).encode(text).single()

    @Test
    fun `a bias of a token that the model does not have is an argument out of range`() {
        within { engine.load(nano, config) }
        val wrong = greedy.copy { logitBias = mapOf(9999 to 1.0) }
        val error = assertThrows(IllegalArgumentException::class.java) {
            within { engine.generate(question, wrong).collect() }
        }
        assertEquals("logitBias names token 9999; the model's are 0 to 1045", error.message)
        within { assertEquals(1, engine.generate(question, greedy).take(1).toList().size) }
    }

    @Test
    fun `a logger is told what was chosen and what is slower than it should be, and without one nothing is said`() = within {
        val told = mutableListOf<Pair<LogLevel, String>>()
        val wish = config.copy {
            provider = ExecutionProvider.XNNPACK
            strict = false
            speculation = Speculation.AUTO
            logger = Logger { level, message -> told += level to message }
        }
        engine.load(nano, wish)
        val warnings = told.filter { it.first == LogLevel.WARNING }.map { it.second }
        assertTrue("$told", warnings.single().contains("the CPU computes instead of XNNPACK: "))
        val loaded = told.last()
        assertEquals(LogLevel.INFO, loaded.first)
        val costs = Regex("""runs of 1 to 8 tokens take ([\d.]+, ){7}[\d.]+ ms, [\d.]+ ms for the MTP layer's draft\.""")
        val (what, cost) = loaded.second.split(": ")
        assertEquals("mimo-nano in int4_b32 on CPU is loaded", what)
        assertTrue(cost, costs.matches(cost))
    }

    @Test
    fun `configs are equal when they say the same, and a copy changes what it is told to and nothing else`() {
        val given = GenerationConfig { topK = 4; stop = listOf("x"); maxTokens = 7; thinking = false; loopGuard = false }
        val changed = given.copy { maxTokens = null; topK = 0 }
        assertEquals(GenerationConfig { stop = listOf("x"); thinking = false; loopGuard = false }, changed)
        assertEquals(given, changed.copy { topK = 4; maxTokens = 7 })
        assertEquals(given.hashCode(), given.copy {}.hashCode())
        assertTrue(given != changed && "$given" != "$changed")
        assertThrows(IllegalArgumentException::class.java) { given.copy { maxTokens = 0 } }
        val loading = config.copy { spin = false; strict = false; soc = "SM8750" }
        assertEquals(config, loading.copy { spin = true; strict = true; soc = null })
    }
}
