package io.github.mimomobile.runtime.decode

/**
 * What runs take now, beside what was measured: heat, other apps and a longer context change it.
 *
 * @param measured Seconds of a run of 1, 2, … rows.
 */
internal class Pace(private val measured: List<Double>) {
    private val factors = DoubleArray(measured.size) { 1.0 }
    private val seen = ArrayList<Pair<Int, Double>>()

    /** Seconds that a run of so many rows is expected to take. */
    fun seconds(rows: Int): Double = measured[rows - 1] * factors[rows - 1]

    /**
     * A run of so many rows took so long; what is not run by and by counts as changed likewise.
     *
     * Returns whether costs were reckoned anew, which is done for some runs together: a small model's take no time.
     */
    fun learn(rows: Int, seconds: Double): Boolean {
        seen += rows to minOf(seconds / measured[rows - 1], MOST_CHANGE)
        if (seen.size < TOGETHER) return false
        for ((kind, found) in seen.groupBy({ it.first }, { it.second })) {
            val mean = found.average()
            for (index in factors.indices) {
                val share = shareOf(if (index == kind - 1) LEARNT else FORGOTTEN, found.size)
                factors[index] += share * (mean - factors[index])
            }
        }
        seen.clear()
        return true
    }

    /** Of so many changes by a share each. */
    private fun shareOf(one: Double, times: Int): Double = 1 - Math.pow(1 - one, times.toDouble())

    companion object {
        /** How much one run changes what is expected of its kind, and of others. */
        const val LEARNT: Double = 0.1
        private const val FORGOTTEN = 0.02

        /** A run that is verified has at most so many rows: one for the last token, and one for each draft. */
        const val MOST_ROWS: Int = 8

        /** A run that was held up counts as so many at the most. */
        const val MOST_CHANGE: Double = 4.0

        private const val TOGETHER = 8
    }
}
