package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.decode.Cancelled
import java.io.File
import kotlin.concurrent.thread
import kotlin.math.abs
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The backend on MiMo-nano, by llama.cpp of this computer. */
class LlamaBackendTest {
    private val root = File(checkNotNull(System.getProperty("mimo.model")))
    private val trunk = File(root, "mimo-nano-q4_0.gguf")
    private val ids = IntArray(40) { (it * 37 + 11) % 1000 }

    private fun open(
        drafts: Boolean = false,
        kvCache: KvCache = KvCache.FLOAT16,
        repack: Boolean = true,
        context: Int = 512,
        file: File = trunk,
    ): LlamaBackend {
        val beside = File(root, "mimo-nano-q4_0-mtp.gguf").takeIf { drafts }
        val norm = if (drafts) FloatArray(256) { 1f } else null
        val way = LlamaWay(file, beside, norm, 1000, context, 2, kvCache, repack)
        return LlamaOpener(Libllama.api, Libllama.log).open(way)
    }

    private fun LlamaBackend.last(ids: IntArray, position: Int = 0) = decode(ids, position).single().copyOf()

    private fun assertClose(expected: FloatArray, found: FloatArray, tolerance: Double) {
        val largest = expected.maxOf { abs(it) }
        assertTrue("differ", expected.indices.all { abs(expected[it] - found[it]) <= tolerance * largest })
    }

    @Test
    fun `ids in one run and one by one give the same logits, and later entries are forgotten`() = open().use { backend ->
        val expected = backend.last(ids)
        assertTrue(expected.all { it.isFinite() })
        backend.last(IntArray(30) { it }) // something else
        for (at in ids.indices) backend.last(intArrayOf(ids[at]), at)
        val rows = backend.decode(ids.copyOfRange(36, 40), 36, 4).map { it.copyOf() }
        assertClose(expected, rows.last(), 0.02)
        assertClose(backend.last(ids.copyOf(38)), rows[1], 0.02)
    }

    @Test
    fun `a prompt longer than a batch is computed in chunks`() = open(context = 2048).use { backend ->
        val long = IntArray(1100) { (it * 31) % 1000 }
        val expected = backend.last(long)
        backend.last(long.copyOf(600))
        assertClose(expected, backend.last(long.copyOfRange(600, 1100), 600), 0.02)
    }

    @Test
    fun `every kind of KV cache and of weights gives nearly the same`() {
        val expected = open().use { it.last(ids) }
        for (kind in KvCache.entries) {
            assertClose(expected, open(kvCache = kind, repack = false).use { it.last(ids) }, 0.05)
        }
    }

    @Test
    fun `rows of logits are the same with the MTP layer beside, which drafts`() {
        val expected = open().use { backend -> backend.decode(ids, 0, 3).map { it.copyOf() } }
        open(drafts = true).use { backend ->
            val found = backend.decode(ids, 0, 3)
            for (row in 0 until 3) assertClose(expected[row], found[row], 1e-3)
            val head = checkNotNull(backend.mtp)
            val token = found[2].indices.maxBy { found[2][it] }
            val draft = head.draft(ids.size, token)
            assertEquals(1000, draft.size)
            assertTrue(draft.all { it.isFinite() })
            // A gap in what the layer is shown: it begins anew.
            backend.decode(IntArray(200) { it }, 0)
            head.draft(200, 5)
            backend.decode(ids, 0)
            assertClose(draft, head.draft(ids.size, token), 0.02)
        }
    }

    @Test
    fun `a run is cut off in the middle, and what it computed stays`() = open(context = 4096).use { backend ->
        val long = IntArray(4000) { (it * 31) % 1000 }
        val expected = backend.last(long)
        val canceller = thread {
            Thread.sleep(30)
            backend.cancel()
        }
        val cut = assertThrows(Cancelled::class.java) { repeat(100) { backend.decode(long, 0) } }
        canceller.join()
        assertThrows(Cancelled::class.java) { backend.decode(long, 0) }
        backend.renew()
        assertTrue(cut.computed in 0..4000)
        backend.last(long.copyOf(cut.computed).ifEmpty { intArrayOf(0) })
        assertClose(expected, backend.last(long.copyOfRange(cut.computed, 4000), cut.computed), 0.02)
    }

    private fun IntArray.ifEmpty(other: () -> IntArray) = if (isEmpty()) other() else this

    @Test
    fun `two models compute beside each other`() {
        val expected = open().use { it.last(ids) }
        open().use { one ->
            open().use { other ->
                val found = arrayOfNulls<FloatArray>(2)
                listOf(one, other).mapIndexed { index, each ->
                    thread { repeat(20) { found[index] = each.last(ids) } }
                }.forEach { it.join() }
                found.forEach { assertArrayEquals(expected, it, 0f) }
            }
        }
    }

    @Test
    fun `what llama cpp says of a file that it cannot load is in the error, and nothing is printed`() {
        val broken = File.createTempFile("broken", ".gguf").apply { writeBytes(trunk.readBytes().copyOf(100_000)) }
        val error = assertThrows(MimoException.ModelLoad::class.java) { open(file = broken) }
        assertTrue(error.message, "llama.cpp cannot load it: " in error.message.orEmpty())
        assertFalse(error.message, "no reason given" in error.message.orEmpty())
        broken.delete()
    }

    @Test
    fun `numbers are right again after what is no number`() = open(drafts = true).use { backend ->
        val expected = backend.last(ids)
        backend.forget()
        assertArrayEquals(expected, backend.last(ids), 0f)
    }
}
