package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.decode.Cancelled
import io.github.mimomobile.runtime.nano
import kotlin.concurrent.thread
import org.junit.After
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class OrtBackendTest {
    private val config = EngineConfig { threads = 1; speculation = Speculation.MTP; verification = Verification.SIZE }
    private val backend = loader(nano, config).load { _, _ -> }.backend
    private val ids = IntArray(1900) { 40 + it % 900 }

    @After
    fun close() = backend.close()

    @Test
    fun `a run that is ended can be made again`() {
        val whole = backend.decode(ids, 0).single().copyOf()
        val canceller = thread {
            Thread.sleep(5)
            backend.cancel()
        }
        assertThrows(Cancelled::class.java) { backend.decode(ids, 0) }
        canceller.join()
        assertThrows(Cancelled::class.java) { backend.decode(ids, 0) }
        backend.renew()
        assertArrayEquals(whole, backend.decode(ids, 0).single(), 0f)
    }

    @Test
    fun `two rows give what one after the other gives`() {
        backend.decode(ids.copyOf(300), 0)
        val first = backend.decode(ids.copyOfRange(300, 301), 300).single().copyOf()
        val second = backend.decode(ids.copyOfRange(301, 302), 301).single().copyOf()
        val both = backend.decode(ids.copyOfRange(300, 302), 300, 2)
        assertArrayEquals(first, both[0], 2e-2f)
        assertArrayEquals(second, both[1], 2e-2f)
    }

    @Test
    fun `eight rows give what one after the other gives`() {
        backend.decode(ids.copyOf(300), 0)
        val each = (300 until 308).map { backend.decode(intArrayOf(ids[it]), it).single().copyOf() }
        val all = backend.decode(ids.copyOfRange(300, 308), 300, 8)
        each.zip(all).forEach { (alone, together) -> assertArrayEquals(alone, together, 2e-2f) }
    }

    @Test
    fun `drafts are ids of tokens`() {
        backend.decode(ids.copyOf(300), 0)
        val head = checkNotNull(backend.mtp)
        assertTrue(head.draft(300, 40).size == head.draftIds.size)
        assertTrue(head.draftIds.toSet().size == head.draftIds.size && head.draftIds.all { it in 0..1087 })
    }
}
