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

    private fun folder(text: String, recipe: String? = null, formats: Set<String> = setOf("onnx")): ModelFolder {
        File(temporary.root, ModelManifest.NAME).writeText(text)
        return ModelFolder.read(temporary.root, recipe, formats)
    }

    private fun one(path: String, recipe: String? = null, formats: Set<String> = setOf("onnx")) = folder(
        """{"manifest_version": 1, "model": "m", "entries": [
            {"recipe": "q4_0", "format": "gguf", "path": "m.gguf",
             "parts": [{"path": "m.gguf", "size_bytes": 3, "sha256": "$ABC"}]},
            {"recipe": "int4_b32", "format": "onnx", "path": "m-onnx",
             "parts": [{"path": "m-onnx/$path", "size_bytes": 3, "sha256": "$ABC"}]}]}""",
        recipe,
        formats,
    )

    private fun failure(work: () -> Unit): String =
        assertThrows(MimoException.ModelLoad::class.java) { work() }.message!!

    private fun ModelFolder.verify(how: Verification = Verification.SHA256) = verify(how) { _, _ -> }

    @Test
    fun `nano's folder is verified, with progress up to the last byte`() {
        val folder = ModelFolder.read(nano, "int4_b32", setOf("onnx"))
        val seen = mutableListOf<Pair<Long, Long>>()
        folder.verify(Verification.SHA256) { done, total -> seen += done to total }
        assertEquals("mimo-nano", folder.manifest.model)
        assertEquals(File(nano, ModelManifest.NAME).readText(), folder.manifest.text)
        assertEquals(seen.map { it.first }.sorted(), seen.map { it.first })
        assertEquals(seen.last().second, seen.last().first)
        assertTrue(seen.last().second > 3_000_000)
    }

    @Test
    fun `the first entry that the app can load is taken, and what it lacks for others is said`() {
        assertEquals("int4_b32", one("a").manifest.recipe)
        val both = setOf("onnx", "gguf")
        assertEquals("q4_0 in gguf", one("a", null, both).manifest.run { "$recipe in $format" })
        assertEquals("int4_b32 in onnx", one("a", "int4_b32", both).manifest.run { "$recipe in $format" })
        fun check(said: String, recipe: String?, formats: Set<String>) =
            assertEquals("${temporary.root}: manifest.json: $said", failure { one("a", recipe, formats) })
        val found = "q4_0, int4_b32 found; the app lacks"
        check("recipe q4_0 asked for, $found io.github.mimomobile:mimo-mobile-llama", "q4_0", setOf("onnx"))
        check("recipe int4_b32 asked for, $found io.github.mimomobile:mimo-mobile-onnx", "int4_b32", setOf("gguf"))
        val artifacts = "io.github.mimomobile:mimo-mobile-llama and io.github.mimomobile:mimo-mobile-onnx"
        check("a model asked for, $found $artifacts", null, emptySet())
        val advice = "q4_0, int4_b32 found; make one with `mimo quantize --recipe int2`"
        check("recipe int2 asked for, $advice", "int2", both)
    }

    @Test
    fun `a GGUF file has nothing beside it but its MTP layer`() {
        fun gguf(vararg parts: String) = folder(
            """{"model": "m", "entries": [{"recipe": "q4_0", "format": "gguf", "path": "m.gguf", "parts": [${
                parts.joinToString { "{\"path\": \"$it\", \"size_bytes\": 3, \"sha256\": \"$ABC\"}" }
            }]}]}""",
            formats = setOf("gguf"),
        )
        assertEquals(2, gguf("m.gguf", "m-mtp.gguf").manifest.files.size)
        for (other in listOf("n.gguf", "m.gguf/x", "m", "manifest.json", "m-mtp.gguf/y")) {
            assertTrue(other, "$other is no file of m.gguf" in failure { gguf("m.gguf", other) })
        }
        assertTrue("is there twice" in failure { gguf("m.gguf", "m.gguf") })
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
        assertTrue("cannot be read" in failure { ModelFolder.read(File(temporary.root, "nothing"), null, setOf("onnx")) })
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
