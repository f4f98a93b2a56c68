package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.SavedStates
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.checkHostileConversations
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
    fun `several conversations at once are saved, loaded, or refused while the engine answers`() =
        SavedStates(config, temporary.root).checkAtOnce()
}
