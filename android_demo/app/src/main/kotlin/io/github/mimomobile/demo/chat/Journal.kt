package io.github.mimomobile.demo.chat

import android.util.Log
import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.GenerationEvent
import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/**
 * The answer under way on disk, so that a process that ends loses nothing but the token that it was computing.
 *
 * Each token is one write: what the kernel has got outlives the process, whatever ends it. Only a phone that loses its power
 * needs [sync], which waits for the disk and so is called every two seconds. Nothing that goes wrong here ends an answer.
 *
 * @param chat What is saved when the answer begins; the journal goes with that and no other.
 */
internal class Journal(private val file: File, chat: Chat) : AutoCloseable {
    private var output: FileOutputStream? = null

    init {
        attempt {
            output = FileOutputStream(file)
            write(title(chat))
        }
    }

    fun add(token: GenerationEvent.Token) {
        if (token.tokenId == null && token.text.isEmpty()) return
        attempt { write(lineOf(token)) }
    }

    fun sync() = attempt { output?.fd?.sync() }

    /** The answer is saved elsewhere. */
    fun delete() {
        close()
        file.delete()
    }

    override fun close() = attempt { output?.close() }

    private fun write(line: String) {
        output?.write("$line\n".encodeToByteArray())
    }

    private fun attempt(action: () -> Unit) = try {
        action()
    } catch (error: IOException) {
        Log.w("mimo", "$file: the answer is not kept token by token", error)
        output = null // which closes it once it is garbage
    }

    companion object {
        /** The last answer of a chat that was saved when it began, with what its journal has; the process ended meanwhile. */
        fun replay(file: File, chat: Chat): Answer {
            val draft = Draft(chat.exchanges.last().answer) {}
            for (token in read(file, chat)) draft.add(token)
            draft.end(AnswerState.INTERRUPTED)
            return draft.answer()
        }

        /** What can be read: the process may have ended in the middle of a line. */
        private fun read(file: File, chat: Chat): List<GenerationEvent.Token> = try {
            val lines = file.readText().split('\n').dropLast(1)
            if (lines.firstOrNull() == title(chat)) lines.drop(1).mapNotNull(::tokenOf) else emptyList()
        } catch (_: IOException) { // there is none
            emptyList()
        }

        /** Says which answer it is: each begins at a time of its own. */
        private fun title(chat: Chat) = "journal 1 of ${chat.updatedAt}"

        /** Such as `T1 12+`: a token of the thinking, and its text. */
        private fun lineOf(token: GenerationEvent.Token): String {
            val text = token.text.replace("\\", "\\\\").replace("\n", "\\n")
            return "${token.channel.name[0]}${if (token.tokenId == null) 0 else 1} $text"
        }

        private fun tokenOf(line: String): GenerationEvent.Token? {
            val channel = Channel.entries.firstOrNull { line.startsWith(it.name[0]) } ?: return null
            val text = ESCAPED.replace(line.drop(3)) { if (it.value == "\\n") "\n" else "\\" }
            return GenerationEvent.Token(text, channel, if (line.getOrNull(1) == '1') 0 else null)
        }

        private val ESCAPED = Regex("""\\[n\\]""")
    }
}
