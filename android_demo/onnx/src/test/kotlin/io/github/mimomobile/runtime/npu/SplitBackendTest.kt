package io.github.mimomobile.runtime.npu

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Cancelled
import io.github.mimomobile.runtime.nanoNpu
import io.github.mimomobile.runtime.nanoPrompts
import io.github.mimomobile.runtime.onnx.loader
import java.io.File
import kotlin.math.abs
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Prompts on an NPU, for which the CPU stands in, and tokens on the CPU: what is computed where, and who decides it. */
class SplitBackendTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val split = EngineConfig {
        threads = 1
        provider = ExecutionProvider.QNN
        npuMode = NpuMode.SPLIT
        speculation = Speculation.OFF
        verification = Verification.SIZE
    }
    private val cpu = split.copy { provider = ExecutionProvider.CPU }
    private val ids = IntArray(2048) { 40 + (it * 7919) % 900 }

    private fun load(config: EngineConfig = split, root: File = nanoPrompts, open: OpenPiece = ::openOnCpu) =
        loader(root, config, openPiece = open).load { _, _ -> }

    private fun near(right: FloatArray, found: FloatArray) =
        assertArrayEquals(right, found, 0.02f * right.maxOf { abs(it) })

    private fun Backend.one(count: Int) = decode(ids.copyOf(count), 0).single().copyOf()

    private fun refusal(config: EngineConfig, root: File = nanoPrompts, open: OpenPiece = ::openOnCpu): String =
        assertThrows(MimoException.ProviderUnavailable::class.java) { load(config, root, open) }.message!!

    @Test
    fun `prompts up to the context's end, tokens after them and two rows give what the CPU gives`() {
        load(cpu).use { right ->
            load().use { found ->
                for (count in listOf(1, 20, 64, 65, 300, 2030)) near(right.backend.one(count), found.backend.one(count))
                // A text that goes on where no window fits any more, and one that turned back.
                for ((position, count) in listOf(2000 to 47, 150 to 40)) {
                    val rest = ids.copyOfRange(position, position + count)
                    near(right.backend.decode(rest, position).single(), found.backend.decode(rest, position).single())
                }
                val rows = right.backend.decode(ids.copyOfRange(190, 192), 190, 2)
                rows.zip(found.backend.decode(ids.copyOfRange(190, 192), 190, 2)).forEach { (one, other) -> near(one, other) }
            }
        }
    }

    @Test
    fun `the prompt is the NPU's, whose wrong numbers the self-test finds in the tokens of the CPU`() {
        val root = temporary.newFolder().also { nanoPrompts.copyRecursively(it, overwrite = true) }
        val npu = NpuFolder.find(root.listFiles()!!.single { it.isDirectory }, null).folder
        File(npu, "layers-0.64.data").copyTo(File(npu, "layers-1.64.data"), overwrite = true)
        val message = refusal(split, root)
        assertTrue(message, "wrong numbers on this device: logits differ by" in message)
    }

    @Test
    fun `what is told of the model is that of both`() = load(split.copy { speculation = Speculation.AUTO }).use { model ->
        val info = model.info
        assertEquals(ExecutionProvider.QNN to NpuMode.SPLIT, info.provider to info.npuMode)
        assertNull(info.fallback)
        assertEquals(1, info.threads)
        assertEquals(2048, info.contextLength)
        assertEquals(2L * 4 * 2 * 64 * 2 * 2048, info.kvCacheBytes)
        assertTrue(info.draftsWithMtp) // the CPU's, as none was compiled
        assertTrue(info.selfTest!!, "of the largest (8.0 % allowed)" in info.selfTest)
        assertTrue("${info.placement}", info.placement.values.single() > 20)
        load(cpu).use { assertNull(it.info.npuMode) }
    }

    @Test
    fun `a prompt that is cancelled can be made again, and what was forgotten is in no cache any more`() =
        load().use { model ->
            fun end() = model.backend.decode(ids.copyOf(64), 200).single().copyOf() // in a window, after zeros or a text
            model.backend.forget()
            val empty = end()
            val right = model.backend.one(199)
            assertTrue(empty.zip(end()).any { (zeros, text) -> abs(zeros - text) > 0.1f })
            model.backend.forget()
            assertArrayEquals(empty, end(), 0f)
            model.backend.cancel()
            assertEquals(0, assertThrows(Cancelled::class.java) { model.backend.one(199) }.computed)
            model.backend.renew()
            assertArrayEquals(right, model.backend.one(199), 0f)
        }

    @Test
    fun `binaries for prompts alone leave tokens to the CPU, which strict mode refuses unless it was asked for`() {
        val strict = refusal(split.copy { npuMode = null })
        assertTrue(strict, "compiled for prompts alone, and strict = true leaves no tokens to the CPU" in strict)
        val alone = refusal(split.copy { npuMode = NpuMode.NPU })
        assertTrue(alone, "compiled for prompts alone, and NpuMode.NPU leaves no tokens to the CPU" in alone)
    }

    @Test
    fun `the sessions of a shared binary are made first window first, and told that they share it`() {
        val root = temporary.newFolder().also { nanoNpu.copyRecursively(it, overwrite = true) }
        val npu = NpuFolder.find(root.listFiles()!!.single { it.isDirectory }, null)
        for (piece in listOf("layers-0", "layers-1")) File(npu.folder, "$piece.64_qnn.bin").createNewFile()
        for (window in listOf(2, 1)) File(npu.folder, "head.${window}_qnn.bin").createNewFile() // a copy for each
        val opened = ArrayList<Pair<String, Boolean>>()
        load(split.copy { npuMode = null }, root) { graph, profiled, shared ->
            opened += graph.name to shared
            openOnCpu(graph, profiled, shared)
        }.close()
        val layers = listOf(64, 2, 1).map { "layers-0.$it.onnx" to true }
        assertEquals(layers, opened.take(3))
        assertEquals(listOf("head.2.onnx" to false, "head.1.onnx" to false), opened.filter { "head" in it.first })
        File(npu.folder, "layers-1.2_qnn.bin").createNewFile()
        val message = refusal(split.copy { npuMode = null }, root)
        assertTrue(message, "layers-1.1_qnn.bin: missing; compile again, or copy it" in message)
    }

    private fun measuring(folder: File, version: String? = "1") =
        split.copy { npuMode = null; strict = false; measurementsFolder = folder; driver = version }

    private fun verdicts(folder: File) = folder.listFiles().orEmpty().filter { it.name.startsWith("selftest-") }.sorted()

    /** Makes the NPU so much faster or slower in a verdict that is kept. */
    private fun change(verdict: File, promptS: Double, tokenS: Double) = verdict.writeText(
        verdict.readText().replace(
            Regex(""""speed": \{[^}]*}"""),
            """"speed": {"prompt_s": $promptS, "token_s": $tokenS}""",
        ),
    )

    @Test
    fun `what is fastest computes, as it was measured once with these drivers`() {
        val folder = temporary.newFolder()
        load(measuring(folder), nanoNpu).use { assertTrue(it.info.npuMode != null || it.info.fallback != null) }
        val verdict = verdicts(folder).single()
        val cases = listOf(
            (0.0 to 0.0) to NpuMode.NPU,
            (0.0 to 9.0) to NpuMode.SPLIT,
            (9.0 to 9.0) to null,
        )
        for ((speed, mode) in cases) {
            change(verdict, speed.first, speed.second)
            var opened = 0
            load(measuring(folder), nanoNpu) { graph, profiled, shared ->
                opened++
                openOnCpu(graph, profiled, shared)
            }.use {
                assertEquals(mode, it.info.npuMode)
                assertEquals(if (mode == null) ExecutionProvider.CPU else ExecutionProvider.QNN, it.info.provider)
                if (mode == null) assertTrue(it.info.fallback!!, it.info.fallback.endsWith(": all on the CPU"))
                assertEquals(mode == null, opened == 0)
                near(load(cpu, nanoNpu).use { right -> right.backend.one(100) }, it.backend.one(100))
            }
        }
        load(measuring(folder, "2"), nanoNpu).close()
        assertEquals("other drivers are measured anew", 2, verdicts(folder).size)
        load(measuring(folder, null), nanoNpu).close()
        assertEquals("unknown ones are not remembered", 2, verdicts(folder).size)
        verdict.writeText(verdict.readText().replace("\"error\": \"\"", "\"error\": 1"))
        load(measuring(folder), nanoNpu).close()
        assertTrue("damaged ones are replaced", "\"error\": \"\"" in verdict.readText())
    }

    @Test
    fun `of binaries for prompts alone prompts are measured alone`() {
        val folder = temporary.newFolder()
        load(measuring(folder)).close()
        val verdict = verdicts(folder).single()
        change(verdict, 0.0, 0.0)
        load(measuring(folder)).use { assertEquals(NpuMode.SPLIT, it.info.npuMode) }
        change(verdict, 9.0, 0.0)
        load(measuring(folder)).use { assertNull(it.info.npuMode) }
    }

    @Test
    fun `without memory for both the CPU computes, or an NPU that computes tokens, too`() {
        val sizes = load(split, nanoNpu).use { it.info.weightBytes }
        var asked = 0
        fun scarce() = { if (asked++ < 2) Long.MAX_VALUE else sizes / 10 } // binaries and cache fit, and then nothing
        val config = measuring(temporary.newFolder()).copy { availableBytes = scarce() }
        load(config, nanoNpu).use { assertEquals(NpuMode.NPU, it.info.npuMode) }
        val full = split.copy { strict = false; availableBytes = { if (asked++ == 0) 1 else Long.MAX_VALUE } }
        asked = 0
        load(full).use {
            assertEquals(ExecutionProvider.CPU, it.info.provider)
            assertNotNull(it.info.fallback)
        }
    }
}
