package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.ModelSource
import java.io.File
import java.io.IOException
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertSame
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** What the engine makes of a path, by the formats that an app has. */
class FormatsOfAnAppTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val seen = mutableListOf<ModelSource>()

    /** Fails with [error], and says something of errors of its own. */
    private inner class Fake(override val name: String, private val error: Throwable) : ModelFormat {
        override fun load(source: ModelSource, config: EngineConfig, progress: Progress): LoadedModel {
            seen += source
            throw error
        }

        override fun explain(path: File, error: Throwable): MimoException? =
            if (error is LinkageError) MimoException.ModelLoad("$path: the library of $name is missing", error) else null
    }

    private fun failure(path: File, vararg formats: ModelFormat, recipe: String? = null): MimoException =
        assertThrows(MimoException::class.java) {
            Engine(Formats(formats.toList())).use { engine ->
                runBlocking { engine.load(path, EngineConfig { this.recipe = recipe }) }
            }
        }

    @Test
    fun `a folder goes to the format of its entry, a file to the format that it begins with`() {
        val gguf = Fake("gguf", LinkageError("no libllama.so"))
        val onnx = Fake("onnx", IOException("too slow"))
        val file = temporary.newFile("a file without an end to its name").apply { writeText("GGUF and more") }
        assertEquals("$file: the library of gguf is missing", failure(file, onnx, gguf).message)
        assertEquals("$nano: the library of gguf is missing", failure(nano, onnx, gguf, recipe = "q4_0").message)
        assertEquals("$nano: cannot be read (too slow); copy it again", failure(nano, onnx, gguf, recipe = "int4_b32").message)
        assertEquals(listOf(file to "gguf", nano to "gguf", nano to "onnx"), seen.map { it.path to it.format })
    }

    @Test
    fun `what the app cannot load says what it lacks`() {
        val onnx = Fake("onnx", IOException("never asked"))
        val file = temporary.newFile().apply { writeText("GGUF") }
        val lacks = "the app lacks io.github.mimomobile:mimo-mobile-llama"
        assertEquals("$file: a model in GGUF; $lacks", failure(file, onnx).message)
        assertTrue(failure(nano, onnx, recipe = "q4_0").message!!.endsWith(" found; $lacks"))
        val gguf = Fake("gguf", IOException("never asked"))
        val advice = "a file alone has none to choose from, leave it out"
        assertEquals("$file: recipe q4_0 asked for; $advice", failure(file, gguf, recipe = "q4_0").message)
        for (text in listOf("", "GGU", "PK\u0003\u0004")) {
            val other = "$file: no GGUF file; give one, or the folder that `mimo quantize` wrote"
            assertEquals(other, failure(file.apply { writeText(text) }, gguf).message)
        }
        assertEquals(emptyList<ModelSource>(), seen)
    }

    @Test
    fun `an error that nobody can explain stays what it is`() {
        val error = IllegalStateException("a bug")
        val engine = Engine(Formats(listOf(Fake("onnx", error))))
        val thrown = assertThrows(IllegalStateException::class.java) {
            engine.use { runBlocking { it.load(nano, EngineConfig { recipe = "int4_b32" }) } }
        }
        assertSame(error.message, thrown.message)
    }
}
