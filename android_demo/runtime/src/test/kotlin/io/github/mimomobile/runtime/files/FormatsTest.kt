package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelManifest
import io.github.mimomobile.runtime.devices.Reference
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.npu.NpuFolder
import java.io.File
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/**
 * The readers accept and refuse what the table says, which tools/format_cases.py makes and tests/test_formats.py holds
 * against the JSON schemas and the Python readers.
 */
class FormatsTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private fun check(format: String, name: String, read: (File) -> Unit) {
        val cases = golden("formats").filter { it.text("format") == format }
        assertTrue(cases.any { it.boolean("kotlin") } && cases.any { !it.boolean("kotlin") })
        val file = temporary.newFolder("qnn-X").resolve(name)
        for (case in cases) {
            val text = case.text("text")
            file.writeText(text)
            val problem = try {
                read(file)
                null
            } catch (error: MimoException.ModelLoad) {
                error.message!!
            }
            if (case.boolean("kotlin") != (problem == null)) fail("$text: ${problem ?: "accepted"}")
            if (problem != null) assertTrue(problem, "$name: " in problem)
        }
    }

    @Test
    fun `of npu_json`() = check("npu", "npu.json") { NpuFolder.find(it.parentFile.parentFile, null) }

    @Test
    fun `of reference_json`() = check("reference", "reference.json") { Reference.read(it) }

    @Test
    fun `of manifest_json`() = check("manifest", "manifest.json") { ModelManifest.parse(it.readText()) }
}
