package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.ConversationText
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.Turn
import io.github.mimomobile.runtime.WhenFull
import io.github.mimomobile.runtime.decode.ArrayType
import io.github.mimomobile.runtime.decode.StateArray
import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.file.Files
import java.security.MessageDigest
import kotlin.concurrent.thread
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.experimental.categories.Category
import org.junit.rules.TemporaryFolder

/** Saved conversations as files, without a model. */
class ConversationFileTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val file by lazy { File(temporary.root, "talk.conversation") }
    private val ids = StateArray.of(TOKENS, ArrayType.I32, 2) { it.asIntBuffer().put(intArrayOf(7, 8)) }
    private val trunk = StateArray.of("trunk", ArrayType.U8, 5_000_000) { while (it.hasRemaining()) it.put(it.position().toByte()) }

    private fun header(vararg turns: Turn, system: String = "") =
        ConversationHeader("a".repeat(64), 512, system, ConversationText(turns.toList(), 0, -1, 3), false, WhenFull.DROP)

    private fun write(header: ConversationHeader = header(), vararg arrays: StateArray = arrayOf(ids, trunk)) =
        writeConversation(file, header, arrays.toList())

    private fun read(): ConversationHeader = ConversationReader(file).use { reader -> reader.apply { verify() }.header }

    private fun refusal(work: () -> Unit): String = assertThrows(MimoException.ConversationFile::class.java) { work() }.message!!

    /** All bytes of the arrays behind the ids. */
    private fun bytes(reader: ConversationReader): ByteArray =
        reader.state(10).second.flatMap { array -> array.parts.map { part -> ByteArray(part.remaining()).also(part::get) } }
            .fold(ByteArray(0), ByteArray::plus)

    @Category(Sweep::class)
    @Test
    fun `whatever text is written is read`() {
        val strange = "\u0000\u0001\u001f\u007f\"\\/\b\u000c\n\r\t\u2028\ufeff\ufffd🙂é\u0301"
        val turns = listOf(Turn(strange, strange.reversed().filterNot { it.isSurrogate() }, strange), Turn("x".repeat(2_000_000), "", "🙂".repeat(700_000)))
        write(header(*turns.toTypedArray(), system = strange))
        val found = read()
        assertEquals(turns, found.text.turns)
        assertEquals(listOf(strange, -1L, 3L), listOf(found.system, found.text.seed, found.text.draws))
    }

    @Test
    fun `how a cut answer was asked for is written and read, and is nothing in a file of before`() {
        val turn = Turn("1 + 1?", "", "2")
        for (thinks in listOf(true, false, null)) {
            val whole = header(turn).run { ConversationHeader(model, kvBytesPerToken, system, text, keepThinking, whenFull, thinks) }
            write(whole, ids)
            assertEquals(thinks, read().cutThinks)
            assertEquals(thinks != null, "\"cut_thinks\": $thinks" in String(file.readBytes(), Charsets.ISO_8859_1))
        }
        for ((header, value) in listOf(header(turn) to "1", header(turn) to "\"true\"", header(turn) to "[]", header() to "true")) {
            write(header, ids)
            replaceInHeader("\"draws\"", "\"cut_thinks\": $value, \"draws\"")
            val told = refusal { ConversationReader(file).close() }
            assertTrue("$value: $told", "cut_thinks: " in told)
        }
    }

    @Test
    fun `half a surrogate pair is written as the tokenizer reads it`() {
        write(header(Turn("a\ud83d", "\udc00b", "c")))
        assertEquals(listOf(Turn("a?", "?b", "c")), read().text.turns)
    }

    @Category(Sweep::class)
    @Test
    fun `very many turns are read`() {
        val turns = List(60_000) { Turn("$it", "", "And $it?") }
        write(header(*turns.toTypedArray()))
        assertEquals(turns, read().text.turns)
    }

    @Category(Sweep::class)
    @Test
    fun `what readers would not take is not written`() {
        write()
        val before = file.readBytes()
        val tooMuch = header(*Array(8) { Turn("é".repeat(2_100_000), "", "") })
        val tooMany = header(*Array(100_001) { Turn("", "", "") })
        for (each in listOf(tooMuch, tooMany)) {
            assertTrue("more than 32 MB of text or 100000 turns" in refusal { write(each) })
        }
        assertArrayEquals(before, file.readBytes())
        write(header(*Array(100_000) { Turn("", "", "") }))
        assertEquals(100_000, read().text.turns.size)
    }

    @Test
    fun `an array that is changed after it was verified is not taken for it`() {
        write()
        ConversationReader(file).use { reader ->
            reader.verify()
            RandomAccessFile(file, "rw").use { it.apply { seek(file.length() - 1000) }.write(77) }
            assertTrue("trunk was changed while it was read" in refusal { bytes(reader) })
        }
    }

    @Test
    fun `a file that is cut while it is read is an error, and no crash`() {
        write()
        ConversationReader(file).use { reader ->
            reader.verify()
            val arrays = reader.state(10).second
            RandomAccessFile(file, "rw").use { it.setLength(1_000_000) }
            val told = refusal { arrays.forEach { array -> array.parts.forEach { part -> while (part.hasRemaining()) part.get() } } }
            assertTrue(told, "it ends early" in told)
        }
    }

    @Test
    fun `another file in its place does not change what is read`() {
        write()
        ConversationReader(file).use { reader ->
            write(header(), ids)
            reader.verify()
            assertEquals(5_000_000, bytes(reader).size)
        }
        ConversationReader(file).use { reader -> assertEquals(0, reader.apply { verify() }.state(10).second.size) }
    }

    @Test
    fun `a header that lies about sizes is refused before anything is read or kept`() {
        write()
        val content = file.readBytes()
        for (shape in listOf("[9007199254740991]", "[4294967296, 4294967296]", "[2147483648]", "[-1]", "[1e300]", "[]", "[0, 9007199254740991, 9]")) {
            file.writeBytes(content)
            replaceInHeader("[5000000]", shape)
            val told = refusal { ConversationReader(file).close() }
            assertTrue("$shape: $told", "bytes found" in told || "too large" in told || "whole numbers" in told)
        }
    }

    private fun replaceInHeader(old: String, new: String) {
        val content = file.readBytes()
        val length = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN).getInt(8)
        file.writeBytes(sealed(String(content, 12, length).replace(old, new), content.copyOfRange(12 + length, content.size - 32)))
    }

    private fun sealed(header: String, arrays: ByteArray): ByteArray {
        val lengths = ByteBuffer.allocate(12).order(ByteOrder.LITTLE_ENDIAN).put("MiMoConv".encodeToByteArray())
        val body = lengths.putInt(header.encodeToByteArray().size).array() + header.encodeToByteArray() + arrays
        return body + MessageDigest.getInstance("SHA-256").digest(body)
    }

    @Test
    fun `what a killed process left is removed, and what another one writes is not`() {
        val java = File(System.getProperty("java.home"), "bin/java").path
        val unverified = listOf("-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote") // for what was DEX once
        val program = listOf("-cp", System.getProperty("java.class.path"), SlowWriter::class.java.name, file.path)
        val child = ProcessBuilder(listOf(java) + unverified + program).redirectError(ProcessBuilder.Redirect.INHERIT).start()
        try {
            assertEquals("writing", child.inputStream.bufferedReader().readLine())
            val names = { temporary.root.list()!!.toSet() }
            val others = setOf(".talk.conversation-x.tmp", ".talk.conversation-2-7.tmp", "talk.conversation-3.tmp")
            others.forEach { File(temporary.root, it).writeText("another's") }
            write()
            assertEquals("what is being written stays", 1, (names() - others - file.name).size)
            child.destroyForcibly().waitFor()
            write()
            assertEquals(others + file.name, names())
        } finally {
            child.destroyForcibly()
        }
    }

    @Test
    fun `what this process writes by another path of the folder stays`() {
        val link = Files.createSymbolicLink(File(temporary.newFolder(), "link").toPath(), temporary.root.toPath()).toFile()
        writeWhole(file) { channel ->
            writeWhole(File(link, file.name)) { it.write(ByteBuffer.wrap(byteArrayOf(2))) }
            channel.write(ByteBuffer.wrap(byteArrayOf(1)))
        }
        assertArrayEquals(byteArrayOf(1), file.readBytes())
    }

    @Test
    fun `whoever writes at once to one path writes it whole`() {
        val errors = ArrayList<Throwable>()
        val writers = List(4) { number ->
            thread {
                try {
                    repeat(20) { write(header(Turn("$number", "", "")), ids) }
                } catch (error: Throwable) {
                    synchronized(errors) { errors += error }
                }
            }
        }
        writers.forEach { it.join() }
        assertEquals(emptyList<Throwable>(), errors)
        assertTrue(read().text.turns.single().question in listOf("0", "1", "2", "3"))
        assertEquals(listOf(file.name), temporary.root.list()!!.toList())
    }

    /** Begins to write the file that it is given, and does not end. */
    object SlowWriter {
        @JvmStatic
        fun main(arguments: Array<String>) {
            val endless = StateArray("trunk", ArrayType.U8, listOf(9), sequence {
                yield(ByteBuffer.allocate(4))
                println("writing")
                Thread.sleep(Long.MAX_VALUE)
            })
            val header = ConversationHeader("a".repeat(64), 1, "", ConversationText(emptyList(), 0, 0, 0), false, WhenFull.STOP)
            writeConversation(File(arguments[0]), header, listOf(endless))
        }
    }
}
