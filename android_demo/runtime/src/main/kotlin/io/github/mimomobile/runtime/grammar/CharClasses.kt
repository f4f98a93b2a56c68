package io.github.mimomobile.runtime.grammar

import java.util.BitSet
import java.util.TreeMap

/**
 * Characters in classes: those that no set of a grammar tells apart are of one class.
 *
 * @throws IllegalArgumentException The sets overlap in more ways than may be.
 */
internal class CharClasses(sets: List<CharSet>) {
    private val numbers = sets.distinct().withIndex().associate { (number, set) -> set to number }

    /** The first characters of intervals, rising, and the class of each. */
    private val starts: IntArray
    private val kinds: IntArray
    private val ascii = IntArray(128)

    /** The numbers of the sets that each class is in, rising. */
    private val members = mutableListOf<IntArray>()

    init {
        val edges = TreeMap<Int, MutableList<Int>>()
        edges[0] = mutableListOf()
        for ((set, number) in numbers) {
            for (range in set.ranges()) for (edge in listOf(range.first, range.last + 1)) edges.getOrPut(edge, ::mutableListOf) += number
        }
        val found = HashMap<BitSet, Int>()
        val within = BitSet()
        var memberships = 0
        starts = edges.keys.toIntArray()
        kinds = edges.values.map { changed ->
            changed.forEach(within::flip)
            found[within] ?: members.size.also {
                found[within.clone() as BitSet] = it
                members += within.stream().toArray()
                memberships += within.size() / Int.SIZE_BITS + within.cardinality()
                require(memberships < MOST_MEMBERSHIPS) { "grammar: its sets of characters overlap in too many ways; make it simpler" }
            }
        }.toIntArray()
        for (char in ascii.indices) ascii[char] = searched(char)
    }

    val count: Int get() = members.size

    /** The class of a character. */
    fun of(char: Int): Int = if (char < ascii.size) ascii[char] else searched(char)

    /** The number of a set. */
    fun number(set: CharSet): Int = numbers.getValue(set)

    /** Whether the characters of a class are in the set of a number. */
    fun has(kind: Int, set: Int): Boolean = members[kind].binarySearch(set) >= 0

    private fun searched(char: Int): Int {
        val place = starts.binarySearch(char)
        return kinds[if (place >= 0) place else -place - 2]
    }

    private companion object {
        const val MOST_MEMBERSHIPS = 4_000_000
    }
}
