package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelManifest
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.devices.Reference
import io.github.mimomobile.runtime.nano
import io.github.mimomobile.runtime.nanoOnnx
import io.github.mimomobile.runtime.text.TokenizerException
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.io.IOException
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.experimental.categories.Category
import org.junit.rules.TemporaryFolder

/**
 * Files of others, changed at random and made to fill the memory: only the library's own exceptions come of them, in a
 * heap as Android gives it.
 */
class HostileFilesTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    @Category(Sweep::class)
    @Test(timeout = 120_000)
    fun `any JSON is read or refused, and passed over likewise`() {
        val contents = listOf("manifest", "npu", "reference").flatMap(::goodOnes)
        val own = { error: Throwable -> error is JsonException }
        hold(contents, 20_000, own) { JsonReader(it.inputStream()).readDocument() }
        hold(contents, 20_000, own) { JsonReader(it.inputStream()).apply { skipValue() } }
    }

    @Category(Sweep::class)
    @Test(timeout = 120_000)
    fun `of manifest_json`() = holdFile(temporary.newFile("manifest.json"), goodOnes("manifest"), 5_000) {
        ModelFolder.read(it.parentFile, null, setOf("onnx")).manifest.sizeBytes
    }

    @Category(Sweep::class)
    @Test(timeout = 120_000)
    fun `of reference_json`() = holdFile(temporary.newFile("reference.json"), goodOnes("reference"), 5_000) { Reference.read(it) }

    @Category(Sweep::class)
    @Test(timeout = 120_000)
    fun `a tokenizer_json is refused, or its ids are tokens`() {
        val content = File(nanoOnnx, "tokenizer.json").readBytes()
        holdFile(temporary.newFile("tokenizer.json"), listOf(content), 3_000) { file ->
            val tokenizer = TokenizerFile.read(file)
            val ids = tokenizer.encode("What is 12 + 30?\n é 算 🙂<|im_end|>")
            assertTrue(ids.all { it in 0 until tokenizer.size })
            tokenizer.decode(ids)
        }
    }

    @Category(Sweep::class)
    @Test(timeout = 120_000)
    fun `what would fill the memory is refused`() {
        val many = 30_000_000
        val lists = "[\"a\",7,{\"a\":[]},"
        val bombs = mapOf(
            "lists" to { place: Int -> if (place == 0) '[' else lists[1 + (place - 1) % (lists.length - 1)] },
            "depth" to { _: Int -> '[' }, "values" to { place: Int -> "[0,"[if (place == 0) 0 else 2 - place % 2] },
            "a text" to { place: Int -> if (place == 0) '"' else 'x' }, "a number" to { _: Int -> '7' },
            "objects" to { place: Int -> if (place == 0) '[' else "{},"[(place - 1) % 3] }, "blanks" to { _: Int -> ' ' },
        )
        for ((name, char) in bombs) {
            val content = ByteArray(many) { char(it).code.toByte() }
            assertThrows(name, JsonException::class.java) { JsonReader(content.inputStream()).readDocument() }
            val file = temporary.root.resolve(ModelManifest.NAME).apply { writeBytes(content) }
            assertThrows(name, MimoException.ModelLoad::class.java) { ModelFolder.read(temporary.root, null, setOf("onnx")) }
            assertThrows(name, TokenizerException::class.java) { TokenizerFile.read(file) }
        }
    }

    @Test(timeout = 20_000)
    fun `what is no file is refused at once`() {
        val pipe = temporary.root.resolve(ModelManifest.NAME)
        assertEquals(0, ProcessBuilder("mkfifo", pipe.path).start().waitFor())
        assertThrows(MimoException.ModelLoad::class.java) { ModelFolder.read(temporary.root, null, setOf("onnx")) }
        for (file in listOf(pipe, File("/dev/zero"), temporary.root)) {
            assertThrows(TokenizerException::class.java) { TokenizerFile.read(file) }
            assertThrows(MimoException.ModelLoad::class.java) { Reference.read(file) }
            assertThrows(IOException::class.java) { untrustedText(file) }

        }
    }

    @Test
    fun `texts that no writer makes are refused`() {
        val surrogates = listOf("\"\\ud800\"", "\"\\udc00\"", "\"\\ud800x\"", "\"\\ud800\\ud800\"", "\"\\udc00\\ud800\"")
        for (text in surrogates + "{\"a\": 1, \"a\": 1}") {
            assertThrows(text, JsonException::class.java) { JsonReader(text.byteInputStream()).readDocument() }
        }
        for (bytes in listOf("22eda08022", "22c08022", "22e0808022", "22f080808022", "22c1bf22")) { // halves, and too long
            val data = bytes.chunked(2).map { it.toInt(16).toByte() }.toByteArray()
            assertThrows(bytes, JsonException::class.java) { JsonReader(data.inputStream()).readDocument() }
        }
        assertEquals("🙂", JsonReader("\"\\ud83d\\ude42\"".byteInputStream()).readDocument())
        ModelFolder.read(nano, "int4_b32", setOf("onnx"))
    }
}
