package io.github.mimomobile.runtime.devices

import java.io.File
import java.io.IOException

/**
 * How many threads are likely to be fast: as many as there are fast cores, since all threads wait for the slowest.
 *
 * Where all cores are fast, but not alike, two are left to the rest of the phone: on a Snapdragon 8 Elite, which has no
 * slow cores, 6 of 8 were the fastest (https://github.com/omnimind-ai/OmniInfer/pull/45). Where all cores are alike, or
 * that is unknown, half of them: two threads of one core share what they need.
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
    if (frequencies.size < count || frequencies.distinct().size == 1) return maxOf(1, (count + 1) / 2)
    val fast = frequencies.count { it >= FAST * frequencies.max() }
    return if (fast < count) fast else maxOf(1, count - SPARE)
}

/** Of the fastest core's frequency; slower ones were three quarters of it at most on the phones that were looked at. */
private const val FAST = 0.8

private const val SPARE = 2
