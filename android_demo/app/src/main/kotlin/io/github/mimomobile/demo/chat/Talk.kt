package io.github.mimomobile.demo.chat

import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.runtime.Conversation
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.Prompt
import java.io.IOException
import kotlinx.coroutines.flow.Flow

/**
 * What the model is told of the chats: a [Conversation] of the library, which gets a chat's text before each answer, and whose
 * keys and values are on disk between two answers. One coroutine at a time uses it.
 */
class Talk(private val engine: MimoEngine, private val states: StateStore) {
    private var conversation = engine.conversation()

    /** The chat that is in [conversation], and the load of the model whose KV cache holds it; null when none does. */
    private var id: String? = null
    private var holds: LoadState.Ready? = null

    /** Tokens of the last prompt. */
    var promptTokens = 0
        private set

    /**
     * The flow of the last exchange's answer, or of its rest when some of it is there. A chat that the KV cache does not hold
     * goes on from its state on disk; one that does not go with this model is deleted, and the text computed anew.
     *
     * @throws MimoException As [MimoEngine.generate], or the engine is busy.
     */
    suspend fun ask(chat: Chat, chosen: Settings, load: LoadState.Ready): Flow<GenerationEvent> {
        if (chat.id != id || load !== holds) {
            conversation = restored(chat.id) ?: if (chat.id == id) conversation else engine.conversation()
            id = chat.id
            holds = load
        }
        val last = chat.exchanges.last()
        val begun = last.turn.takeIf { last.answer.hasBegun }
        conversation.system = chosen.systemPrompt
        conversation.restore(chat.exchanges.dropLast(1).turns, begun = begun)
        val question = if (begun == null) last.question else null
        promptTokens = conversation.countTokens(question, chosen.generation)
        return conversation.run { if (question == null) resume(chosen.generation) else send(question, chosen.generation) }
    }

    private suspend fun restored(id: String): Conversation? {
        val file = states.file(id)
        if (!file.isFile || !states.fitsMemory(file.length())) return null
        return try {
            engine.loadConversation(file).also { states.touch(id) }
        } catch (error: MimoException.ConversationFile) {
            states.delete(id)
            states.dropped(id, error)
            null
        } catch (error: MimoException.ContextFull) { // it may go with the next load, which may have more memory
            states.dropped(id, error)
            null
        } catch (error: MimoException.MemoryFull) { // a copy of it found no room; to compute the text anew needs none
            states.dropped(id, error)
            null
        } catch (error: MimoException.Inference) {
            states.dropped(id, error)
            null
        } catch (error: IOException) {
            states.dropped(id, error)
            null
        }
    }

    /** Something else has used the engine. */
    fun forget() {
        holds = null
    }

    /** Saves what was computed for the last answer; whatever goes wrong costs a prefill later, and nothing else. */
    suspend fun save(chat: Chat, load: LoadState.Ready) {
        if (chat.id != id || load !== holds) return
        try {
            val tokens = conversation.countTokens(if (chat.exchanges.last().answer.isCut) null else "")
            val bytes = bytesOf(load.info, tokens)
            if (states.fitsMemory(bytes) && states.makeRoom(chat.id, bytes)) conversation.save(states.file(chat.id))
        } catch (error: MimoException) {
            states.dropped(chat.id, error)
        } catch (error: IOException) {
            states.dropped(chat.id, error)
        }
    }

    /** How many tokens a chat has. */
    fun countTokens(chat: Chat, systemPrompt: String): Int {
        val text = engine.conversation(systemPrompt).apply { restore(chat.exchanges.turns) }
        return engine.countTokens(Prompt.Chat(text.messages()))
    }

    /** About what a state takes: the MTP layer may add to the trunk's keys and values as much as one of its layers has. */
    private fun bytesOf(info: ModelInfo, tokens: Int): Long = info.kvCacheBytes / info.contextLength * tokens * 5 / 4
}
