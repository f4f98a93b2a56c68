package io.github.mimomobile.demo.chat

import android.util.Log
import java.io.File

/**
 * Keys and values of conversations on disk, a file each, which spare a prefill. They are large and can be computed anew: the
 * ones that were used last are kept, as far as there is room for them, and whatever is wrong with one is the end of it.
 *
 * @param freeMemory Bytes that may be taken before Android ends the app.
 * @param freeBytes What the disk has left.
 */
class StateStore(
    private val folder: File,
    private val freeMemory: () -> Long,
    private val freeBytes: () -> Long = { folder.usableSpace },
) {
    /** Of the conversation [id]; it need not be there. */
    fun file(id: String) = File(folder, id + ENDING)

    /** Says that a state was used. */
    fun touch(id: String) {
        file(id).setLastModified(System.currentTimeMillis())
    }

    /** Whether there is memory for a state of about [bytes]: llama.cpp gives and takes one as a copy, which may be copied once more. */
    fun fitsMemory(bytes: Long): Boolean = freeMemory() >= 2 * bytes

    /**
     * Deletes what was used longest ago, so that a state of about [bytes] can be saved; false, and nothing is deleted, when
     * that does not help.
     */
    @Synchronized
    fun makeRoom(id: String, bytes: Long): Boolean {
        folder.mkdirs()
        deleteAll { it.endsWith(UNFINISHED) } // by a process that ended while it saved one
        val others = files().filter { it != file(id) }.sortedBy { it.lastModified() }.toMutableList()
        if (bytes > MOST_BYTES || freeBytes() + others.sumOf { it.length() } < bytes + LEFT_BYTES) return false
        while (others.size >= MOST_STATES || others.sumOf { it.length() } + bytes > MOST_BYTES || freeBytes() < bytes + LEFT_BYTES) {
            val oldest = others.removeFirstOrNull() ?: return false // what was deleted made less room than it took
            if (!oldest.delete()) return false
        }
        return true
    }

    @Synchronized
    fun delete(id: String) {
        file(id).delete()
    }

    /** Deletes the states of all conversations but these. */
    @Synchronized
    fun keepOnly(ids: Set<String>) = deleteAll { it.endsWith(ENDING) && it.removeSuffix(ENDING) !in ids }

    /** Why there is none, for who reads the log; the conversation goes on without it. */
    fun dropped(id: String, why: Exception) {
        Log.w("mimo", "${file(id)}: what was computed is not kept", why)
    }

    private fun files() = folder.listFiles().orEmpty().filter { it.name.endsWith(ENDING) }

    private fun deleteAll(which: (String) -> Boolean) =
        folder.listFiles().orEmpty().filter { which(it.name) }.forEach { it.delete() }

    companion object {
        const val ENDING = ".mimo"
        private const val UNFINISHED = ".tmp"

        const val MOST_STATES = 8

        /** 4,000 tokens of MiMo-7B take 0.6 GB in float16, and half of it in int8. */
        const val MOST_BYTES = 2_000_000_000L

        /** Android wants some of the disk for itself, and other apps, too. */
        const val LEFT_BYTES = 1_000_000_000L
    }
}
