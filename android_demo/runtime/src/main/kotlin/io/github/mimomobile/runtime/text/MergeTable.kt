package io.github.mimomobile.runtime.text

/** What two neighbouring tokens become, and which pair comes first: the lower its rank, the earlier. */
internal class MergeTable {
    private var pairs = LongArray(1024)
    private var merged = IntArray(1024)

    /** How many pairs there are. */
    var size: Int = 0
        private set
    private var slots = IntArray(1)

    /** Enters the pair of the next rank. */
    fun add(left: Int, right: Int, result: Int) {
        if (size == pairs.size) {
            pairs = pairs.copyOf(2 * size)
            merged = merged.copyOf(2 * size)
        }
        pairs[size] = pair(left, right)
        merged[size++] = result
    }

    /** Makes [rank] possible, after the last [add]. */
    fun index() {
        slots = IntArray(slotsFor(size))
        for (rank in 0 until size) {
            var slot = slot(pairs[rank])
            while (slots[slot] != 0) slot = slot + 1 and slots.size - 1
            slots[slot] = rank + 1
        }
    }

    /** The rank of a pair, or -1 if it is never merged. */
    fun rank(left: Int, right: Int): Int {
        val pair = pair(left, right)
        var slot = slot(pair)
        while (slots[slot] != 0) {
            val rank = slots[slot] - 1
            if (pairs[rank] == pair) return rank
            slot = slot + 1 and slots.size - 1
        }
        return -1
    }

    /** The token that the pair of a rank becomes. */
    fun merged(rank: Int): Int = merged[rank]

    private fun pair(left: Int, right: Int): Long = left.toLong() shl 32 or right.toLong()

    /** Fibonacci hashing. */
    private fun slot(pair: Long): Int = (pair * -7046029254386353131L ushr 33).toInt() and slots.size - 1
}
