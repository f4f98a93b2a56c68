package io.github.mimomobile.runtime.devices

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.Logger
import io.github.mimomobile.runtime.MimoException
import org.junit.Assert.assertEquals
import org.junit.Assert.assertSame
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class CpuFallbackTest {
    private val warnings = mutableListOf<String>()
    private val unable = MimoException.ProviderUnavailable("no such device")
    private val full = MimoException.MemoryFull("no room")

    /** Where the model is opened; [problem] is that of the provider. */
    private fun place(
        provider: ExecutionProvider,
        strict: Boolean,
        problem: Exception?,
        takesOwnMemory: Boolean = true,
    ): String {
        val config = EngineConfig {
            this.provider = provider
            this.strict = strict
            logger = Logger { _, message -> warnings += message }
        }
        return onProviderOrCpu(
            config, "model", "half of it", takesOwnMemory,
            onProvider = { problem?.let { throw it } ?: "provider" },
            onCpu = { "CPU, fallback $it" },
        )
    }

    @Test
    fun `the provider computes where it can, and the CPU where it is asked for`() {
        for (strict in listOf(true, false)) {
            assertEquals("provider", place(ExecutionProvider.OPENCL, strict, null))
            assertEquals("CPU, fallback null", place(ExecutionProvider.CPU, strict, unable))
        }
        assertTrue("$warnings", warnings.isEmpty())
    }

    @Test
    fun `the CPU computes what the provider cannot, and a warning says why`() {
        assertEquals("CPU, fallback no such device", place(ExecutionProvider.OPENCL, strict = false, unable))
        assertEquals("CPU, fallback no room", place(ExecutionProvider.QNN, strict = false, full))
        assertEquals(
            listOf(
                "model: the CPU computes instead of OPENCL: no such device.",
                "model: the CPU computes instead of QNN: no room.",
            ),
            warnings,
        )
    }

    @Test
    fun `in strict mode it is an error that says what to do`() {
        val error = assertThrows(MimoException.ProviderUnavailable::class.java) {
            place(ExecutionProvider.QNN, strict = true, unable)
        }
        assertEquals(
            "model: QNN cannot run half of it on this device (no such device); take CPU, or set strict = false",
            error.message,
        )
        assertSame(unable, error.cause)
        assertTrue("$warnings", warnings.isEmpty())
    }

    @Test
    fun `memory that the CPU would need, too, is not looked for again, and neither is any in strict mode`() {
        for ((strict, takesOwnMemory) in listOf(true to true, true to false, false to false)) {
            val error = assertThrows(MimoException.MemoryFull::class.java) {
                place(ExecutionProvider.XNNPACK, strict, full, takesOwnMemory)
            }
            assertSame(full, error)
        }
    }

    @Test
    fun `an error that is none of the library's is not taken for a device that cannot`() {
        assertThrows(IllegalStateException::class.java) {
            place(ExecutionProvider.QNN, strict = false, IllegalStateException())
        }
    }
}
