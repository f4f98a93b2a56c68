package io.github.mimomobile.runtime

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.flow.takeWhile
import kotlinx.coroutines.runBlocking
import org.junit.AfterClass
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.BeforeClass
import org.junit.Test

/** Conversations on MiMo-nano, by the rules of Python's tests/runtime/decode/test_conversation.py. */
class ConversationTest {
    private fun List<GenerationEvent>.ids() = filterIsInstance<GenerationEvent.Token>().mapNotNull { it.tokenId }

    private fun List<GenerationEvent>.finished() = last() as GenerationEvent.Finished

    private fun all(flow: Flow<GenerationEvent>) = runBlocking { flow.toList() }

    private fun ids(flow: Flow<GenerationEvent>) = all(flow).ids()

    /** What is answered to the whole prompt: questions and answers in turns. */
    private fun whole(vararg said: String, system: String = "", config: GenerationConfig = GREEDY): List<Int> {
        val messages = said.mapIndexed { at, text -> Message(if (at % 2 == 0) Role.USER else Role.ASSISTANT, text) }
        return ids(engine.generate(Prompt.Chat(listOf(Message(Role.SYSTEM, system)) + messages), config))
    }

    private fun Conversation.answer(question: String) = ids(send(question)).let { Pair(it, turns.last().answer) }

    @Test
    fun `turns, edits and forks are what is answered to the whole prompt`() {
        val talk = engine.conversation("Be brief.", GREEDY)
        val (first, one) = talk.answer(SUM)
        val (second, _) = talk.answer(PRODUCT)
        assertEquals(whole(SUM, system = "Be brief."), first)
        assertEquals(whole(SUM, one, PRODUCT, system = "Be brief."), second)
        val branch = talk.fork(1)
        assertEquals(whole(SUM, one, DIFFERENCE, system = "Be brief."), branch.answer(DIFFERENCE).first)
        val edited = ids(talk.edit(0, DIFFERENCE))
        assertEquals(whole(DIFFERENCE, system = "Be brief."), edited)
        assertEquals(listOf(DIFFERENCE), talk.turns.map { it.question })
        assertEquals(listOf(SUM, DIFFERENCE), branch.turns.map { it.question })
        assertEquals(listOf("Be brief.", SUM, one), branch.messages().take(3).map { it.content })
        val again = all(talk.regenerate())
        assertEquals(edited, again.ids())
        assertTrue(again.finished().stats.run { cachedTokens >= promptTokens - 2 })
    }

    @Test
    fun `conversations that alternate compute what the other one's cache lacks, and say the same`() {
        val system = "You are asked sums, and nothing else than sums. ".repeat(3)
        val talks = List(2) { engine.conversation(system, GREEDY) }
        val answers = listOf(talks[0].answer(SUM), talks[1].answer(PRODUCT)).map { it.second }
        val event = all(talks[0].send(DIFFERENCE))
        assertEquals(whole(SUM, answers[0], DIFFERENCE, system = system), event.ids())
        assertTrue(event.finished().stats.run { cachedTokens in 20 until promptTokens - 10 })
    }

    @Test
    fun `each answer has a seed of its own, and the same calls with the same seed find the same`() {
        val hot = GenerationConfig { temperature = 2.0; topP = 1.0; maxTokens = 12; thinking = false; seed = -1 }
        fun talked(): List<List<Int>> = engine.conversation(config = hot).run {
            listOf(ids(send(SUM)), ids(regenerate()), ids(send(PRODUCT))).also { assertEquals(3, draws) }
        }
        val found = talked()
        assertEquals(found, talked())
        assertNotEquals(found[0], found[1])
        // (2⁶⁴ - 1) + 1 is 0.
        assertEquals(whole(SUM, config = hot.copy { seed = 0 }), found[1])
        val talk = engine.conversation(config = hot)
        assertEquals(ids(talk.send(SUM, hot.copy { seed = 5 })), ids(talk.regenerate(hot.copy { seed = 5 })))
        assertNotEquals(engine.conversation().seed, engine.conversation().seed)
    }

    @Test
    fun `an answer that was cut goes on, one that was cut while it thought, too`() {
        val expected = whole(PRODUCT)
        val talk = engine.conversation(config = GREEDY)
        val thought = runBlocking { talk.send(PRODUCT).take(5).toList() }
        assertEquals(emptyList<Turn>(), talk.turns)
        assertEquals(expected, thought.ids() + ids(talk.resume()))
        assertEquals(Turn(PRODUCT, talk.turns[0].thinking, "76"), talk.turns.single())

        val straight = GREEDY.copy { thinking = false }
        val other = engine.conversation(config = straight)
        val answered = other.answer(SUM)
        all(talk.edit(0, SUM, straight.copy { maxTokens = 1 })).also { assertEquals(FinishReason.LENGTH, it.finished().reason) }
        val begun = talk.turns.single().answer
        assertTrue(begun, begun.isNotBlank() && begun.length < answered.second.length)
        assertEquals(answered.first.drop(1), ids(talk.resume(straight)))
        assertEquals(listOf(Turn(SUM, "", answered.second)), talk.turns)
    }

    @Test
    fun `a cut answer goes on in a fork, and as it was asked for`() {
        val plain = GREEDY.copy { thinking = false }
        val talk = engine.conversation(config = GREEDY.copy { thinkingBudget = 64; seed = 3 })
        val begun = ids(talk.send(SUM, plain.copy { maxTokens = 1 }))
        val branch = talk.fork()
        val expected = whole(SUM, config = plain)
        assertTrue(expected.size > 1)
        assertEquals("without thinking", expected, begun + ids(talk.resume()))
        assertEquals(expected, begun + ids(branch.resume()))
        val thought = ids(talk.send(PRODUCT, GREEDY.copy { maxTokens = 9 }))
        assertEquals(listOf(1, 9), listOf(talk.turns.size, thought.size))
        val forks = listOf(talk.fork(), talk.fork(talk.turns.size))
        assertThrows(IllegalArgumentException::class.java) { talk.fork(0).resume() }
        val rest = ids(talk.resume())
        assertEquals(listOf(SUM, PRODUCT), talk.turns.map { it.question })
        for (fork in forks) {
            assertEquals(rest, ids(fork.resume()))
            assertEquals(talk.turns, fork.turns)
        }
    }

    @Test
    fun `thinking that was cut goes on where the conversation's own answers have no budget for any`() {
        val talk = engine.conversation(config = GREEDY.copy { thinkingBudget = 0 })
        val begun = ids(talk.send(PRODUCT, GREEDY.copy { maxTokens = 9 }))
        val asked = GREEDY.copy { maxTokens = 9 }
        assertEquals(emptyList<Turn>(), talk.turns)
        assertEquals(talk.countTokens(null, asked), talk.countTokens(null))
        assertEquals(whole(PRODUCT), begun + ids(talk.resume()))
    }

    @Test
    fun `old turns that no prompt has room for are dropped, or end the answer`() {
        val short = GREEDY.copy { thinking = false; maxTokens = 2 }
        val long = "1 2 ".repeat(4000)
        val turns = listOf(Turn(SUM, "", long), Turn(SUM, "", "42"))
        val dropping = engine.conversation(config = short, whenFull = WhenFull.DROP).apply { restore(turns) }
        val notices = all(dropping.send(PRODUCT)).filterIsInstance<GenerationEvent.Token>().mapNotNull { it.notice }
        assertEquals(listOf(Notice.TURNS_DROPPED), notices)
        assertEquals(listOf(1, 3), listOf(dropping.dropped, dropping.turns.size))
        assertThrows(MimoException.ContextFull::class.java) { all(dropping.send(long)) }

        val stopping = engine.conversation(config = short, whenFull = WhenFull.STOP).apply { restore(turns) }
        val question = engine.conversation(config = short, whenFull = WhenFull.STOP)
        for (end in listOf(all(stopping.send(PRODUCT)), all(question.send(long))).map { it.single() as GenerationEvent.Finished }) {
            assertEquals(Pair(FinishReason.LENGTH, Notice.CONTEXT_FULL), Pair(end.reason, end.notice))
            assertTrue("${end.stats}", end.stats.promptTokens >= CONTEXT)
        }
        assertEquals(turns, stopping.turns)
    }

    @Test
    fun `collecting that ends early keeps what was answered`() {
        val talk = engine.conversation(config = GREEDY.copy { thinking = false })
        runBlocking { talk.send(SUM).takeWhile { (it as GenerationEvent.Token).text.isBlank() }.toList() }
        assertEquals(1, talk.turns.single().answer.length)
        assertThrows(IllegalStateException::class.java) {
            runBlocking { talk.edit(0, PRODUCT).collect { error("the screen is gone") } }
        }
        assertEquals(PRODUCT, talk.turns.single().question)
    }

    @Test
    fun `turns that an app kept as text go on as they would have, and so does what was thought`() {
        val talk = engine.conversation("Be brief.", GREEDY)
        val (_, one) = talk.answer(SUM)
        val expected = whole(SUM, one, PRODUCT, system = "Be brief.")
        val restored = engine.conversation("Be brief.", GREEDY)
        restored.restore(talk.turns, seed = 7, draws = 3)
        assertEquals(listOf(7L, 3L), listOf(restored.seed, restored.draws))
        val messages = restored.messages() + Message(Role.USER, PRODUCT)
        assertEquals(engine.countTokens(Prompt.Chat(messages)), restored.countTokens(PRODUCT))
        val thought = runBlocking { restored.send(PRODUCT).take(6).toList() }
        val text = thought.joinToString("") { (it as GenerationEvent.Token).text }
        restored.restore(talk.turns, begun = Turn(PRODUCT, text, ""))
        assertEquals(engine.countTokens(Prompt.Continued(messages, text)), restored.countTokens(null))
        assertEquals(expected, thought.ids() + ids(restored.resume()))
        assertEquals(listOf(SUM, PRODUCT), restored.turns.map { it.question })

        val late = restored.send(SUM)
        restored.restore(emptyList())
        val later = restored.send(SUM)
        restored.restore(emptyList())
        for (flow in listOf(late, later)) assertThrows(MimoException.WrongState::class.java) { all(flow) }
        val dropped = assertThrows(IllegalArgumentException::class.java) { restored.restore(talk.turns, dropped = 2) }
        assertEquals("dropped 2 found; from 0 to 1 expected", dropped.message)
        val draws = assertThrows(IllegalArgumentException::class.java) { restored.restore(talk.turns, draws = -1) }
        assertEquals("draws -1 is out of range", draws.message)
    }

    @Test
    fun `a question after which the turns have changed is not asked, nor twice`() {
        val talk = engine.conversation(config = GREEDY.copy { thinking = false })
        val (early, other) = Pair(talk.send(SUM), talk.send(PRODUCT))
        all(other)
        for (late in listOf(early, other)) {
            val error = assertThrows(MimoException.WrongState::class.java) { all(late) }
            assertEquals("the conversation was changed after this question was put; ask it again", error.message)
        }
        assertEquals(listOf(PRODUCT, 1L), listOf(talk.turns.single().question, talk.draws))
    }

    @Test
    fun `places that are not there are bad arguments`() {
        val talk = engine.conversation()
        for (call in listOf({ talk.regenerate() }, { talk.resume() }, { talk.edit(0, SUM) }, { talk.edit(-1, SUM) })) {
            assertTrue(assertThrows(IllegalArgumentException::class.java) { call() }.message!!.endsWith("has 0 turns"))
        }
        val tools = GREEDY.copy { tools = listOf(Tool("""{"type": "function", "function": {"name": "add"}}""")) }
        val called = assertThrows(IllegalArgumentException::class.java) { talk.send(SUM, tools) }
        assertEquals("a conversation's turns hold no tool calls; give generate messages and tools", called.message)
        val error = assertThrows(IllegalArgumentException::class.java) { talk.fork(1) }
        assertEquals("turns 1 found; from 0 to 0 expected", error.message)
    }

    @Test
    fun `a prompt repeats earlier thinking where it is to`() {
        val talk = engine.conversation(config = GREEDY, keepThinking = true)
        all(talk.send(SUM))
        val said = "<think>\n${talk.turns[0].thinking}\n</think>\n\n${talk.turns[0].answer}"
        assertEquals(whole(SUM, said, PRODUCT), ids(talk.send(PRODUCT)))
    }

    @Test
    fun `a full context is an error, an end, or drops the oldest turns`() {
        val long = "Say these words. ".repeat(60)
        val short = GREEDY.copy { thinking = false; maxTokens = 8 }
        fun talk(whenFull: WhenFull) = engine.conversation(config = short, whenFull = whenFull).also {
            while (engine.countTokens(Prompt.Chat(it.messages() + Message(Role.USER, long))) < CONTEXT - 8) all(it.send(long))
        }
        assertThrows(MimoException.ContextFull::class.java) { all(talk(WhenFull.ERROR).send(long)) }

        val stopped = talk(WhenFull.STOP)
        val turns = stopped.turns
        val end = all(stopped.send(long)).single() as GenerationEvent.Finished
        assertEquals(Pair(FinishReason.LENGTH, Notice.CONTEXT_FULL), Pair(end.reason, end.notice))
        assertEquals(turns, stopped.turns)

        val dropping = talk(WhenFull.DROP)
        val count = dropping.turns.size
        val notices = all(dropping.send(long)).filterIsInstance<GenerationEvent.Token>().mapNotNull { it.notice }
        assertEquals(listOf(Notice.TURNS_DROPPED), notices)
        assertEquals(count + 1, dropping.turns.size)
        assertTrue("${dropping.dropped} of $count", dropping.dropped in 1..count)
        val first = runBlocking { dropping.send("Yes?").first() } as GenerationEvent.Token
        assertEquals(null, first.notice)
    }

    companion object {
        private const val SUM = "What is 12 + 30?"
        private const val PRODUCT = "What is 25 + 17 * 3?"
        private const val DIFFERENCE = "What is 779 - 343?"
        private const val CONTEXT = 1024
        private val GREEDY = GenerationConfig { temperature = 0.0; maxTokens = 300 }
        private val engine = MimoEngine()

        @JvmStatic
        @BeforeClass
        fun load() = runBlocking {
            engine.load(
                nano,
                EngineConfig { recipe = "int4_b32"; threads = 1; speculation = Speculation.MTP; contextLength = CONTEXT },
            )
        }

        @JvmStatic
        @AfterClass
        fun close() = engine.close()
    }
}
