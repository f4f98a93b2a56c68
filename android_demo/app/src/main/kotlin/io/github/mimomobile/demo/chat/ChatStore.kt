package io.github.mimomobile.demo.chat

import android.util.AtomicFile
import android.util.Log
import java.io.File
import java.io.IOException
import java.util.UUID
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import org.json.JSONException
import org.json.JSONObject

/** What the list of conversations shows of one. */
data class Summary(val id: String, val title: String, val updatedAt: Long)

/**
 * Conversations on disk: the text of each in a file, replaced atomically, so that a process that dies leaves the old one or the
 * new one; the answer under way in a [Journal] beside it; and what was computed in [states].
 */
class ChatStore(private val folder: File, val states: StateStore) {
    private val current = MutableStateFlow<List<Summary>>(emptyList())

    /** All that are saved, the newest first; read by [refresh]. */
    val summaries: StateFlow<List<Summary>> = current.asStateFlow()

    fun create() = Chat(UUID.randomUUID().toString(), System.currentTimeMillis())

    /**
     * A saved conversation; null when there is none of this id, or its file is damaged. Nothing answers when a file is read:
     * the process that did ended on the way.
     */
    fun read(id: String): Chat? = try {
        val chat = Chat.fromJson(JSONObject(AtomicFile(file(id)).readFully().decodeToString())).copy(id = id)
        val begun = chat.exchanges.lastOrNull()?.answer?.state == AnswerState.STREAMING
        if (begun) chat.withAnswer(Journal.replay(journal(id), chat), chat.updatedAt) else chat
    } catch (_: IOException) {
        null
    } catch (error: JSONException) {
        damaged(id, error)
    } catch (error: NoSuchElementException) {
        damaged(id, error)
    }

    /** @throws IOException The disk is full, most likely. */
    @Synchronized
    fun save(chat: Chat) {
        if (chat.exchanges.isEmpty()) return
        folder.mkdirs()
        val file = AtomicFile(file(chat.id))
        val output = file.startWrite()
        try {
            output.write(chat.toJson().toString().encodeToByteArray())
            file.finishWrite(output)
        } catch (error: IOException) {
            file.failWrite(output)
            throw error
        }
        val summary = summary(chat)
        current.update { list -> (list.filter { it.id != summary.id } + summary).sortedByDescending { it.updatedAt } }
    }

    /** The journal of the last answer of a conversation that was just saved. */
    internal fun begin(chat: Chat) = Journal(journal(chat.id), chat)

    @Synchronized
    fun delete(id: String) {
        AtomicFile(file(id)).delete()
        journal(id).delete()
        states.delete(id)
        current.update { list -> list.filter { it.id != id } }
    }

    /** Reads the summaries anew, and deletes what was computed for conversations that are not there any more. */
    @Synchronized
    fun refresh() {
        // Before Android 11 a file that was being replaced when the process ended has its old content in another.
        val names = folder.list().orEmpty().map { it.removeSuffix(".bak") }.distinct()
        val ids = names.filter { it.endsWith(ENDING) }.map { it.removeSuffix(ENDING) }
        states.keepOnly(ids.toSet())
        current.value = ids.mapNotNull(::read).map(::summary).sortedByDescending { it.updatedAt }
    }

    private fun summary(of: Chat) = Summary(of.id, of.title, of.updatedAt)

    private fun damaged(id: String, error: Exception): Chat? {
        Log.w("mimo", "${file(id)}: no conversation of this version", error)
        return null
    }

    private fun file(id: String) = File(folder, id + ENDING)

    private fun journal(id: String) = File(folder, "$id.journal")

    private companion object {
        const val ENDING = ".json"
    }
}
