package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.MimoException
import java.io.ByteArrayInputStream
import java.io.File
import kotlin.io.path.createTempDirectory
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** How an app's libraries are found and chosen, on a computer that has none of them. */
class AndroidLibrariesTest {
    private val root = createTempDirectory("hexagon").toFile()
    private val inApp = mutableMapOf("lib/arm64-v8a/libggml-htp-v79.so" to "for the NPU", "lib/x" to "else")
    private val paths = mutableListOf<String>()
    private val files = HexagonFiles(
        root,
        { name -> inApp[name]?.let { ByteArrayInputStream(it.toByteArray()) } },
        paths::lastOrNull,
        paths::add,
    )
    private val file = File(root, "hexagon/libggml-htp-v79.so")

    @After
    fun clean() {
        root.deleteRecursively()
    }

    @Test
    fun `the CPU's code is what fits best, and none where none fits`() {
        val scores = mapOf("a" to 1, "b" to 7, "c" to 0)
        assertEquals("b", CpuVariants.best(listOf("c", "d", "a", "b"), scores::get))
        assertEquals("a", CpuVariants.best(listOf("c", "a"), scores::get))
        assertNull(CpuVariants.best(listOf("c", "d"), scores::get))
    }

    @Test
    fun `code for the NPU is put into files, whose folder is named`() {
        files.prepare()
        assertEquals("for the NPU", file.readText())
        assertEquals(listOf(file.name), file.parentFile.list()!!.toList())
        assertTrue(paths.single(), paths.single().startsWith("${file.parent};/vendor/"))
    }

    @Test
    fun `folders that were named before stay, and none is there twice`() {
        paths += "/data/app/lib;/dsp"
        files.prepare()
        files.prepare()
        assertEquals(List(2) { "${file.parent};/data/app/lib;/dsp" }, paths.drop(1))
    }

    @Test
    fun `what native code sees of the environment can be set`() {
        assertNull(LlamaLibrary.environment("MIMO_NOTHING"))
        LlamaLibrary.setEnvironment("MIMO_SOMETHING", "one")
        LlamaLibrary.setEnvironment("MIMO_SOMETHING", "two")
        assertEquals("one", LlamaLibrary.environment("MIMO_SOMETHING"))
        LlamaLibrary.setEnvironment("MIMO_SOMETHING", "two", replaces = true)
        assertEquals("two", LlamaLibrary.environment("MIMO_SOMETHING"))
    }

    @Test
    fun `a file that is there and right stays, and a wrong one is replaced`() {
        files.prepare()
        file.setLastModified(1_000_000)
        files.prepare()
        assertEquals(1_000_000, file.lastModified())
        file.writeText("for the NPU?")
        files.prepare()
        assertEquals("for the NPU", file.readText())
        inApp["lib/arm64-v8a/libggml-htp-v79.so"] = "a new version"
        files.prepare()
        assertEquals("a new version", file.readText())
    }

    @Test
    fun `an app without it, and a folder that cannot be written, are told`() {
        inApp.clear()
        val error = assertThrows(MimoException.ProviderUnavailable::class.java) { files.prepare() }
        assertEquals("libggml-htp-v….so is not in this app", error.message)
        inApp["lib/arm64-v8a/libggml-htp-v73.so"] = "v73"
        File(root, "hexagon").writeText("a file")
        assertThrows(MimoException.ProviderUnavailable::class.java) { files.prepare() }
        assertTrue(paths.isEmpty())
    }

    @Test
    fun `devices that are not on this computer are told, also those of ONNX Runtime`() {
        val devices = LoadedDevices(Libllama.api, root)
        val told = ExecutionProvider.entries.filter { it != ExecutionProvider.CPU }.associateWith { provider ->
            assertThrows(MimoException.ProviderUnavailable::class.java) { devices.find(provider) }.message.orEmpty()
        }
        assertEquals("QNN does not compute GGUF files; take CPU, HEXAGON or OPENCL", told[ExecutionProvider.QNN])
        assertEquals("libggml-htp-v….so is not in this app", told[ExecutionProvider.HEXAGON])
        val openCl = told[ExecutionProvider.OPENCL].orEmpty()
        assertTrue(openCl, openCl.startsWith("OPENCL: llama.cpp finds no such device here ("))
        assertFalse(openCl, "no reason given" in openCl)
    }
}
