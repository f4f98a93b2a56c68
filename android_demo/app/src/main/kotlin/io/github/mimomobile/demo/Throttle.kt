package io.github.mimomobile.demo

/** Lets something happen at most every 50 ms: nobody sees more. */
class Throttle(private val intervalNs: Long = 50_000_000) {
    private var last = System.nanoTime() - intervalNs

    fun due(): Boolean {
        val now = System.nanoTime()
        return (now - last >= intervalNs).also { if (it) last = now }
    }
}
