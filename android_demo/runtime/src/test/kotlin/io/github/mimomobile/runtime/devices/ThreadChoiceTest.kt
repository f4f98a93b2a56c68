package io.github.mimomobile.runtime.devices

import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class ThreadChoiceTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val measured = mutableListOf<Int>()

    /** A device on which [times] are what a layer takes. */
    private fun choice(times: Map<Int, LayerTimes>, key: String = "a", folder: File = temporary.root) =
        ThreadChoice(folder, key) { threads -> times.getValue(threads).also { measured += threads } }

    private fun times(vararg decodeMs: Pair<Int, Double>) =
        decodeMs.associate { (threads, ms) -> threads to LayerTimes(ms / 1e3, 0.01) }

    @Test
    fun `the fastest number is taken, measured once and kept for each state of things`() {
        val times = times(1 to 9.0, 2 to 5.0, 4 to 3.0, 6 to 2.5, 8 to 2.7)
        val told = mutableListOf<String>()
        assertEquals(6, choice(times).choose(times.keys.toList(), told::add))
        assertTrue("$told", "6 threads are the fastest of 1 (9.00 ms a token, 10.0 ms a chunk" in told.single())
        assertEquals(6, choice(times).choose(times.keys.toList()))
        assertEquals(times.keys.toList(), measured)
        val hot = times(1 to 9.0, 2 to 5.0, 4 to 3.0, 6 to 4.5, 8 to 6.7)
        assertEquals(4, choice(hot, "hot").choose(times.keys.toList()))
        assertEquals(6, choice(times).choose(times.keys.toList()))
    }

    @Test
    fun `fewer threads are taken when more are hardly faster, and long prompts count, too`() {
        val flat = times(1 to 3.0, 2 to 2.02, 4 to 2.0)
        assertEquals(2, choice(flat).choose(listOf(1, 2, 4)))
        val prompts = mapOf(2 to LayerTimes(0.001, 0.9), 4 to LayerTimes(0.00105, 0.4))
        assertEquals(4, choice(prompts, "prompts").choose(listOf(2, 4)))
    }

    @Test
    fun `what is damaged, of another device or cannot be kept is measured anew`() {
        val flat = times(1 to 3.0, 2 to 2.0)
        for (damage in listOf("", "many", "64", "-1", "2".repeat(5000))) {
            File(temporary.root, "threads-a.txt").writeText(damage)
            assertEquals(2, choice(flat).choose(listOf(1, 2)))
        }
        val file = temporary.newFile()
        assertEquals(2, choice(flat, folder = File(file, "no folder")).choose(listOf(1, 2)))
    }

    @Test
    fun `candidates are few, and none has more threads than there are cores`() {
        assertEquals(listOf(1, 2, 4, 5, 6, 8), ThreadChoice.candidates(8, 5))
        assertEquals(listOf(1, 2, 3), ThreadChoice.candidates(3, 3))
        assertEquals(listOf(1), ThreadChoice.candidates(1, 1))
    }
}
