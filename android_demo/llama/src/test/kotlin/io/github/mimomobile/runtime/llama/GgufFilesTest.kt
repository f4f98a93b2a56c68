package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.Case
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.files.JsonReader
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.nano
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.experimental.categories.Category

/** What is known of a GGUF file before llama.cpp sees it, against what the Python library says of the same files. */
class GgufFilesTest {
    private val trunk = File(nano, "mimo-nano-q4_0.gguf")

    private val folder = File(checkNotNull(System.getProperty("mimo.gguf")) { "-Dmimo.gguf=FOLDER of tools.gguf_fixture" })

    private fun cases(name: String): List<Case> {
        val read = File(folder, name).inputStream().use { JsonReader(it).readValue() } as List<*>
        return read.map { Case(it as Map<*, *>) }
    }

    private fun check(file: File) {
        val header = GgufHeader(file)
        checked(header)
        tokenizerIn(header)
    }

    @Category(Sweep::class)
    @Test
    fun `files that are damaged or lie are refused where Python's check refuses them, and only these`() {
        val cases = cases("verdicts.json")
        assertTrue(cases.size > 800)
        val wrong = cases.mapNotNull { case ->
            val problem = try {
                check(File(folder, case.text("file")))
                null
            } catch (error: MimoException.ModelLoad) {
                error.message.orEmpty()
            }
            if (problem != null) assertTrue(problem, problem.length in 21..600 && problem.none { it.isISOControl() })
            "${case.text("name")}: $problem".takeIf { (problem == null) != case.boolean("good") }
        }
        assertEquals(emptyList<String>(), wrong)
    }

    @Test
    fun `the tokenizer in a file gives the ids that Python's gives`() {
        val tokenizer = tokenizerIn(GgufHeader(trunk))
        val cases = golden("tokenization_nano")
        assertTrue(cases.size > 20)
        for (case in cases) assertEquals(case.text("text"), case.ints("ids"), tokenizer.encode(case.text("text")).toList())
    }

    @Test
    fun `what a file takes of memory is what Python says`() {
        val cases = cases("needs.json")
        assertTrue(cases.any { "7b-shapes" in it.text("file") } && cases.size > 50)
        for (case in cases) {
            val config = EngineConfig {
                kvCache = KvCache.valueOf(case.text("kv_cache"))
                speculation = Speculation.valueOf(case.text("speculation"))
            }
            val needs = GgufNeeds.of(File(case.text("file")), config, case.boolean("arm"))
            val found = needs.ways(case.int("context")).map {
                listOf(it.copiedBytes, it.kvBytes, it.activationBytes, it.mappedBytes)
            }
            assertEquals("$case", case.list("ways").map { way -> (way as List<*>).map { (it as Double).toLong() } }, found)
        }
    }

    @Test
    fun `the way that fits is taken, and none says what is needed`() {
        fun chosen(available: Long) = GgufNeeds.of(trunk, EngineConfig { availableBytes = { available } }).choose(512)
        val ways = GgufNeeds.of(trunk, EngineConfig()).ways(512)
        assertEquals(4, ways.size)
        assertEquals(ways.first(), chosen(Long.MAX_VALUE))
        val least = ways.minBy { it.roomBytes }
        assertEquals(least, chosen(least.roomBytes))
        val told = assertThrows(MimoException.MemoryFull::class.java) { chosen(least.roomBytes - 1) }.message.orEmpty()
        assertTrue(told, told.startsWith("$trunk: 0.0") && "take a shorter contextLength or a smaller recipe" in told)
    }

    @Test
    fun `a device needs room for copies of the layers that it is given`() {
        fun check(available: Long, layers: Int) {
            val needs = GgufNeeds.of(trunk, EngineConfig { availableBytes = { available } })
            needs.checkDevice(needs.ways(512).last(), layers, 5)
        }
        val mapped = GgufNeeds.of(trunk, EngineConfig()).ways(512).last()
        assertFalse(mapped.copies)
        val all = mapped.totalBytes + mapped.mappedBytes / 10
        check(all, 5)
        val told = assertThrows(MimoException.MemoryFull::class.java) { check(all - 1, 5) }.message.orEmpty()
        assertTrue(told, "with 5 of 5 layers on CPU" in told)
        check(all - mapped.mappedBytes / 20, 2)
    }

    @Test
    fun `apps are told what the engine checks`() {
        val memory = GgufMemory.read(trunk)
        val needs = GgufNeeds.of(trunk, EngineConfig())
        assertEquals(needs.model.contextLength, memory.trainedTokens)
        assertEquals(KvCache.FLOAT16, memory.kvCache)
        for (context in listOf(1, 300, 512, 2048)) {
            val (copied, _, mapped) = needs.ways(context)
            assertEquals(copied.roomBytes, memory.neededBytes(context, repack = true))
            assertEquals(mapped.roomBytes, memory.neededBytes(context, repack = false))
            assertEquals(mapped.mappedBytes, memory.mappedBytes(repack = false))
            assertEquals(copied.mappedBytes, memory.mappedBytes(repack = true))
        }
        assertEquals(memory.fileBytes, memory.mappedBytes(repack = false))
        assertTrue(GgufMemory.read(trunk, drafts = false).fileBytes < memory.fileBytes)
        val half = memory.neededBytes(2048, false) - memory.neededBytes(2048, false, KvCache.INT8)
        assertTrue("$half", half > 0)
        assertThrows(IllegalArgumentException::class.java) { memory.neededBytes(0, repack = true) }
        assertThrows(MimoException.ModelLoad::class.java) { GgufMemory.read(File(nano, "manifest.json")) }
    }

    @Test
    fun `an MTP layer alone, a wrong one beside and a link to nothing are named`() {
        val folder = createTempDir()
        try {
            val alone = File(nano, "mimo-nano-q4_0-mtp.gguf")
            val refused = { file: File, mode: Speculation ->
                assertThrows(MimoException.ModelLoad::class.java) {
                    GgufNeeds.of(file, EngineConfig { speculation = mode })
                }.message.orEmpty()
            }
            assertTrue("holds an MTP layer only" in refused(alone, Speculation.AUTO))
            val copy = trunk.copyTo(File(folder, "x.gguf"))
            assertTrue("no MTP layer there" in refused(copy, Speculation.MTP))
            File(nano, "mimo-nano-q8_0-mtp.gguf").copyTo(File(folder, "x-mtp.gguf"))
            assertTrue("belongs to another model" in refused(copy, Speculation.AUTO))
            trunk.copyTo(File(folder, "x-mtp.gguf"), overwrite = true)
            assertTrue("architecture qwen2 found, step35 expected" in refused(copy, Speculation.AUTO))
            File(folder, "x-mtp.gguf").delete()
            java.nio.file.Files.createSymbolicLink(File(folder, "x-mtp.gguf").toPath(), File(folder, "gone").toPath())
            assertTrue("cannot be read (missing)" in refused(copy, Speculation.AUTO))
        } finally {
            folder.deleteRecursively()
        }
    }
}

private fun createTempDir(): File = kotlin.io.path.createTempDirectory("gguf").toFile()
