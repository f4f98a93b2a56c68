package io.github.mimomobile.runtime.devices

import java.io.File
import java.io.IOException

/**
 * How many cores compute: those that are not of the slowest kind, as all threads wait for the slowest.
 *
 * Where all cores are of one kind, or that is unknown, half of them: two threads of one core share what they need.
 */
internal fun fastCores(
    cpus: File = File("/sys/devices/system/cpu"),
    count: Int = Runtime.getRuntime().availableProcessors(),
): Int {
    val frequencies = (0 until count).mapNotNull { cpu ->
        try {
            File(cpus, "cpu$cpu/cpufreq/cpuinfo_max_freq").readText().trim().toLongOrNull()
        } catch (_: IOException) {
            null
        }
    }
    val fast = frequencies.count { it > frequencies.min() }
    return if (frequencies.size == count && fast > 0) fast else maxOf(1, (count + 1) / 2)
}
