package io.github.mimomobile.runtime.llama

import com.sun.jna.Memory
import io.github.mimomobile.runtime.llama.StateCheck.Companion.partsOfLayers
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Assert.assertTrue
import org.junit.Test

/** Copies of KV caches as llama.cpp writes them, made by hand. */
class StateCheckTest {
    /** Keys and values of [layers], one part for each list of them; a byte of a layer is its number, of values 100 more. */
    private fun copy(layers: List<List<Int>>, positions: List<Int>, transposed: Boolean = false): ByteArray {
        val out = ByteBuffer.allocate(10_000).order(ByteOrder.LITTLE_ENDIAN).putInt(77).putInt(0)
        for (part in layers) {
            out.putInt(1).putInt(positions.size)
            for (each in positions) out.putInt(each).putInt(1).putInt(0)
            if (positions.isEmpty()) continue
            out.putInt(if (transposed) 1 else 0).putInt(part.size)
            for (values in listOf(false, true)) for (layer in part) {
                out.putInt(1)
                if (values && transposed) out.putInt(2).putInt(WIDTH / 2) else out.putLong(WIDTH.toLong())
                out.put(ByteArray(WIDTH * positions.size) { (layer + if (values) 100 else 0).toByte() })
            }
        }
        return out.array().copyOf(out.position())
    }

    private fun check(bytes: ByteArray) = StateCheck(memory(bytes))

    private fun memory(bytes: ByteArray) = Memory(bytes.size.toLong()).apply { write(0, bytes, 0, bytes.size) }

    private fun holds(bytes: ByteArray, tokens: Int = 3, gaps: Boolean = false) = check(bytes).hasPositions(tokens, gaps)

    private fun Memory.bytes(): ByteArray = getByteArray(0, size().toInt())

    @Test
    fun `each position once is right, in whatever order`() {
        for (transposed in listOf(false, true)) {
            assertTrue(holds(copy(listOf(listOf(0, 1)), listOf(2, 0, 1), transposed)))
            assertTrue(holds(copy(listOf(listOf(1), listOf(0)), listOf(0, 1, 2), transposed)))
        }
        assertTrue(holds(copy(listOf(emptyList(), listOf(0)), listOf(0, 2)), gaps = true))
        assertTrue(holds(copy(listOf(emptyList()), emptyList()), gaps = true))
    }

    @Test
    fun `what llama cpp would end the process at is wrong`() {
        val layers = listOf(listOf(0, 1))
        for (positions in listOf(listOf(0, 1), listOf(0, 1, 1), listOf(0, 1, 3), listOf(0, 1, -1), listOf(0, 1, 2, 2))) {
            assertFalse("$positions", holds(copy(layers, positions)))
        }
        assertFalse(holds(copy(layers, listOf(0, 0)), gaps = true))
        val good = copy(layers, listOf(0, 1, 2))
        for (cut in good.indices) assertFalse("cut at $cut", cut != 8 && holds(good.copyOf(maxOf(1, cut))))
        assertFalse(holds(good + 0))
        val empty = byteArrayOf(1, 0, 0, 0, 0, 0, 0, 0)
        assertTrue("a part for each cache", holds(ByteArray(8) + empty + empty, gaps = true))
        assertFalse("and no more", holds(ByteArray(8) + empty + empty + empty, gaps = true))
    }

    @Test
    fun `numbers that lead out of the copy are wrong`() {
        val good = copy(listOf(listOf(0, 1)), listOf(0, 1, 2))
        val (cells, head) = Pair(16, 16 + 3 * 12)
        for (value in listOf(-1, Int.MAX_VALUE, Int.MIN_VALUE, 4, 0)) {
            // Streams, cells, sequences, layers, and both halves of the size of the first layer's keys.
            for (place in listOf(8, 12, cells + 4, head + 4, head + 12, head + 16)) {
                val bytes = good.copyOf().also { ByteBuffer.wrap(it).order(ByteOrder.LITTLE_ENDIAN).putInt(place, value) }
                if (!bytes.contentEquals(good)) assertFalse("$value at $place", holds(bytes))
            }
        }
        for (size in listOf(Long.MAX_VALUE, Long.MAX_VALUE / 3, Long.MAX_VALUE / 3 - 40, Long.MIN_VALUE)) {
            val bytes = good.copyOf().also { ByteBuffer.wrap(it).order(ByteOrder.LITTLE_ENDIAN).putLong(head + 12, size) }
            assertFalse("$size", holds(bytes))
        }
    }

    @Test
    fun `layers are put where another context has them, and back`() {
        assertEquals(listOf(listOf(1, 2), listOf(0)), partsOfLayers(listOf(true, false, false)))
        assertEquals(listOf(listOf(0, 1)), partsOfLayers(listOf(false, false)))
        for (transposed in listOf(false, true)) {
            val one = memory(copy(listOf(listOf(0, 1, 2)), listOf(2, 0, 1), transposed))
            val two = memory(copy(listOf(listOf(1, 2), listOf(0)), listOf(2, 0, 1), transposed))
            val (whole, divided) = Pair(listOf(listOf(0, 1, 2)), listOf(listOf(1, 2), listOf(0)))
            assertArrayEquals(two.bytes(), StateCheck(one).arranged(listOf(0, 1, 2), divided)!!.bytes())
            assertArrayEquals(one.bytes(), StateCheck(two).arranged(listOf(1, 2, 0), whole)!!.bytes())
            assertSame(one, StateCheck(one).arranged(listOf(0, 1, 2), whole))
            assertSame(two, StateCheck(two).arranged(listOf(1, 2, 0), divided))
        }
    }

    @Test
    fun `layers that do not go together are not put anywhere`() {
        val divided = copy(listOf(listOf(1, 2), listOf(0)), listOf(0, 1, 2))
        val whole = listOf(listOf(0, 1, 2))
        for (order in listOf(listOf(0, 1), listOf(0, 0, 1), listOf(0, 1, 3), listOf(-1, 0, 1), emptyList())) {
            assertNull("$order", check(divided).arranged(order, whole))
        }
        assertNull(check(divided).arranged(listOf(1, 2, 0), listOf(listOf(0, 1))))
        divided[divided.size - copy(listOf(listOf(0)), listOf(0, 1, 2)).size + 8 + 8] = 1 // the second part's first position
        assertNull(check(divided).arranged(listOf(1, 2, 0), whole))
        assertNull(check(divided.copyOf(40)).arranged(listOf(0, 1, 2), whole))
    }

    private companion object {
        /** Bytes of one position. */
        const val WIDTH = 4
    }
}
