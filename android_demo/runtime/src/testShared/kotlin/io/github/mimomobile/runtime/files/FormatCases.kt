package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.golden
import java.io.File
import org.junit.Assert.assertTrue
import org.junit.Assert.fail

/**
 * [read] accepts and refuses what the table says, which tools/format_cases.py makes and tests/test_formats.py holds
 * against the JSON schemas and the Python readers. A file of a case is [file].
 */
internal fun checkFormat(format: String, file: File, read: (File) -> Unit) {
    val cases = golden("formats").filter { it.text("format") == format }
    assertTrue(cases.any { it.boolean("kotlin") } && cases.any { !it.boolean("kotlin") })
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
        if (problem != null) assertTrue(problem, "${file.name}: " in problem)
    }
}
