package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.ConversationReader
import io.github.mimomobile.runtime.files.Mutations
import java.io.File
import java.nio.file.Files
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.junit.AfterClass
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.BeforeClass
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Conversations on MiMo-nano that are saved and loaded, as Python's tests/runtime/decode/test_conversation_file.py. */
class SavedConversationTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private fun answer(talk: Conversation, question: String, config: GenerationConfig = GREEDY) = runBlocking {
        val events = talk.send(question, config).toList()
        val ids = events.filterIsInstance<GenerationEvent.Token>().mapNotNull { it.tokenId }
        Pair(ids, (events.last() as GenerationEvent.Finished).stats)
    }

    private fun load(file: File, textOnly: Boolean = false) = runBlocking { engine.loadConversation(file, textOnly = textOnly) }

    private fun saved(name: String = "talk.conversation"): Pair<Conversation, File> {
        val talk = engine.conversation("Be \"brief\".\n", whenFull = WhenFull.DROP)
        answer(talk, "What is 12 + 30?")
        return Pair(talk, File(temporary.root, name).also { runBlocking { talk.save(it) } })
    }

    @Test
    fun `a loaded conversation goes on without computing what it was`() {
        val (talk, file) = saved()
        val again = File(temporary.root, "again.conversation")
        val expected = answer(talk.fork(), PRODUCT).first
        answer(engine.conversation(), "Something else?") // the KV cache holds another one now
        val loaded = load(file)
        assertEquals(listOf(talk.turns, talk.system, talk.seed, talk.draws), loaded.run { listOf(turns, system, seed, draws) })
        assertEquals(WhenFull.DROP, loaded.whenFull)
        runBlocking { loaded.save(again) }
        assertArrayEquals(file.readBytes(), again.readBytes())
        val (ids, stats) = answer(loaded, PRODUCT)
        assertEquals(expected, ids)
        val said = engine.countTokens(Prompt.Chat(talk.messages()))
        assertTrue("$stats, $said said", stats.cachedTokens in said - 10..said)
        val text = answer(load(file, textOnly = true).also { answer(engine.conversation(), "And else?") }, PRODUCT)
        assertEquals(expected, text.first)
        assertTrue("${text.second}", text.second.cachedTokens < 10)
    }

    @Test
    fun `an answer that was cut goes on after a load, without computing what it had`() {
        val expected = answer(engine.conversation(), PRODUCT).first
        for (cut in listOf(9, expected.size - 1)) { // while it thought, and in the answer
            val file = File(temporary.root, "cut-$cut.conversation")
            val talk = engine.conversation()
            val begun = runBlocking { talk.send(PRODUCT, GREEDY.copy { maxTokens = cut }).toList() }
            runBlocking { talk.save(file) }
            answer(engine.conversation(), "Something else?")
            val loaded = load(file)
            val thought = begun.filterIsInstance<GenerationEvent.Token>().joinToString("") { it.text }
            if (cut == 9) loaded.restore(loaded.turns, begun = Turn(PRODUCT, thought, "")) // no file tells its text
            val rest = runBlocking { loaded.resume(GREEDY).toList() }
            val ids = (begun + rest).filterIsInstance<GenerationEvent.Token>().mapNotNull { it.tokenId }
            assertEquals(expected, ids)
            assertEquals(PRODUCT, loaded.turns.single().question)
            val stats = (rest.last() as GenerationEvent.Finished).stats
            assertTrue("cut at $cut: $stats", stats.cachedTokens >= stats.promptTokens - 3)
        }
    }

    @Test
    fun `a plain answer that was cut goes on as it was asked for after a load, and is saved again as it was`() {
        val plain = GREEDY.copy { thinking = false }
        val expected = answer(engine.conversation(), PRODUCT, plain).first
        val talk = engine.conversation(config = GREEDY)
        answer(talk, "What is 12 + 30?")
        val whole = File(temporary.root, "whole.conversation").also { runBlocking { talk.save(it) } }
        talk.restore(emptyList())
        val begun = answer(talk, PRODUCT, plain.copy { maxTokens = 1 }).first
        val (file, again) = listOf("cut", "again").map { File(temporary.root, "$it.conversation") }
        runBlocking { talk.save(file) }
        answer(engine.conversation(), "Something else?")
        val loaded = runBlocking { engine.loadConversation(file, GREEDY) }
        runBlocking { loaded.save(again) }
        assertArrayEquals(file.readBytes(), again.readBytes())
        for (each in listOf(loaded, loaded.fork())) {
            val rest = runBlocking { each.resume().toList() }
            assertEquals(expected, begun + rest.filterIsInstance<GenerationEvent.Token>().mapNotNull { it.tokenId })
        }
        for ((saved, thinks) in listOf(whole to null, file to false)) assertEquals(thinks, ConversationReader(saved).use { it.header.cutThinks })
    }

    @Test
    fun `turns that no prompt has room for are saved all the same`() {
        val (talk, file) = Pair(engine.conversation(), File(temporary.root, "long.conversation"))
        talk.restore(listOf(Turn(PRODUCT, "", "1 2 ".repeat(4000))))
        assertTrue(talk.countTokens("") > (engine.state.value as EngineState.Ready).model.contextLength)
        runBlocking { talk.save(file) }
        assertEquals(talk.turns, load(file).turns)
    }

    @Test
    fun `the file is its owner's alone, replaces an earlier one, and nothing else`() {
        val (talk, file) = saved()
        val rights = Files.getPosixFilePermissions(file.toPath()).map { "$it" }.toSet()
        assertEquals(setOf("OWNER_READ", "OWNER_WRITE"), rights)
        runBlocking { talk.save(file) }
        assertEquals(listOf(file.name), temporary.root.list()!!.toList())
        val other = File(temporary.root, "letter.txt").apply { writeText("Dear all") }
        val error = assertThrows(MimoException.ConversationFile::class.java) { runBlocking { talk.save(other) } }
        assertEquals("$other: it exists and is no saved conversation; name another file", error.message)
        assertEquals("Dear all", other.readText())
    }

    @Test
    fun `what Python saved goes on here, without being computed again`() = checkSharedConversation("int4_b32")

    @Test
    fun `another KV cache refuses it, but for its text`() {
        val (talk, file) = saved()
        MimoEngine().use { other ->
            runBlocking {
                other.load(nano, config.copy { kvCache = KvCache.INT8 })
                val error = try {
                    other.loadConversation(file)
                    null
                } catch (error: MimoException.ConversationFile) {
                    error.message
                }
                assertTrue("$error", error!!.startsWith("$file: saved with another "))
                assertEquals(talk.turns, other.loadConversation(file, textOnly = true).turns)
            }
        }
    }

    @Test
    fun `what damage and malice make of a file is refused, and the engine goes on`() {
        val (talk, file) = saved()
        val expected = answer(talk.fork(), PRODUCT).first
        val content = file.readBytes()
        for (seed in 0 until 150) {
            // Half of the changes are to the header, at the beginning.
            val changed = Mutations(seed).run {
                if (seed % 2 == 0) change(content) else change(content.copyOf(900)) + content.copyOfRange(900, content.size)
            }
            if (changed.contentEquals(content)) continue
            file.writeBytes(changed)
            for (textOnly in listOf(false, true)) {
                val error = assertThrows("seed $seed", MimoException::class.java) { load(file, textOnly) }
                assertTrue("seed $seed: $error", error is MimoException.ConversationFile || error is MimoException.ContextFull)
            }
        }
        file.writeBytes(content)
        assertEquals(expected, answer(load(file), PRODUCT).first)
    }

    companion object {
        private const val PRODUCT = "What is 25 + 17 * 3?"
        private val GREEDY = GenerationConfig { temperature = 0.0; maxTokens = 300 }
        private val config = EngineConfig { recipe = "int4_b32"; threads = 1; speculation = Speculation.MTP }
        private val engine = MimoEngine()

        @JvmStatic
        @BeforeClass
        fun load() = runBlocking { engine.load(nano, config) }

        @JvmStatic
        @AfterClass
        fun close() = engine.close()
    }
}
