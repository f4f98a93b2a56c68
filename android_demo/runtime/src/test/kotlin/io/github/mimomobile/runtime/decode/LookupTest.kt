package io.github.mimomobile.runtime.decode

import java.util.Random
import org.junit.Assert.assertEquals
import org.junit.Test

class LookupTest {
    /** By trying each place, the last one first. */
    private fun searched(text: List<Int>, count: Int): List<Int> {
        val end = text.takeLast(3)
        val place = (3 until text.size).lastOrNull { text.subList(it - 3, it) == end } ?: return emptyList()
        return text.drop(place).take(count)
    }

    @Test
    fun `what is found is what a search from the end finds`() {
        val random = Random(0)
        repeat(40) {
            val lookup = Lookup()
            val text = List(random.nextInt(8)) { random.nextInt(3) }.toMutableList()
            lookup.reset(text.toIntArray())
            repeat(60) {
                val count = random.nextInt(8)
                assertEquals("$text", searched(text, count), lookup.following(count).toList())
                text += random.nextInt(3)
                lookup.append(text.last())
            }
        }
    }

    @Test
    fun `a new text knows nothing of the one before`() {
        val lookup = Lookup()
        lookup.reset(intArrayOf(1, 2, 3, 4, 1, 2, 3))
        assertEquals(listOf(4, 1), lookup.following(2).toList())
        lookup.reset(intArrayOf(1, 2, 3))
        assertEquals(emptyList<Int>(), lookup.following(2).toList())
    }
}
