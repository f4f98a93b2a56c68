package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelManifest
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.nano
import java.io.File
import java.nio.file.Files
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class ModelFolderTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private fun folder(text: String, recipe: String? = null): ModelFolder {
        File(temporary.root, ModelManifest.NAME).writeText(text)
        return ModelFolder.read(temporary.root, recipe)
    }

    private fun one(path: String, recipe: String? = null) = folder(
        """{"manifest_version": 1, "model": "m", "entries": [
            {"recipe": "q4_0", "format": "gguf", "path": "m.gguf", "parts": []},
            {"recipe": "int4_b32", "format": "onnx", "path": "m-onnx",
             "parts": [{"path": "m-onnx/$path", "size_bytes": 3, "sha256": "$ABC"}]}]}""",
        recipe,
    )

    private fun failure(work: () -> Unit): String =
        assertThrows(MimoException.ModelLoad::class.java) { work() }.message!!

    private fun ModelFolder.verify(how: Verification = Verification.SHA256) = verify(how) { _, _ -> }

    @Test
    fun `nano's folder is verified, with progress up to the last byte`() {
        val folder = ModelFolder.read(nano, "int4_b32")
        val seen = mutableListOf<Pair<Long, Long>>()
        folder.verify(Verification.SHA256) { done, total -> seen += done to total }
        assertEquals("mimo-nano", folder.manifest.model)
        assertEquals(File(nano, ModelManifest.NAME).readText(), folder.manifest.text)
        assertEquals(seen.map { it.first }.sorted(), seen.map { it.first })
        assertEquals(seen.last().second, seen.last().first)
        assertTrue(seen.last().second > 3_000_000)
    }

    @Test
    fun `entries for llama_cpp are passed over`() {
        assertEquals("int4_b32", one("a").manifest.recipe)
        val error = failure { one("a", "q4_0") }
        assertTrue(error, error.startsWith("${temporary.root}: manifest.json: recipe q4_0 asked for, int4_b32 found"))
    }

    @Test
    fun `a missing, short or changed file is an error that names it`() {
        assertTrue("a is missing" in failure { one("a").verify() })
        val file = File(temporary.newFolder("m-onnx"), "a").apply { writeText("ab") }
        assertTrue("a has 2 bytes, 3 expected" in failure { one("a").verify(Verification.SIZE) })
        file.writeText("abd")
        assertTrue("a is damaged: SHA-256 a52d" in failure { one("a").verify() })
        one("a").verify(Verification.SIZE)
        file.writeText("abc")
        one("a").verify()
    }

    @Test
    fun `paths stay inside the folder`() {
        for (path in listOf("../a", "/etc/hostname", "x/../../a")) {
            assertTrue("leads out of the folder" in failure { one(path) })
        }
        Files.createSymbolicLink(File(temporary.newFolder("m-onnx"), "link").toPath(), File("/etc/hostname").toPath())
        assertTrue("leads out of the folder" in failure { one("link").verify() })
    }

    @Test
    fun `what is no manifest is an error`() {
        assertTrue("cannot be read" in failure { ModelFolder.read(File(temporary.root, "nothing"), null) })
        val noName = """{"manifest_version": 1, "model": 3, "entries": []}"""
        for (text in listOf("", "[]", "{}", "3", noName)) {
            assertTrue(text, "manifest.json: not what mimo writes: " in failure { folder(text) })
        }
        val newer = failure { folder("""{"manifest_version": 9}""") }
        assertTrue(newer, "a newer MiMo Mobile wrote it: manifest_version is 9" in newer)
        assertTrue("none found" in failure { folder(noName.replace("3", "\"m\"")) })
    }

    private companion object {
        const val ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
}
