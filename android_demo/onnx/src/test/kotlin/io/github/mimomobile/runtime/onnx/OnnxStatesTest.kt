package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.KvCache
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.SavedStates
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.checkHostileConversations
import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.nanoNpu
import io.github.mimomobile.runtime.npu.openOnCpu
import java.nio.ByteBuffer
import kotlin.math.abs
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.experimental.categories.Category
import org.junit.rules.TemporaryFolder

/** Saved keys and values of ONNX Runtime, of every kind and on every backend. */
class OnnxStatesTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val config = EngineConfig { recipe = "int4_b32"; threads = 1 }
    private val npu = EngineConfig {
        threads = 1
        provider = ExecutionProvider.QNN
        speculation = Speculation.MTP
        verification = Verification.SIZE
    }
    private val ids = IntArray(400) { 40 + (it * 7919) % 900 }

    private fun <T> backend(config: EngineConfig, work: (Backend) -> T): T =
        loader(nanoNpu, config, openPiece = ::openOnCpu).load { _, _ -> }.use { work(it.backend) }

    /** Its bytes in one piece that stays, or in pieces of [size]. */
    private fun StateArray.copied(size: Int = 0): StateArray {
        val bytes = bytes()
        val parts = if (size == 0) listOf(bytes) else (0 until bytes.limit() step size).map { start ->
            bytes.duplicate().between(start, minOf(bytes.limit(), start + size)).slice()
        }
        return StateArray(name, type, shape, parts.asSequence())
    }

    private fun Backend.copied(tokens: Int, size: Int = 0) = state(tokens).map { it.copied(size) }

    private fun Backend.next(position: Int = 300) = decode(intArrayOf(ids[position]), position).single().copyOf()

    private fun Backend.draft(): FloatArray = mtp!!.draft(301, ids[301]).copyOf()

    @Category(Sweep::class)
    @Test
    fun `each kind of KV cache goes on with drafts and without, and refuses the others`() =
        SavedStates(config, temporary.root).checkKinds(listOf(KvCache.FLOAT16, KvCache.INT8))

    @Category(Sweep::class)
    @Test
    fun `strange files are taken and refused exactly as Python does`() = checkHostileConversations("int4_b32")

    @Category(Sweep::class)
    @Test
    fun `several conversations at once are saved, loaded, or refused while the engine answers`() =
        SavedStates(config, temporary.root).checkAtOnce()

    @Test
    fun `an NPU goes on from a copy of its caches, whatever it computed meanwhile, and so does another one`() {
        for (mode in listOf(NpuMode.NPU, NpuMode.SPLIT)) {
            val wish = npu.copy { npuMode = mode }
            // Pieces that end within a row, too.
            val (right, arrays) = backend(wish) { backend ->
                backend.decode(ids.copyOf(300), 0)
                val arrays = backend.copied(300, size = 999)
                val right = Pair(backend.next(), backend.draft())
                backend.decode(ids.reversedArray(), 0)
                backend.restore(arrays, 300)
                assertArrayEquals(right.first, backend.next(), 0f)
                assertArrayEquals(right.second, backend.draft(), 0f)
                Pair(right, arrays)
            }
            backend(wish) { other ->
                other.restore(arrays, 300)
                assertArrayEquals(right.first, other.next(), 0f)
                assertArrayEquals(right.second, other.draft(), 0f)
                assertEquals(arrays.map { it.bytes() }, other.apply { restore(arrays, 300) }.copied(300).map { it.bytes() })
            }
        }
    }

    @Test
    fun `an NPU refuses what is no copy of its caches, and computes as before`() = backend(npu) { backend ->
        val right = backend.run { decode(ids.copyOf(300), 0); next() }
        backend.decode(ids.copyOf(300), 0)
        val arrays = backend.copied(300)
        val cut = arrays.map { StateArray(it.name, it.type, it.shape.map { size -> if (size == 300L) 299L else size }, it.parts) }
        for (wrong in listOf(arrays.drop(1), arrays + arrays[0].let { StateArray("trunk.x", it.type, it.shape, it.parts) }, cut)) {
            assertThrows(MimoException.ConversationFile::class.java) { backend.restore(wrong, 300) }
        }
        assertThrows(MimoException.ConversationFile::class.java) { backend.restore(arrays, 299) }
        backend.decode(ids.copyOf(300), 0)
        assertArrayEquals(right, backend.next(), 0f)
    }

    @Test
    fun `numbers that are none in a copy are not left behind in an NPU's caches`() = backend(npu) { backend ->
        fun near(expected: FloatArray, found: FloatArray) = assertArrayEquals(expected, found, 0.02f * expected.maxOf { abs(it) })
        val right = backend.run { decode(ids.copyOf(300), 0); next() }
        backend.decode(ids.copyOf(300), 0)
        val nan = backend.copied(300).map { array ->
            StateArray(array.name, array.type, array.shape, array.parts.map { part ->
                ByteBuffer.allocate(part.remaining()).apply { if (array.name.startsWith("trunk.")) array().fill(-1) else put(part).rewind() }
            })
        }
        backend.restore(nan, 300)
        assertTrue(backend.next().any { !it.isFinite() })
        backend.forget()
        backend.decode(ids.copyOf(300), 0)
        near(right, backend.next())
    }
}
