package io.github.mimomobile.runtime.grammar

/**
 * A set of characters, which are code points that UTF-8 can say: none of them is half of a surrogate pair.
 *
 * @property bounds The first and the last of each range in turn, rising; no two ranges touch.
 */
internal class CharSet private constructor(val bounds: IntArray) {
    val isEmpty: Boolean get() = bounds.isEmpty()

    /** The only character, or null if there are several or none. */
    val single: Int? get() = bounds.takeIf { it.size == 2 && it[0] == it[1] }?.get(0)

    /** Whether one of the characters from [first] to [last] is in it. */
    fun meets(first: Int, last: Int): Boolean = place(first).let { it < bounds.size / 2 && bounds[2 * it] <= last }

    /** The first character from [char] on, where there is one. */
    fun firstFrom(char: Int): Int = maxOf(char, bounds[2 * place(char)])

    /** The last character up to [char], where there is one. */
    fun lastTo(char: Int): Int {
        val place = place(char)
        return if (place < bounds.size / 2 && bounds[2 * place] <= char) char else bounds[2 * place - 1]
    }

    /** The number of the first range that ends at [first] or behind it. */
    private fun place(first: Int): Int {
        var low = 0
        var high = bounds.size / 2
        while (low < high) {
            val middle = (low + high) / 2
            if (bounds[2 * middle + 1] < first) low = middle + 1 else high = middle
        }
        return low
    }

    operator fun contains(char: Int): Boolean = meets(char, char)

    operator fun plus(other: CharSet): CharSet = of(ranges() + other.ranges())

    operator fun minus(other: CharSet): CharSet = !(!this + other)

    /** All others. */
    operator fun not(): CharSet {
        val found = mutableListOf<IntRange>()
        var next = 0
        for (range in ranges()) {
            if (range.first > next) found += next until range.first
            next = range.last + 1
        }
        if (next <= LAST) found += next..LAST
        return of(found)
    }

    fun ranges(): List<IntRange> = List(bounds.size / 2) { bounds[2 * it]..bounds[2 * it + 1] }

    override fun equals(other: Any?): Boolean = other is CharSet && bounds.contentEquals(other.bounds)

    override fun hashCode(): Int = bounds.contentHashCode()

    companion object {
        const val LAST: Int = 0x10FFFF
        private val SURROGATES = 0xD800..0xDFFF
        val ALL: CharSet = of(listOf(0..LAST))

        fun of(char: Int): CharSet = of(listOf(char..char))

        fun of(ranges: List<IntRange>): CharSet {
            val whole = ranges.filter { it.first <= it.last }.flatMap { range ->
                listOf(range.first..minOf(range.last, SURROGATES.first - 1), maxOf(range.first, SURROGATES.last + 1)..range.last)
            }
            val found = mutableListOf<IntRange>()
            for (range in whole.filter { it.first <= it.last }.sortedBy { it.first }) {
                val last = found.lastOrNull()
                if (last != null && range.first <= last.last + 1) {
                    found[found.lastIndex] = last.first..maxOf(last.last, range.last)
                } else {
                    found += range
                }
            }
            return CharSet(IntArray(2 * found.size) { found[it / 2].let { range -> if (it % 2 == 0) range.first else range.last } })
        }
    }
}
