package io.github.mimomobile.demo.chat

import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.ModelHolder
import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.Conversation
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.GenerationStats
import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Prompt
import io.github.mimomobile.runtime.Role
import java.io.File
import kotlin.math.abs
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.flowOf
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.job
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

/** The history when processes end: what they had computed and said is there again. On the real engine and MiMo-nano. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
class HistoryTest {
    @get:Rule
    val hardware = Hardware()

    private val chats = File(application.filesDir, "chats")
    private var memory = Long.MAX_VALUE
    private val states = StateStore(File(application.noBackupFilesDir, "chats"), { memory })

    /** What one process of the app has in its memory; its files are those of all. */
    private inner class Process(val engine: MimoEngine = MimoEngine()) : AutoCloseable {
        private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default.limitedParallelism(1))
        val store = ChatStore(chats, states)
        val settings = SettingsStore(application)
        private val models = ModelHolder(application, scope, engine, settings)
        val chat = ChatHolder(scope, engine, store, settings, models, flowOf(false))
        val state get() = chat.state.value
        val answer get() = state.conversation.exchanges.last().answer

        init {
            models.start()
            await("the model") { state.load is LoadState.Ready }
        }

        fun ask(question: String): GenerationStats = after { chat.send(question) }

        fun after(action: () -> Unit): GenerationStats {
            val before = state.ended
            action()
            await("the answer") { state.ended > before }
            assertTrue("$answer", answer.state in setOf(AnswerState.DONE, AnswerState.LENGTH))
            return answer.stats!!
        }

        override fun close() {
            runBlocking { scope.coroutineContext.job.cancelAndJoin() }
            engine.close()
        }
    }

    @Before
    fun settings() = choose(GREEDY)

    private fun choose(settings: Settings) = SettingsStore(application).set(settings)

    /** A conversation of two turns, saved with what was computed of it. */
    private fun talked(process: Process): String {
        process.settings.set(SHORT)
        process.ask(LONG)
        val state = states.file(process.state.conversation.id)
        await("its state") { state.isFile }
        val size = state.length()
        process.ask("And 12 + 30?")
        await("the second state") { state.length() > size }
        process.settings.set(GREEDY)
        return process.state.conversation.id
    }

    @Test
    fun `yesterday's conversation is not prefilled again`() {
        Process().use { yesterday ->
            val id = talked(yesterday)
            Process().use { today ->
                assertEquals(id, today.state.conversation.id)
                val found = today.ask(SUM)
                val alive = yesterday.ask(SUM) // which has all in its memory
                // Where the MTP layer drafted it may go back by a token; whether it does, AUTO decides by the time that drafts take.
                assertEquals(alive.promptTokens, found.promptTokens)
                assertTrue("$found, $alive", abs(found.cachedTokens - alive.cachedTokens) <= 1)
                // All former tokens but those of the last answer, whose thinking the prompt leaves out.
                val (before, last) = today.state.conversation.exchanges.dropLast(1).run { dropLast(1).turns to last() }
                val former = today.engine.conversation().apply { restore(before) }.messages() + Message(Role.USER, last.question)
                val count = today.engine.countTokens(Prompt.Chat(former))
                assertTrue("$found, $count former tokens", count > 300 && found.cachedTokens >= count - 1)
                assertEquals(yesterday.answer.text, today.answer.text)
            }
        }
    }

    @Test
    fun `conversations that take turns are not prefilled either`() {
        Process().use { process ->
            val first = talked(process)
            process.chat.new()
            await("an empty one") { process.state.conversation.exchanges.isEmpty() }
            assertTrue(process.ask(SUM).cachedTokens < 10)
            process.chat.open(first)
            await("the first one") { process.state.conversation.id == first }
            val stats = process.ask(SUM)
            assertTrue("$stats", stats.cachedTokens > 300)
        }
    }

    /** As the real one does while it reads a GGUF file alone for its SHA-256, which MiMo-nano's size makes too short to meet. */
    @Test
    fun `stopping while a state is loaded stops the answer, which did not fail`() {
        val id = Process().use(::talked)
        var reading: CompletableDeferred<Unit>? = null
        val real = MimoEngine()
        val slow = object : MimoEngine by real {
            override suspend fun loadConversation(file: File, config: GenerationConfig?, textOnly: Boolean): Conversation {
                CompletableDeferred<Unit>().also { reading = it }.await()
                throw MimoException.WrongState("stopped")
            }

            override fun stop() {
                reading?.complete(Unit)
                real.stop()
            }
        }
        Process(slow).use { process ->
            process.chat.send(SUM)
            await("the state") { reading != null }
            process.chat.stop()
            await("the end") { !process.state.generating }
            assertEquals(AnswerState.STOPPED, process.answer.state)
            assertEquals(null, process.answer.problem)
        }
        assertTrue(states.file(id).isFile)
    }

    @Test
    fun `a state that is damaged or of another cache is dropped, and the text computed anew`() {
        val id = Process().use(::talked)
        val file = states.file(id)
        file.writeBytes(file.readBytes().also { it[it.size / 2]++ })
        Process().use { later ->
            val stats = later.ask(SUM)
            assertTrue("$stats", stats.cachedTokens < 10)
            await("another state") { file.isFile }
        }
        choose(GREEDY.copy(int8Kv = true))
        Process().use { other ->
            val stats = other.ask("And 7 + 8?")
            assertTrue("$stats", stats.cachedTokens < 10)
            await("its state") { file.isFile }
        }
    }

    @Test
    fun `a state without room for its copy in memory is neither loaded nor saved, and is there for another time`() {
        val id = Process().use(::talked)
        val state = states.file(id).readBytes()
        memory = 0
        Process().use { later ->
            val stats = later.ask(SUM)
            assertTrue("$stats", stats.cachedTokens < 10)
            later.ask("And 7 + 8?") // which waits for what is saved after the first
            assertArrayEquals(state, states.file(id).readBytes())
        }
    }

    @Test
    fun `a state that cannot be saved costs no answer`() {
        val folder = states.file("x").parentFile!!
        folder.parentFile!!.mkdirs()
        folder.writeText("no folder")
        Process().use { process ->
            process.ask(SUM)
            assertEquals("76", process.answer.text)
            process.ask("And 12 + 30?")
            assertEquals("no folder", folder.readText())
        }
    }

    @Test
    fun `a deleted conversation leaves nothing, nor does a deleted history`() {
        Process().use { process ->
            process.ask(SUM)
            val first = process.state.conversation.id
            await("its state") { states.file(first).isFile }
            process.chat.new()
            await("an empty one") { process.state.conversation.exchanges.isEmpty() }
            process.ask(SUM)
            val second = process.state.conversation.id
            await("the second state") { states.file(second).isFile }
            process.chat.delete(first)
            await("it is gone") { process.state.history.map { it.id } == listOf(second) && !states.file(first).exists() }
            assertEquals(listOf("$second.json"), chats.list()!!.toList())
            chats.deleteRecursively()
            process.store.refresh()
            assertEquals(emptyList<String>(), states.file(second).parentFile!!.list()!!.toList())
        }
    }

    @Test
    fun `an answer that was cut in its thinking goes on in another process from where it was, computed and all`() {
        choose(Settings(generation = GREEDY.generation.copy { maxTokens = 12 }))
        Process().use { process ->
            process.ask(SUM)
            assertTrue("${process.answer}", process.answer.text.isEmpty() && process.answer.isCut)
            await("its state") { states.file(process.state.conversation.id).isFile }
        }
        choose(GREEDY)
        Process().use { process ->
            val stats = process.after { process.chat.goOn() }
            assertEquals(AnswerState.DONE to "76", process.answer.run { state to text })
            assertTrue("$stats", stats.cachedTokens >= stats.promptTokens - 3)
        }
    }

    @Test
    fun `an answer whose process ended is there to its last token, and goes on`() {
        val expected: Answer
        val tokens: List<GenerationEvent.Token>
        Process().use { process ->
            process.ask(SUM)
            expected = process.answer
            val prompt = Prompt.Chat(listOf(Message(Role.USER, SUM)))
            tokens = runBlocking { process.engine.generate(prompt, GREEDY.generation).toList() }.filterIsInstance<GenerationEvent.Token>()
            val begun = process.store.create().copy(updatedAt = 17, exchanges = listOf(Exchange(SUM, Answer())))
            process.store.save(begun)
            val journal = process.store.begin(begun) // and nobody closes it
            tokens.take(20).forEach(journal::add)
            File(chats, "${begun.id}.journal").appendText("T1 the rest of this line was nev")
            SettingsStore(application).conversation = begun.id
        }
        Process().use { process ->
            assertEquals(AnswerState.INTERRUPTED, process.answer.state)
            assertEquals(tokens.take(20).joinToString("") { it.text }, process.answer.thinking + process.answer.text)
            assertEquals(20, process.answer.tokens)
            process.after { process.chat.goOn() }
            assertEquals(expected.copy(stats = null), process.answer.copy(stats = null))
            await("the journal is over") { chats.list()!!.toSet() == process.state.history.map { "${it.id}.json" }.toSet() }
        }
    }

    @Test
    fun `a journal of an earlier answer is none of this one`() {
        val store = ChatStore(chats, states)
        val begun = store.create().copy(updatedAt = 1, exchanges = listOf(Exchange(SUM, Answer())))
        store.save(begun)
        val old = listOf("a\n", "\\n \\", "\n\\", "", "\\\\n")
        store.begin(begun).use { journal -> old.forEach { journal.add(GenerationEvent.Token(it, Channel.ANSWER, 1)) } }
        assertEquals(5 to old.joinToString(""), store.read(begun.id)!!.exchanges.last().answer.run { tokens to text })
        store.save(begun.copy(updatedAt = 2)) // and the process ends before there is another journal
        assertEquals(Answer(state = AnswerState.INTERRUPTED), store.read(begun.id)!!.exchanges.last().answer)
    }

    @Test
    fun `an interrupted answer stays on disk where what goes on from it cannot be saved`() {
        val store = ChatStore(chats, states)
        val begun = store.create().copy(updatedAt = 3, exchanges = listOf(Exchange(SUM, Answer())))
        store.save(begun)
        store.begin(begun).use { it.add(GenerationEvent.Token("I add", Channel.THINKING, 1)) }
        SettingsStore(application).conversation = begun.id
        Process().use { process ->
            val inTheWay = File(chats, "${begun.id}.json.new").apply { mkdirs() } // as a full disk is
            File(inTheWay, "and stays").writeText("")
            process.after { process.chat.goOn() }
            assertTrue(process.answer.thinking.length > "I add".length)
        }
        assertEquals("I add", ChatStore(chats, states).read(begun.id)!!.exchanges.last().answer.thinking)
    }

    @Test
    fun `a process that is killed loses nothing but the running token`() {
        val store = ChatStore(chats, states)
        val begun = store.create().copy(exchanges = listOf(Exchange(SUM, Answer())))
        store.save(begun)
        val journal = File(chats, "${begun.id}.journal")
        val java = File(System.getProperty("java.home"), "bin/java").path
        val command = listOf(
            java, "-XX:TieredStopAtLevel=1", "-cp", System.getProperty("java.class.path"), DyingProcess::class.java.name,
            checkNotNull(System.getProperty("mimo.model")), journal.path, "${begun.updatedAt}",
        )
        val (output, errors) = listOf("output", "errors").map { File(application.cacheDir, it) }
        val process = ProcessBuilder(command).redirectOutput(output).redirectError(errors).start()
        try {
            await("30 tokens") {
                assertTrue(errors.readText(), process.isAlive)
                output.readText().count { it == '\n' } >= 30
            }
        } finally {
            process.destroyForcibly()
        }
        assertEquals("ended by SIGKILL", 128 + 9, process.waitFor())
        val told = output.readText().split('\n').dropLast(1)
        val found = store.read(begun.id)!!.exchanges.last().answer
        assertEquals(AnswerState.INTERRUPTED, found.state)
        assertTrue("${found.tokens} tokens of ${told.size}", found.tokens in told.size..told.size + 1)
        val text = (found.thinking + found.text).replace('\n', ' ')
        assertTrue("$told\n$found", told.any { it.isNotEmpty() } && text.startsWith(told.joinToString("")))
    }

    private companion object {
        val GREEDY = Settings(generation = GenerationConfig { temperature = 0.0; maxTokens = 300 })
        val SHORT = Settings(generation = GREEDY.generation.copy { maxTokens = 8; thinking = false })
        const val SUM = "What is 25 + 17 * 3?"
        val LONG = (100..170).joinToString(" and ") + ": what is 1 + 1?"
    }
}
