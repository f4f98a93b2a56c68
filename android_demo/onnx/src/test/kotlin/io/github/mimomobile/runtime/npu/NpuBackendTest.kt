package io.github.mimomobile.runtime.npu

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Cancelled
import io.github.mimomobile.runtime.nanoNpu
import io.github.mimomobile.runtime.onnx.OpenedSession
import io.github.mimomobile.runtime.onnx.OrtRuntime
import io.github.mimomobile.runtime.onnx.loader
import io.github.mimomobile.runtime.resized
import java.io.File
import kotlin.math.abs
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** The CPU in an NPU's place. */
internal fun openOnCpu(graph: File, profiled: Boolean, shared: Boolean): OpenedSession =
    OrtRuntime(EngineConfig()).openPlain(graph, profiled)

class NpuBackendTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val config = EngineConfig {
        threads = 1
        provider = ExecutionProvider.QNN
        speculation = Speculation.OFF
        verification = Verification.SIZE
    }
    private val ids = IntArray(2048) { 40 + (it * 7919) % 900 }

    private fun load(config: EngineConfig = this.config, root: File = nanoNpu, open: OpenPiece = ::openOnCpu) =
        loader(root, config, openPiece = open).load { _, _ -> }

    private fun logits(config: EngineConfig, root: File = nanoNpu, count: Int = 300): FloatArray =
        load(config, root).use { it.backend.decode(ids.copyOf(count), 0).single().copyOf() }

    private fun near(right: FloatArray, found: FloatArray) =
        assertArrayEquals(right, found, 0.02f * right.maxOf { abs(it) })

    /** A copy of the folder, in which something can be broken that the manifest does not know of. */
    private fun copy(): File = temporary.newFolder().also { nanoNpu.copyRecursively(it, overwrite = true) }

    private fun onnx(root: File) = root.listFiles()!!.single { it.isDirectory }

    private fun refusal(config: EngineConfig = this.config, root: File = nanoNpu): String =
        assertThrows(MimoException.ProviderUnavailable::class.java) { load(config, root) }.message!!

    @Test
    fun `prompts beyond the largest window and up to the context's end give what the CPU gives`() {
        val cpu = config.copy { provider = ExecutionProvider.CPU }
        near(logits(cpu), logits(config))
        near(logits(cpu, count = 2047), logits(config, count = 2047)) // 31 of 64, then of 2 and 1
    }

    @Test
    fun `two rows are those of two runs, and what was padded leaves nothing behind`() = load().use { model ->
        val backend = model.backend
        fun one(count: Int) = backend.decode(ids.copyOf(count), 0).single().copyOf()
        val single = listOf(one(300), one(301))
        one(40)
        backend.decode(ids.copyOf(299), 0)
        val both = backend.decode(ids.copyOfRange(299, 301), 299, 2)
        both.zip(single).forEach { (found, right) -> near(right, found) }
        backend.decode(ids.copyOf(65), 0) // the last window holds one, its second row is in the one before
        val across = backend.decode(ids.copyOf(65), 0, 2).map { it.copyOf() }
        near(one(64), across[0])
        near(one(65), across[1])
    }

    @Test
    fun `as many rows as are ever verified are those of runs of one`() = load().use { model ->
        val backend = model.backend
        backend.decode(ids.copyOf(300), 0)
        val single = (300 until 308).map { backend.decode(intArrayOf(ids[it]), it).single().copyOf() }
        for (rows in 3..8) {
            val found = backend.decode(ids.copyOfRange(300, 300 + rows), 300, rows)
            assertEquals(rows, found.size)
            single.zip(found).forEach { (right, each) -> near(right, each) }
        }
    }

    @Test
    fun `what is forgotten is in no cache any more, and the MTP layer's is emptied, too`() {
        val drafting = config.copy { speculation = Speculation.MTP }
        fun end(backend: Backend) = backend.decode(ids.copyOf(1), 200).single().copyOf() // it reads all before it, too
        fun draft(backend: Backend) = backend.mtp!!.run { draft(201, ids[1]).copyOf().also { resume(0) } }
        val (token, drafted) = load(drafting).use { // its self-test left a text
            it.backend.forget()
            end(it.backend) to draft(it.backend)
        }
        load(drafting).use { model ->
            model.backend.decode(ids.copyOf(199), 0)
            model.backend.mtp!!.run { draft(199, ids[199]).also { resume(0) } }
            assertTrue(token.zip(end(model.backend)).any { (zeros, text) -> abs(zeros - text) > 0.1f })
            assertTrue(drafted.zip(draft(model.backend)).any { (zeros, text) -> abs(zeros - text) > 0.1f })
            model.backend.forget()
            assertArrayEquals(token, end(model.backend), 0f)
            assertArrayEquals(drafted, draft(model.backend), 0f)
        }
    }

    @Test
    fun `what is told of the model is the binaries'`() {
        val info = load(config.copy { speculation = Speculation.AUTO }).use { it.info }
        assertEquals(ExecutionProvider.QNN, info.provider)
        assertNull(info.fallback)
        assertEquals(2048, info.contextLength)
        assertEquals(2L * 4 * 2 * 64 * 2 * 2048, info.kvCacheBytes)
        assertTrue(info.draftsWithMtp)
        assertTrue(info.weightBytes > 4_000_000)
        // Layers, head and the embedding; here the CPU computes them all.
        assertEquals(setOf("CPUExecutionProvider"), info.placement.keys)
        assertTrue("${info.placement}", info.placement.values.single() in 50..150)
    }

    @Test
    fun `a prompt that is cancelled ends between two windows, and can be made again`() = load().use { model ->
        val right = model.backend.decode(ids.copyOf(200), 0).single().copyOf()
        model.backend.cancel()
        assertThrows(Cancelled::class.java) { model.backend.decode(ids.copyOf(200), 0) }
        model.backend.renew()
        assertArrayEquals(right, model.backend.decode(ids.copyOf(200), 0).single(), 0f)
    }

    @Test
    fun `wrong numbers are refused, or the CPU takes over and it is told why`() {
        val root = copy()
        val reference = File(onnx(root), "reference.json")
        val text = reference.readText()
        reference.writeText(text.replaceFirst(Regex("\"logits\": \\[[-0-9.]+"), "\"logits\": [-30.0"))
        val message = refusal(root = resized(root))
        assertTrue(message, "wrong numbers on this device: logits differ by" in message)
        load(config.copy { strict = false }, root).use { model ->
            assertEquals(ExecutionProvider.CPU, model.info.provider)
            assertTrue(model.info.fallback!!, "wrong numbers on this device" in model.info.fallback)
            assertEquals(emptyMap<String, Int>(), model.info.placement)
        }
        near(logits(config.copy { provider = ExecutionProvider.CPU }), logits(config.copy { strict = false }, root))
        val beyond = """{"ids": [1, 2, 3, 4], "top_ids": [-1], "logits": [1]}"""
        for (damage in listOf("?", "{}", beyond, """{"ids": "x"}""")) {
            reference.writeText(damage)
            val found = refusal(root = resized(root))
            assertTrue(found, "reference.json: not what mimo writes" in found)
        }
        reference.writeText(beyond.replace("-1", "999999"))
        val found = refusal(root = resized(root))
        assertTrue(found, "reference.json: token 999999 found, the model has 1088; quantize again" in found)
    }

    @Test
    fun `numbers that cannot be compared are refused in strict mode only`() {
        val root = copy()
        File(onnx(root), "reference.json").delete()
        val message = refusal(root = resized(root))
        assertTrue(message, "its numbers cannot be tested: no reference.json" in message)
        val untested = config.copy { strict = false; npuMode = NpuMode.NPU }
        load(untested, root).use { assertEquals(ExecutionProvider.QNN, it.info.provider) }
    }

    @Test
    fun `wishes that the binaries cannot fulfil are refused`() {
        val cases = mapOf(
            config.copy { contextLength = 512 } to "compiled for a context of 2048, 512 was asked for",
            config.copy { kvCache = KvCache.INT8 } to "its KV cache is FLOAT16; INT8 was asked for",
            config.copy { soc = "SM8650" } to "compiled for SM8650 expected, for SM8750 found",
        )
        for ((wish, message) in cases) {
            val found = refusal(wish)
            assertTrue(found, message in found)
        }
        load(config.copy { soc = "sm8750" }).close()
        val full = config.copy { availableBytes = { 1_000_000 } }
        val error = assertThrows(MimoException.MemoryFull::class.java) { load(full) }
        assertTrue(error.message!!, "needed for the NPU's binaries" in error.message!!)
    }

    @Test
    fun `which folder is meant is clear, or an error`() {
        val root = copy()
        val folder = onnx(root)
        val first = File(folder, "qnn-SM8750")
        assertEquals(first, NpuFolder.find(folder, null).folder)
        first.copyRecursively(File(folder, "qdq-SM8750"))
        assertEquals(first, NpuFolder.find(folder, null).folder)
        first.copyRecursively(File(folder, "qdq-SM8450"))
        val error = assertThrows(MimoException.ProviderUnavailable::class.java) { NpuFolder.find(folder, null) }
        assertTrue(error.message!!, "compiled for SM8750, SM8450; say which" in error.message!!)
        assertTrue(NpuFolder.find(folder, "SM8450").isQuantized)
        assertTrue(!NpuFolder.find(folder, "SM8750").isQuantized)
    }

    @Test
    fun `damaged and missing files are errors that name them`() {
        val root = copy()
        val npu = File(onnx(root), "qnn-SM8750")
        fun check(name: String, message: String, change: (ByteArray) -> ByteArray?) {
            val file = File(npu, name)
            val before = file.readBytes()
            change(before).let { if (it == null) file.delete() else file.writeBytes(it) }
            val found = refusal(config.copy { speculation = Speculation.AUTO }, resized(root))
            assertTrue(found, name in found && message in found)
            file.writeBytes(before)
        }
        fun settings(old: String, new: String) = { bytes: ByteArray -> String(bytes).replace(old, new).toByteArray() }
        check("npu.json", "not what mimo writes") { byteArrayOf(123) }
        check("npu.json", "not what mimo writes", settings("\"mtp\": true", "\"mtp\": 1"))
        val small = settings("\"context_length\": 2048", "\"context_length\": 32")
        check("npu.json", "falling numbers from at most 32 to 1, or a single one, expected, [64, 2, 1] found", small)
        check("npu.json", "a single one, expected, [64, 2] found", settings("64,\n  2,\n  1", "64, 2"))
        check("npu.json", "no MTP layer expected for prompts alone", settings("64,\n  2,\n  1", "64"))
        check("head.2.onnx", "missing; compile again") { null }
        check("layers-1.64.onnx", "ONNX Runtime cannot load it") { byteArrayOf(1, 2, 3) }
        check("draft_ids.npy", "no .npy of integers of 64 bits") { it.copyOf(it.size - 3) }
        check("draft_ids.npy", "no .npy of integers of 64 bits") { it.copyOf(7) }
        check("draft_ids.npy", "no .npy of integers of 64 bits") { bytes ->
            bytes.copyOf().also { it[it.indexOf('8'.code.toByte())] = '4'.code.toByte() }
        }
        check("draft_ids.npy", "cannot be read") { null }
        File(onnx(root), "embedding.onnx").writeText("")
        val found = refusal(root = resized(root))
        assertTrue(found, "embedding.onnx: ONNX Runtime cannot load it" in found)
    }

    @Test
    fun `without QNN in this build the NPU is not there`() {
        val unavailable = assertThrows(MimoException.ProviderUnavailable::class.java) {
            loader(nanoNpu, config).load { _, _ -> }
        }
        assertTrue(unavailable.message!!, "QNN cannot run the whole model on this device" in unavailable.message!!)
    }
}
