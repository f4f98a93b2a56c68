package io.github.mimomobile.demo.chat

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.MimoEngine
import java.io.File
import kotlinx.coroutines.runBlocking

/** A process that answers without an end, keeps a journal, and tells of each token when it is in it; to be killed. */
internal object DyingProcess {
    @JvmStatic
    fun main(arguments: Array<String>) = runBlocking {
        val (model, journal, updatedAt) = arguments
        val engine = MimoEngine()
        engine.load(File(model), EngineConfig { recipe = "int4_b32"; threads = 1 })
        val tokens = Journal(File(journal), Chat("id", updatedAt.toLong()))
        val endless = GenerationConfig { temperature = 2.0; seed = 1; ignoreEnd = true; speculate = false }
        while (true) {
            engine.conversation().send("What is 12 + 30?", endless).collect { event ->
                if (event !is GenerationEvent.Token || event.tokenId == null) return@collect
                tokens.add(event)
                println(event.text.replace('\n', ' '))
            }
        }
    }
}
