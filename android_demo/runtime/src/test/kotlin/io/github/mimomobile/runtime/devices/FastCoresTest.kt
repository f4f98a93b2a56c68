package io.github.mimomobile.runtime.devices

import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class FastCoresTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private fun cores(vararg frequencies: Int): Int {
        frequencies.forEachIndexed { cpu, frequency ->
            File(temporary.root, "cpu$cpu/cpufreq").mkdirs()
            File(temporary.root, "cpu$cpu/cpufreq/cpuinfo_max_freq").writeText("$frequency\n")
        }
        return fastCores(temporary.root, frequencies.size)
    }

    @Test
    fun `the slowest kind of core is left out`() {
        assertEquals(5, cores(2016000, 2016000, 2016000, 2803200, 2803200, 2803200, 2803200, 3187200))
        assertEquals(4, cores(1800000, 1800000, 1800000, 1800000, 2400000, 2400000, 2400000, 2400000))
    }

    @Test
    fun `where no core is slow, two are left to the rest of the phone`() {
        assertEquals(6, cores(3532800, 3532800, 3532800, 3532800, 3532800, 3532800, 4320000, 4320000)) // 8 Elite
    }

    @Test
    fun `of equal or unknown cores it is half`() {
        assertEquals(2, cores(3000000, 3000000, 3000000, 3000000))
        assertEquals(1, fastCores(File(temporary.root, "nothing"), 1))
        assertEquals(4, fastCores(File(temporary.root, "nothing"), 8))
    }
}
