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

/** Conversations on disk, one file each, replaced atomically: a process that dies leaves the old one or the new one. */
class ChatStore(private val folder: File) {
    private val current = MutableStateFlow<List<Summary>>(emptyList())

    /** All that are saved, the newest first; read by [refresh]. */
    val summaries: StateFlow<List<Summary>> = current.asStateFlow()

    fun create() = Conversation(UUID.randomUUID().toString(), System.currentTimeMillis())

    /** A saved conversation; null when there is none of this id, or its file is damaged. */
    fun read(id: String): Conversation? = try {
        Conversation.fromJson(JSONObject(AtomicFile(file(id)).readFully().decodeToString()))
    } catch (_: IOException) {
        null
    } catch (error: JSONException) {
        damaged(id, error)
    } catch (error: NoSuchElementException) {
        damaged(id, error)
    }

    /** @throws IOException The disk is full, most likely. */
    @Synchronized
    fun save(conversation: Conversation) {
        if (conversation.exchanges.isEmpty()) return
        folder.mkdirs()
        val file = AtomicFile(file(conversation.id))
        val output = file.startWrite()
        try {
            output.write(conversation.toJson().toString().encodeToByteArray())
            file.finishWrite(output)
        } catch (error: IOException) {
            file.failWrite(output)
            throw error
        }
        val summary = summary(conversation)
        current.update { list -> (list.filter { it.id != summary.id } + summary).sortedByDescending { it.updatedAt } }
    }

    @Synchronized
    fun delete(id: String) {
        AtomicFile(file(id)).delete()
        current.update { list -> list.filter { it.id != id } }
    }

    /** Reads the summaries anew. */
    @Synchronized
    fun refresh() {
        // Before Android 11 a file that was being replaced when the process ended has its old content in another.
        val names = folder.list().orEmpty().map { it.removeSuffix(".bak") }.distinct()
        val ids = names.filter { it.endsWith(ENDING) }.map { it.removeSuffix(ENDING) }
        current.value = ids.mapNotNull(::read).map(::summary).sortedByDescending { it.updatedAt }
    }

    private fun summary(of: Conversation) = Summary(of.id, of.title, of.updatedAt)

    private fun damaged(id: String, error: Exception): Conversation? {
        Log.w("mimo", "${file(id)}: no conversation of this version", error)
        return null
    }

    private fun file(id: String) = File(folder, id + ENDING)

    private companion object {
        const val ENDING = ".json"
    }
}
