package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.ArrayType
import io.github.mimomobile.runtime.decode.StateArray
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.LinkOption
import java.nio.file.StandardOpenOption
import java.security.MessageDigest

/**
 * Writes a conversation, byte for byte as Python does, to a file that its owner alone may read and that appears whole or
 * not at all; an earlier conversation there is replaced. docs/formats.md tells the layout.
 *
 * @param arrays The ids of the tokens, and the engine's copy of their keys and values.
 * @throws MimoException.ConversationFile Something else than a conversation is there, or it has more turns or text than readers take.
 * @throws IOException The disk is full, most likely.
 */
internal fun writeConversation(file: File, header: ConversationHeader, arrays: List<StateArray>) {
    if (Files.exists(file.toPath(), LinkOption.NOFOLLOW_LINKS) && !isConversation(file)) {
        throw MimoException.ConversationFile("$file: it exists and is no saved conversation; name another file")
    }
    val length = Counter().also { header.writeTo(it, arrays) }.bytes
    if (length > MOST_HEADER || header.text.turns.size > MOST_TURNS) {
        throw MimoException.ConversationFile(
            "$file: not saved, the conversation has more than ${MOST_HEADER / 1_000_000} MB of text or $MOST_TURNS turns",
        )
    }
    writeWhole(file) { channel ->
        val digest = MessageDigest.getInstance("SHA-256")
        fun write(part: ByteBuffer) {
            digest.update(part.duplicate())
            channel.writeAll(part)
        }
        val lengths = ByteBuffer.allocate(LENGTHS).order(ByteOrder.LITTLE_ENDIAN)
        write(lengths.put(MAGIC).putInt(length.toInt()).apply { rewind() })
        header.writeTo(Output(::write), arrays)
        for (array in arrays) array.parts.forEach { write(it.duplicate()) }
        channel.writeAll(ByteBuffer.wrap(digest.digest()))
    }
}

/**
 * A conversation's file, read as a stranger's, by one descriptor: its size is what its header says. Nothing of it is used
 * that was not read for its checksum, also when somebody changes it meanwhile.
 */
internal class ConversationReader(val file: File) : AutoCloseable {
    private val channel: FileChannel
    private val size: Long
    private val start: Long

    /** Of what was read so far. */
    private val whole = MessageDigest.getInstance("SHA-256")

    /** What [whole] was before and behind each array, once [verify] has read them. */
    private val digests = ArrayList<Pair<MessageDigest, ByteArray>>()

    val header: ConversationHeader
    private val arrays: List<ArrayEntry>

    /** So many tokens' keys and values are in it. */
    val tokenCount: Long get() = arrays[0].shape[0]

    /** Of all arrays. */
    val arrayBytes: Long get() = arrays.sumOf { it.size }

    init {
        if (!file.isFile) refuse(if (file.exists()) "no regular file" else "missing")
        channel = try {
            FileChannel.open(file.toPath(), StandardOpenOption.READ)
        } catch (error: IOException) {
            throw MimoException.ConversationFile("$file: cannot be read (${error.message})", error)
        }
        try {
            size = channel.size()
            val lengths = ByteBuffer.allocate(LENGTHS).order(ByteOrder.LITTLE_ENDIAN)
            read(0, lengths)
            whole.update(lengths.duplicate())
            val magic = ByteArray(MAGIC.size).also(lengths::get)
            if (!magic.contentEquals(MAGIC)) refuse("it does not begin as a saved conversation does")
            val length = lengths.getInt().toLong() and 0xFFFF_FFFFL
            if (length > MOST_HEADER) refuse("a header of $length bytes found, of which $MOST_HEADER are the most")
            start = LENGTHS + length
            val (found, entries) = readHeader(JsonReader(HeaderInput(), mostChars = MOST_HEADER))
            header = found
            arrays = entries
            val expected = arrays.fold(start + DIGEST) { sum, each -> Math.addExact(sum, each.size) }
            if (expected != size) refuse("$size bytes found, $expected expected")
        } catch (error: Exception) {
            channel.close()
            throw when (error) {
                is NewerVersion -> MimoException.ConversationFile(
                    "$file: a newer MiMo Mobile wrote it: conversation_version is ${error.version}, $VERSION is the newest" +
                        " known here; update the app",
                    error,
                )
                is JsonException -> refusal(error.message.orEmpty(), error)
                is ArithmeticException -> refusal("an array that is too large", error)
                is IOException -> MimoException.ConversationFile("$file: cannot be read (${error.message})", error)
                else -> error
            }
        }
    }

    /** Reads all arrays for the checksum of the file; the header was read for it already. */
    fun verify() {
        var place = start
        for (entry in arrays) {
            val before = copyOf(whole)
            for (part in parts(place, entry.size)) whole.update(part)
            digests += Pair(before, copyOf(whole).digest())
            place += entry.size
        }
        val found = ByteBuffer.allocate(DIGEST).also { read(place, it) }.array()
        if (!whole.digest().contentEquals(found)) refuse("its checksum is wrong")
    }

    /**
     * The ids, of a [vocabulary], and the arrays after them, once [verify] has read them: whoever reads one to its end knows
     * that it is what was verified, or gets an error.
     */
    fun state(vocabulary: Int): Pair<IntArray, List<StateArray>> {
        var place = start
        val all = arrays.mapIndexed { index, entry ->
            val from = place
            place += entry.size
            StateArray(entry.name, entry.type, entry.shape, sequence { yieldVerified(from, entry, digests[index]) })
        }
        val ids = IntArray(Math.toIntExact(tokenCount)).also { all[0].bytes().asIntBuffer().get(it) }
        if (ids.any { it !in 0 until vocabulary } || waiting(all).any { it !in 0 until vocabulary }) refuse("an id found that is no token")
        return Pair(ids, all.drop(1))
    }

    /** The ids that wait for the MTP layer, behind a position. */
    private fun waiting(arrays: List<StateArray>): List<Long> {
        val array = arrays.firstOrNull { it.name == WAITING && it.type == ArrayType.I64 && it.size <= PART_BYTES } ?: return emptyList()
        return array.bytes().asLongBuffer().let { longs -> List(longs.remaining()) { longs.get() } }.drop(1)
    }

    override fun close() = channel.close()

    fun refuse(problem: String): Nothing = throw refusal(problem)

    private fun refusal(problem: String, cause: Throwable? = null) =
        MimoException.ConversationFile("$file: ${problem.take(LONGEST)}; $ADVICE", cause)

    private suspend fun SequenceScope<ByteBuffer>.yieldVerified(from: Long, entry: ArrayEntry, read: Pair<MessageDigest, ByteArray>) {
        val digest = copyOf(read.first)
        for (part in parts(from, entry.size)) {
            digest.update(part.duplicate())
            yield(part)
        }
        if (!digest.digest().contentEquals(read.second)) refuse("${entry.name} was changed while it was read")
    }

    /** Pieces of the file; each is valid until the next one is taken. */
    private fun parts(from: Long, bytes: Long): Sequence<ByteBuffer> = sequence {
        val buffer = ByteBuffer.allocate(minOf(PART_BYTES.toLong(), bytes).toInt())
        for (done in 0 until bytes step PART_BYTES.toLong()) {
            buffer.clear().limit(minOf(buffer.capacity().toLong(), bytes - done).toInt())
            read(from + done, buffer)
            yield(buffer.duplicate().order(ByteOrder.LITTLE_ENDIAN))
        }
    }

    /** Fills a buffer from [place] on, and rewinds it. */
    private fun read(place: Long, buffer: ByteBuffer) {
        try {
            while (buffer.hasRemaining()) if (channel.read(buffer, place + buffer.position()) < 0) refuse("it ends early")
        } catch (error: IOException) {
            throw MimoException.ConversationFile("$file: cannot be read (${error.message})", error)
        }
        buffer.rewind()
    }

    /** The header, read piece by piece for its checksum. */
    private inner class HeaderInput : InputStream() {
        private var place = LENGTHS.toLong()

        override fun read(): Int = ByteArray(1).let { if (read(it, 0, 1) < 0) -1 else it[0].toInt() and 0xFF }

        override fun read(target: ByteArray, offset: Int, count: Int): Int {
            val most = minOf(count.toLong(), start - place).toInt()
            if (most == 0) return -1
            read(place, ByteBuffer.wrap(target, offset, most).slice())
            whole.update(target, offset, most)
            place += most
            return most
        }
    }
}

private val MAGIC = "MiMoConv".encodeToByteArray()
private const val WAITING = "head.ids"
private const val LENGTHS = 12
private const val DIGEST = 32

/** Bytes of the header, which has all text of the conversation. */
private const val MOST_HEADER = 32_000_000
private const val PART_BYTES = 1 shl 20
private const val LONGEST = 500
private const val ADVICE = "the file is damaged, or no conversation that MiMo Mobile saved"

private fun copyOf(digest: MessageDigest): MessageDigest = digest.clone() as MessageDigest

private fun FileChannel.writeAll(buffer: ByteBuffer) {
    while (buffer.hasRemaining()) write(buffer)
}

private fun isConversation(file: File): Boolean = try {
    file.isFile && file.inputStream().use { input ->
        val start = ByteArray(MAGIC.size)
        input.read(start) == start.size && start.contentEquals(MAGIC)
    }
} catch (_: IOException) {
    false
}

/** Bytes, counted and dropped. */
private class Counter : OutputStream() {
    var bytes = 0L
        private set

    override fun write(byte: Int) {
        bytes++
    }

    override fun write(source: ByteArray, offset: Int, count: Int) {
        bytes += count
    }
}

/** Bytes that [write] takes in pieces. */
private class Output(private val write: (ByteBuffer) -> Unit) : OutputStream() {
    override fun write(byte: Int) = write(byteArrayOf(byte.toByte()), 0, 1)

    override fun write(source: ByteArray, offset: Int, count: Int) = write(ByteBuffer.wrap(source, offset, count).slice())
}
