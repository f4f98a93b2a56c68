package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.JsonReader
import java.io.File
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue

/**
 * A conversation that Python saved goes on as Python went on, without being computed again, and an answer that was cut as it
 * was asked for; what is saved then is for Python to go on with (tests/test_android_conversations.py).
 */
internal fun checkSharedConversation(recipe: String) {
    val folder = sharedConversations()
    val cases = File(folder, "expected.json").inputStream().use { JsonReader(it).readValue() } as List<*>
    val mine = cases.map { Case(it as Map<*, *>) }.filter { it.text("recipe") == recipe }
    assertEquals(listOf("off", "mtp"), mine.map { it.text("speculate") })
    val greedy = GenerationConfig { temperature = 0.0; maxTokens = 300 }
    for (speculation in listOf(Speculation.OFF, Speculation.MTP)) MimoEngine().use { engine ->
        val config = EngineConfig { this.recipe = recipe; threads = 1; this.speculation = speculation }
        runBlocking {
            engine.load(nano, config)
            for (case in mine) {
                val talk = engine.loadConversation(File(folder, "python-$recipe-${case.text("speculate")}.conversation"), greedy)
                assertEquals(listOf("42"), talk.turns.map { it.answer })
                val events = talk.send(case.text("question")).toList()
                assertEquals(case.ints("ids"), events.filterIsInstance<GenerationEvent.Token>().mapNotNull { it.tokenId })
                val stats = (events.last() as GenerationEvent.Finished).stats
                assertEquals(case.int("prompt_tokens"), stats.promptTokens)
                assertTrue("$case: $stats", stats.cachedTokens in stats.promptTokens / 2 until stats.promptTokens)
                assertEquals(speculation == Speculation.MTP, stats.draftedTokens > 0)
                talk.save(File(folder, "kotlin-$recipe-${speculation.name.lowercase()}.conversation"))

                val cut = engine.loadConversation(File(folder, "python-$recipe-${case.text("speculate")}-cut.conversation"), greedy)
                cut.save(File(folder, "kotlin-$recipe-${speculation.name.lowercase()}-cut.conversation"))
                val rest = cut.resume().toList()
                assertEquals(case.ints("rest"), rest.filterIsInstance<GenerationEvent.Token>().mapNotNull { it.tokenId })
                assertEquals(Turn(case.text("question"), "", cut.turns.single().answer), cut.turns.single())
            }
        }
    }
}

/** Damaged, lying and strange files are taken and refused exactly as Python takes and refuses them, and the engine goes on. */
internal fun checkHostileConversations(recipe: String) {
    val folder = File(sharedConversations(), "hostile-$recipe")
    val verdicts = File(folder, "verdicts.json").inputStream().use { JsonReader(it).readValue() } as List<*>
    val told = verdicts.map { Case(it as Map<*, *>) }
    assertTrue("${told.size}", told.size > 300 && told.count { it.boolean("loads") } in 30..told.size / 2)
    MimoEngine().use { engine ->
        runBlocking {
            engine.load(nano, EngineConfig { this.recipe = recipe; threads = 1; speculation = Speculation.MTP })
            val wrong = told.flatMap { case ->
                listOf("loads", "text_only").mapNotNull { way ->
                    val error = runCatching { engine.loadConversation(File(folder, case.text("file")), textOnly = way == "text_only") }.exceptionOrNull()
                    val own = error == null || error is MimoException.ConversationFile || error is MimoException.ContextFull
                    if (own && (error == null) == case.boolean(way)) null else "$case, $way: $error"
                }
            }
            assertEquals(emptyList<String>(), wrong)
            val talk = engine.loadConversation(File(folder, "0.conversation"), GenerationConfig { temperature = 0.0; maxTokens = 300 })
            talk.send("What is 25 + 17 * 3?").toList()
            assertEquals("76", talk.turns.last().answer)
        }
    }
}

private fun sharedConversations() =
    File(checkNotNull(System.getProperty("mimo.conversations")) { "-Dmimo.conversations=FOLDER of tools.conversation_fixture" })
