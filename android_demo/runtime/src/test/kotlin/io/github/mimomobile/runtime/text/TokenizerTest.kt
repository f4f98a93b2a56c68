package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.nanoOnnx
import java.io.File
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeNotNull
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class TokenizerTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private fun check(tokenizer: Tokenizer, cases: String) {
        for (case in golden(cases)) {
            val text = case.text("text")
            val ids = tokenizer.encode(text)
            assertEquals(text, case.ints("ids"), ids.asList())
            assertEquals(case.text("decoded"), tokenizer.decode(ids))
            val plain = case.ints(if ("plain" in case.names) "plain" else "ids")
            assertEquals(text, plain, tokenizer.encode(listOf(Segment(text))).asList())
        }
    }

    @Test
    fun `nano's ids are Python's`() {
        check(TokenizerFile.read(File(nanoOnnx, "tokenizer.json")), "tokenization_nano")
    }

    @Test
    fun `ids of Qwen2_5's whole vocabulary are Python's, loaded in under two seconds and 24 MB`() {
        val path = System.getProperty("mimo.qwen2_5")
        assumeNotNull(path)
        val before = usedBytes()
        val started = System.nanoTime()
        val tokenizer = TokenizerFile.read(File(path))
        val seconds = (System.nanoTime() - started) / 1e9
        val megabytes = (usedBytes() - before) / 1e6
        println("Qwen2.5's tokenizer: %.2f s to load, %.1f MB kept".format(seconds, megabytes))
        check(tokenizer, "tokenization_qwen2_5")
        assertEquals(151_665, tokenizer.size)
        assertEquals(setOf(151_643, 151_645), tokenizer.stopIds)
        assertTrue("$seconds s", seconds < 2)
        assertTrue("$megabytes MB", megabytes < 24)
    }

    private fun usedBytes(): Long {
        repeat(3) { System.gc() }
        return Runtime.getRuntime().run { totalMemory() - freeMemory() }
    }

    @Test
    fun `a word of many thousand letters takes no quadratic time`() {
        val tokenizer = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))
        val text = "thestart".repeat(20_000)
        val started = System.nanoTime()
        assertEquals(text, tokenizer.decode(tokenizer.encode(text)))
        assertTrue((System.nanoTime() - started) / 1e9 < 5)
    }

    @Test
    fun `special tokens give no text, padding neither`() {
        val tokenizer = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))
        assertEquals("ab<tool_call>", tokenizer.decode(tokenizer.encode("a<|im_end|>b<tool_call>")))
        assertArrayEquals(ByteArray(0), tokenizer.tokenBytes(1087))
        assertEquals(setOf(1024, 1026), tokenizer.stopIds)
    }

    @Test
    fun `another or a damaged tokenizer is an error that says how it differs`() {
        val whole = File(nanoOnnx, "tokenizer.json").readText()
        val changes = mapOf(
            "\"NFC\"" to "\"NFD\"" to "normalizer NFD found, NFC expected",
            "(?i:'s" to "(?i:'z" to "pre_tokenizer (?i:'z",
            "\"BPE\"" to "\"Unigram\"" to "type Unigram found",
            "<|im_end|>" to "<|other|>" to "no token <|im_end|>",
            "\"lstrip\": false" to "\"lstrip\": true" to "lstrip true found",
            "\"id\": 1024" to "\"id\": -1" to "token id -1 is out of range",
            "\"!\": 0" to "\"\u2028\": 0" to "which stands for no byte",
            "\"!\": 0" to "\"!!!!!\": 0" to "no token for the byte 33",
            "\"padding\": null" to "\"padding\": {}" to "padding {} found, null expected",
            "\"fuse_unk\": false" to "\"fuse_unk\": true" to "fuse_unk true found, false expected",
            "\"end_of_word_suffix\": null" to "\"end_of_word_suffix\": \"w\"" to "end_of_word_suffix w found",
            "\"use_regex\": false" to "\"use_regex\": true" to "pre_tokenizer [ByteLevel, false, true] found",
        )
        for ((change, message) in changes) {
            val file = temporary.newFile()
            file.writeText(whole.replace(change.first, change.second).also { if (it == whole) error(change) })
            val error = assertThrows(message, TokenizerException::class.java) { TokenizerFile.read(file) }
            assertTrue(error.message, message in error.message!!)
        }
        for (length in listOf(0, 1, 100, whole.length / 2, whole.trimEnd().length - 1)) {
            val file = temporary.newFile().apply { writeText(whole.take(length)) }
            assertThrows(TokenizerException::class.java) { TokenizerFile.read(file) }
        }
        assertThrows(TokenizerException::class.java) { TokenizerFile.read(File(temporary.root, "missing")) }
    }

    @Test
    fun `classes of characters are the tokenizers library's, for all that this Unicode version knows`() {
        val holds = mapOf("\\p{L}" to ::isLetter, "\\p{N}" to ::isNumber, "\\s" to ::isSpace)
        for (case in golden("unicode")) {
            val expected = java.util.BitSet(0x110000)
            for (range in case.list("ranges")) {
                val (first, last) = (range as List<*>).map { (it as Double).toInt() }
                expected.set(first, last + 1)
            }
            val holdsHere = holds.getValue(case.text("class"))
            val known = (0..0x10FFFF).filter { Character.isDefined(it) && it !in 0xD800..0xDFFF }
            val wrong = known.filter { holdsHere(it) != expected[it] }
            assertEquals(case.text("class"), emptyList<String>(), wrong.map { "%04X".format(it) })
        }
    }
}
