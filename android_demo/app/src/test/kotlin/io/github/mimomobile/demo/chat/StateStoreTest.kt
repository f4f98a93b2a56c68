package io.github.mimomobile.demo.chat

import java.io.File
import java.io.RandomAccessFile
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** How many states there are, and how large, on a disk of any size. */
class StateStoreTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private var disk = 100_000_000_000L
    private val folder get() = temporary.root
    private var memory = 4_000_000_000L
    private val store by lazy { StateStore(folder, { memory }) { disk - folder.listFiles()!!.sumOf { it.length() } } }

    /** A state that was used at a time; it takes no room on this computer's disk. */
    private fun state(id: String, bytes: Long, usedAt: Long) = File(folder, "$id.mimo").apply {
        RandomAccessFile(this, "rw").use { it.setLength(bytes) }
        setLastModified(usedAt)
    }

    private fun ids() = folder.list()!!.map { it.removeSuffix(StateStore.ENDING) }.toSet()

    @Test
    fun `of many states those that were used last are kept`() {
        for (number in 1..StateStore.MOST_STATES) state("$number", 10, number * 1000L)
        store.touch("1")
        assertTrue(store.makeRoom("8", 10)) // there already, and replaced
        assertEquals(StateStore.MOST_STATES, ids().size)
        assertTrue(store.makeRoom("new", 10))
        assertEquals((1..StateStore.MOST_STATES).map { "$it" }.toSet() - "2", ids())
    }

    @Test
    fun `of large states those that fit together are kept, and one that is too large does not come`() {
        for (number in 1..3) state("$number", 600_000_000, number * 1000L)
        assertTrue(store.makeRoom("4", 700_000_000))
        assertEquals(setOf("2", "3"), ids())
        assertFalse(store.makeRoom("4", StateStore.MOST_BYTES + 1))
        assertEquals(setOf("2", "3"), ids())
    }

    @Test
    fun `a full disk is left as it is, unless deleting older states makes room`() {
        for (number in 1..3) state("$number", 100_000_000, number * 1000L)
        disk = 300_000_000 + StateStore.LEFT_BYTES
        assertTrue(store.makeRoom("4", 150_000_000))
        assertEquals(setOf("3"), ids())
        disk = StateStore.LEFT_BYTES
        assertFalse(store.makeRoom("4", 150_000_000))
        assertEquals(setOf("3"), ids())
    }

    @Test
    fun `a disk that others fill meanwhile is full`() {
        for (number in 1..2) state("$number", 100_000_000, number * 1000L)
        val full = StateStore(folder, { memory }) { if (ids().size < 2) 0 else StateStore.LEFT_BYTES }
        assertFalse(full.makeRoom("4", 150_000_000))
        assertEquals(emptySet<String>(), ids())
    }

    @Test
    fun `a state whose copy has no room in memory is neither saved nor loaded`() {
        assertTrue(store.fitsMemory(600_000_000))
        memory = 1_000_000_000
        assertFalse(store.fitsMemory(600_000_000))
    }

    @Test
    fun `what an ended process had begun to save is deleted`() {
        File(folder, ".4.mimo-123.tmp").writeText("half of it")
        state("4", 10, 1000)
        assertTrue(store.makeRoom("4", 10))
        assertEquals(setOf("4"), ids())
    }
}
