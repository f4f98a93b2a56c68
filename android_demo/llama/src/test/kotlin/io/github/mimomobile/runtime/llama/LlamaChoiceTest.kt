package io.github.mimomobile.runtime.llama

import com.sun.jna.Pointer
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.MtpHead
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.devices.KeptVerdict
import io.github.mimomobile.runtime.devices.Reference
import io.github.mimomobile.runtime.devices.SelfTest
import java.io.File
import kotlin.io.path.createTempDirectory
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The choice of a device, with one that is not there: no NPU and no GPU is at hand. */
class LlamaChoiceTest {
    /** Gives the same logits for everything, after so many milliseconds. */
    private class Fake(private val logits: FloatArray, private val tookMs: Long, val on: String) : Backend {
        var closed = 0
        override val contextLength = 512
        override val mtp: MtpHead? = null

        override fun decode(ids: IntArray, position: Int, rows: Int): List<FloatArray> {
            Thread.sleep(tookMs)
            return List(rows) { logits }
        }

        override val kvBytesPerToken: Long get() = 0
        override fun state(tokens: Int): List<StateArray> = emptyList()
        override fun restore(arrays: List<StateArray>, tokens: Int) = Unit
        override fun forget() = Unit
        override fun cancel() = Unit
        override fun renew() = Unit
        override fun close() {
            closed++
        }
    }

    private val reference = Reference(IntArray(6) { it }, intArrayOf(2, 0), doubleArrayOf(8.0, 4.0))
    private val right = floatArrayOf(4f, 1f, 8f)
    private val root = createTempDirectory("choice").toFile()
    private val opened = mutableListOf<Fake>()
    private val warnings = mutableListOf<String>()
    private val device = LlamaDevice("HTP0", "Hexagon", Pointer(16))

    /** What the device is like. */
    private var logits = right
    private var deviceMs = 1L
    private var cpuMs = 6L
    private var takes = 5
    private var known: Reference? = reference
    private var full: String? = null
    private var found: LlamaDevices = LlamaDevices { listOf(device) }

    @After
    fun clean() {
        root.deleteRecursively()
    }

    private fun choose(change: EngineConfig.Builder.() -> Unit = {}): PlacedModel<Fake> {
        val config = EngineConfig {
            provider = ExecutionProvider.HEXAGON
            strict = false
            logger = io.github.mimomobile.runtime.Logger { _, message -> warnings += message }
            change()
        }
        var placed = 0
        return LlamaChoice(
            config, "mimo.gguf", 5, found,
            fits = { layers -> full?.let { throw MimoException.MemoryFull("$it for $layers layers") } },
            open = { placement ->
                placed = minOf(takes, placement.layers)
                val onDevice = placement.devices.isNotEmpty()
                val fake = if (onDevice) Fake(logits, deviceMs, "device") else Fake(right, cpuMs, "CPU")
                fake.also(opened::add)
            },
            offloaded = { placed },
            test = { SelfTest.run(it, known, "mimo.gguf", SelfTest.TOLERANCE) },
            kept = { KeptVerdict(File(root, "verdict.json")) },
        ).open()
    }

    private fun assertAllClosedBut(model: PlacedModel<Fake>?) =
        opened.forEach { assertEquals(it.on, if (it === model?.backend) 0 else 1, it.closed) }

    @Test
    fun `the CPU is opened alone when it is asked for`() {
        val model = choose { provider = ExecutionProvider.CPU }
        assertEquals(ExecutionProvider.CPU, model.provider)
        assertEquals(listOf("CPU"), opened.map { it.on })
        assertTrue(model.placement.isEmpty())
    }

    @Test
    fun `a device that is right and faster computes, and is not measured again`() {
        val model = choose()
        assertEquals(ExecutionProvider.HEXAGON, model.provider)
        assertEquals(mapOf("HTP0" to 5), model.placement)
        assertTrue(model.selfTest, "0.0 %" in model.selfTest.orEmpty())
        assertEquals(listOf("device", "CPU", "device"), opened.map { it.on })
        assertAllClosedBut(model)
        opened.clear()
        assertEquals("device", choose().backend.on)
        assertEquals(1, opened.size)
    }

    @Test
    fun `a device that is slower than the CPU does not compute, and is not opened again`() {
        deviceMs = 9
        val model = choose()
        assertEquals("CPU", model.backend.on)
        assertTrue(model.fallback, "all on the CPU" in model.fallback.orEmpty())
        assertAllClosedBut(model)
        opened.clear()
        assertEquals("CPU", choose().backend.on)
        assertEquals(1, opened.size)
    }

    @Test
    fun `wrong numbers are not trusted, and are an error in strict mode`() {
        logits = floatArrayOf(4f, 1f, 5f)
        val model = choose()
        assertEquals("CPU", model.backend.on)
        assertTrue(model.fallback, "wrong numbers on this device" in model.fallback.orEmpty())
        assertTrue("$warnings", warnings.single().startsWith("mimo.gguf: the CPU computes instead of HEXAGON: wrong"))
        assertAllClosedBut(model)
        assertThrows(MimoException.ProviderUnavailable::class.java) { choose { strict = true } }
        assertAllClosedBut(model)
    }

    @Test
    fun `no number is a wrong number`() {
        logits = floatArrayOf(4f, 1f, Float.NaN)
        assertTrue("wrong numbers on this device" in choose().fallback.orEmpty())
    }

    @Test
    fun `in strict mode a slow device computes, but not what cannot be tested`() {
        deviceMs = 9
        val model = choose { strict = true }
        assertEquals("device", model.backend.on)
        assertEquals(listOf("device"), opened.map { it.on })
        known = null
        val error = assertThrows(MimoException.ProviderUnavailable::class.java) { choose { strict = true } }
        assertTrue(error.message, "its numbers cannot be tested" in error.message.orEmpty())
        assertAllClosedBut(model)
    }

    @Test
    fun `a device whose numbers cannot be tested is taken without strict, and a warning says so`() {
        known = null
        val model = choose()
        assertEquals("device", model.backend.on)
        assertTrue("$warnings", warnings.any { "HEXAGON: its numbers were not tested: nothing to compare with" in it })
        assertAllClosedBut(model)
    }

    @Test
    fun `layers that the device leaves to the CPU are told, and it must take what it was given`() {
        assertEquals(mapOf("HTP0" to 3, "CPU" to 2), choose { providerOptions = mapOf("n_gpu_layers" to "3") }.placement)
        takes = 2
        root.deleteRecursively()
        assertTrue("it takes 2 of the 5 layers" in choose().fallback.orEmpty())
    }

    @Test
    fun `a device that has no room is not opened`() {
        full = "no room"
        val model = choose { providerOptions = mapOf("n_gpu_layers" to "3") }
        assertEquals("no room for 3 layers", model.fallback)
        assertEquals(listOf("CPU"), opened.map { it.on })
        assertThrows(MimoException.MemoryFull::class.java) { choose { strict = true } }
        assertEquals(1, opened.size)
    }

    @Test
    fun `what is no option of llama cpp is told`() {
        for ((options, told) in listOf(
            mapOf("layers" to "3") to "option layers is unknown to llama.cpp; n_gpu_layers expected",
            mapOf("n_gpu_layers" to "6") to "n_gpu_layers 6 is out of range; 1 to 5 expected",
            mapOf("n_gpu_layers" to "all") to "n_gpu_layers all is out of range; 1 to 5 expected",
        )) {
            assertEquals(told, choose { providerOptions = options }.fallback)
        }
    }

    @Test
    fun `without a device the CPU computes, or it is an error`() {
        found = LlamaDevices { throw MimoException.ProviderUnavailable("no such device") }
        assertEquals("no such device", choose().fallback)
        val error = assertThrows(MimoException.ProviderUnavailable::class.java) { choose { strict = true } }
        assertEquals(
            "mimo.gguf: HEXAGON cannot run it on this device (no such device); take CPU, or set strict = false",
            error.message,
        )
        assertNull(choose { provider = ExecutionProvider.CPU }.fallback)
    }
}
