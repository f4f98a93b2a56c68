package io.github.mimomobile.runtime.llama

import com.sun.jna.Pointer
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.devices.SelfTest
import io.github.mimomobile.runtime.devices.Speed
import io.github.mimomobile.runtime.devices.Verdict
import io.github.mimomobile.runtime.files.OpenFile
import io.github.mimomobile.runtime.nano
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** For which models what was measured of a device counts. */
class KeptVerdictsTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val verdict = Verdict(SelfTest(0.0, 0.1), Speed(1.0, 0.1), Speed(2.0, 0.2))

    private fun kept(model: File) = GgufFormat().kept(
        EngineConfig { provider = ExecutionProvider.HEXAGON; measurementsFolder = temporary.root; driver = "1" },
        null, model, listOf(LlamaDevice("HTP0", "Hexagon", Pointer(16))),
    )

    @Test
    fun `what was measured with a document is not taken for the next one that is open under its number`() {
        val (one, two) = listOf("q4_0", "q8_0").map { File(nano, "mimo-nano-$it.gguf") }
        val number = OpenFile(one).use { opened ->
            checkNotNull(kept(opened.path)).keep(verdict)
            assertNotNull(kept(opened.path)?.recall())
            opened.path
        }
        OpenFile(two).use { opened ->
            assertEquals(number, opened.path) // or this shows nothing
            assertNull(kept(opened.path)?.recall())
            OpenFile(one).use { assertNotNull(kept(it.path)?.recall()) }
        }
    }
}
