package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.SavedStates
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.checkHostileConversations
import io.github.mimomobile.runtime.nano
import java.io.File
import java.nio.file.Files
import java.nio.file.StandardCopyOption
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.experimental.categories.Category
import org.junit.rules.TemporaryFolder

/** Saved keys and values of llama.cpp, of every kind. */
class GgufStatesTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val config = EngineConfig { recipe = "q4_0"; threads = 1 }

    @Before
    fun find() = Libllama.use()

    @Category(Sweep::class)
    @Test
    fun `each kind of KV cache goes on with drafts and without, and refuses the others`() =
        SavedStates(config, temporary.root).checkKinds(KvCache.entries)

    @Category(Sweep::class)
    @Test
    fun `strange files are taken and refused exactly as Python does`() = checkHostileConversations("q4_0")

    @Test
    fun `nothing is saved by the sum of another file than the one that was loaded`() = MimoEngine().use { engine ->
        val file = File(temporary.root, "mine.gguf").also { File(nano, "mimo-nano-q4_0.gguf").copyTo(it) }
        val conversation = engine.conversation(config = GenerationConfig { maxTokens = 4 })
        runBlocking {
            engine.load(file, EngineConfig { threads = 1; speculation = Speculation.OFF })
            conversation.send("1 + 1?").collect {}
        }
        val other = File(temporary.root, "other.gguf").also { File(nano, "mimo-nano-q8_0.gguf").copyTo(it) }
        Files.move(other.toPath(), file.toPath(), StandardCopyOption.REPLACE_EXISTING)
        val saved = File(temporary.root, "saved.mimo")
        val error = assertThrows(MimoException.WrongState::class.java) { runBlocking { conversation.save(saved) } }
        assertTrue(error.message, "another file is there" in error.message.orEmpty())
        assertFalse(saved.exists())
    }

    @Test
    fun `several conversations at once are saved, loaded, or refused while the engine answers`() =
        SavedStates(config, temporary.root).checkAtOnce()
}
