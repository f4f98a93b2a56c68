package io.github.mimomobile.runtime

import java.io.File
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue

/** What saved keys and values must do on every engine; [folder] is for their files. */
internal class SavedStates(private val config: EngineConfig, private val folder: File) {
    private val greedy = GenerationConfig { temperature = 0.0; maxTokens = 300 }

    private fun answer(talk: Conversation, question: String): Pair<List<Int>, GenerationStats> = runBlocking {
        val events = talk.send(question).toList()
        val ids = events.filterIsInstance<GenerationEvent.Token>().mapNotNull { it.tokenId }
        Pair(ids, (events.last() as GenerationEvent.Finished).stats)
    }

    private fun <T> loaded(kind: KvCache, drafts: Boolean, work: (MimoEngine) -> T): T = MimoEngine().use { engine ->
        val speculation = if (drafts) Speculation.MTP else Speculation.OFF
        runBlocking { engine.load(nano, config.copy { kvCache = kind; this.speculation = speculation }) }
        work(engine)
    }

    private fun load(engine: MimoEngine, file: File) = runBlocking { engine.loadConversation(file, greedy) }

    /** A state of each of [kinds] goes on with drafts and without, whatever it was saved with, and in no other kind. */
    fun checkKinds(kinds: List<KvCache>) {
        val files = kinds.associateWith { kind -> listOf(true, false).map { File(folder, "$kind-$it.conversation") } }
        for (kind in kinds) {
            val expected = listOf(true, false).zip(files.getValue(kind)) { drafts, file ->
                loaded(kind, drafts) { engine ->
                    val talk = engine.conversation("Be brief.", greedy)
                    answer(talk, "What is 12 + 30?")
                    runBlocking { talk.save(file) }
                    answer(talk, PRODUCT).first
                }
            }.distinct().single()
            for (drafts in listOf(true, false)) {
                loaded(kind, drafts) { engine ->
                    for (file in files.getValue(kind)) {
                        answer(engine.conversation(config = greedy), "What is 9 * 8?") // the KV cache holds another one
                        val (ids, stats) = answer(load(engine, file), PRODUCT)
                        assertEquals("$file, drafts $drafts", expected, ids)
                        assertTrue("$file, drafts $drafts: $stats", stats.cachedTokens > 25 && stats.draftedTokens > 0 == drafts)
                    }
                }
            }
        }
        for (kind in kinds) {
            loaded(kind, drafts = true) { engine ->
                for (file in files.filterKeys { it != kind }.values.flatten()) {
                    val error = assertThrows("$file with $kind", MimoException.ConversationFile::class.java) { load(engine, file) }
                    assertTrue("$error", error.message!!.startsWith("$file: saved with another "))
                }
            }
        }
    }

    /** One engine does one thing at a time, and says so; engines that save to one path at once leave one of their files. */
    fun checkAtOnce() = loaded(KvCache.FLOAT16, drafts = true) { engine ->
        loaded(KvCache.FLOAT16, drafts = false) { other ->
            val talks = listOf(engine, other).map { each ->
                engineTalk(each).also { answer(it, "What is 12 + 30?") }
            }
            val file = File(folder, "at-once.conversation")
            runBlocking {
                talks.map { async(Dispatchers.Default) { repeat(5) { _ -> it.save(file) } } }.awaitAll()
            }
            assertEquals(listOf(file.name), folder.list()!!.toList())
            assertEquals(listOf("42"), load(engine, file).turns.map { it.answer })
            val second = engineTalk(engine)
            val outcomes = runBlocking {
                listOf(talks[0], second).map { async(Dispatchers.Default) { runCatching { it.save(file) } } }.awaitAll()
            }
            assertTrue("$outcomes", outcomes.any { it.isSuccess } && outcomes.all { it.isSuccess || it.exceptionOrNull() is MimoException.WrongState })
            var refused = 0
            runBlocking {
                val busy = talks[0].send(PRODUCT).onEach {
                    if (refused == 0) {
                        for (work in listOf<suspend () -> Unit>({ second.save(file) }, { engine.loadConversation(file) })) {
                            if (runCatching { work() }.exceptionOrNull() is MimoException.WrongState) refused++
                        }
                    }
                }.toList()
                assertTrue(busy.last() is GenerationEvent.Finished)
                engine.state.first { it is EngineState.Ready }
            }
            assertEquals(2, refused)
            assertEquals("76", talks[0].turns.last().answer)
        }
    }

    private fun engineTalk(engine: MimoEngine) = engine.conversation("Be brief.", greedy)

    private companion object {
        const val PRODUCT = "What is 25 + 17 * 3?"
    }
}
