package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.nano
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class ManifestTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private fun manifest(text: String): Manifest {
        File(temporary.root, Manifest.NAME).writeText(text)
        return Manifest.read(temporary.root)
    }

    private fun one(path: String, size: Int = 3, sha256: String = ABC) = manifest(
        """{"manifest_version": 1, "model": "m", "entries": [
            {"recipe": "q4_0", "format": "gguf", "path": "m.gguf", "parts": []},
            {"recipe": "int4_b32", "format": "onnx", "path": "m-onnx",
             "parts": [{"path": "$path", "size_bytes": $size, "sha256": "$sha256"}]}]}""",
    )

    private fun failure(work: () -> Unit): String =
        assertThrows(MimoException.ModelLoad::class.java) { work() }.message!!

    private fun Manifest.verify(how: Verification = Verification.SHA256) = verify(entry(null), how) { _, _ -> }

    @Test
    fun `nano's folder is verified, with progress up to the last byte`() {
        val manifest = Manifest.read(nano)
        val seen = mutableListOf<Pair<Long, Long>>()
        manifest.verify(manifest.entry("int4_b32"), Verification.SHA256) { done, total -> seen += done to total }
        assertEquals("mimo-nano", manifest.model)
        assertEquals(seen.map { it.first }.sorted(), seen.map { it.first })
        assertEquals(seen.last().second, seen.last().first)
        assertTrue(seen.last().second > 3_000_000)
    }

    @Test
    fun `entries for llama_cpp are passed over`() {
        assertEquals("int4_b32", one("a").entry(null).recipe)
        assertTrue("recipe q4_0 asked for, int4_b32 found" in failure { one("a").entry("q4_0") })
    }

    @Test
    fun `a missing, short or changed file is an error that names it`() {
        assertTrue("a is missing" in failure { one("a").verify() })
        val file = temporary.newFile("a").apply { writeText("ab") }
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
            assertTrue("leads out of the folder" in failure { one(path).verify() })
        }
    }

    @Test
    fun `what is no manifest is an error`() {
        assertTrue("cannot be read" in failure { Manifest.read(File(temporary.root, "nothing")) })
        val noName = """{"manifest_version": 1, "model": 3, "entries": []}"""
        for (text in listOf("", "[]", "{}", """{"manifest_version": 2}""", noName)) {
            assertTrue(text, "no manifest of version 1" in failure { manifest(text) })
        }
        assertTrue("none found" in failure { manifest(noName.replace("3", "\"m\"")).entry(null) })
    }

    private companion object {
        const val ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
}
