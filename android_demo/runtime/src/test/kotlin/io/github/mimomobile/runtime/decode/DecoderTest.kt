package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.FinishReason
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.GenerationEvent.Finished
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.nanoOnnx
import io.github.mimomobile.runtime.text.ThinkingSplitter
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.nio.FloatBuffer
import kotlinx.coroutines.Job
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.experimental.categories.Category

class DecoderTest {
    private val tokenizer = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))

    /** Computes in chunks of 128, and ends before the one that [cutBefore] is in. */
    private class Chunks(override val mtp: MtpHead? = null) : Backend {
        override val contextLength = 1024
        val runs = mutableListOf<IntRange>()
        var cutBefore = Int.MAX_VALUE
        var cancels = 0

        override fun decode(ids: IntArray, position: Int, rows: Int): List<FloatArray> {
            val done = if (cutBefore < position + ids.size) (cutBefore - position) / 128 * 128 else ids.size
            runs += position until position + done
            for (start in 0 until done step 128) {
                val count = minOf(128, done - start)
                mtp?.observe(position + start, ids, start, count, FloatBuffer.allocate(count))
            }
            if (done < ids.size) throw Cancelled(done)
            return List(rows) { FloatArray(1088).also { it[50] = 1f } }
        }

        override fun cancel() {
            cancels++
        }

        override val kvBytesPerToken: Long get() = 0
        override fun state(tokens: Int): List<StateArray> = emptyList()
        override fun restore(arrays: List<StateArray>, tokens: Int) = Unit
        override fun forget() = Unit
        override fun renew() = Unit
        override fun close() = Unit
    }

    private fun Decoder.answer(count: Int): Finished {
        val config = GenerationConfig { temperature = 0.0; maxTokens = 3 }
        val events = mutableListOf<GenerationEvent>()
        val generation = Generation(tokenizer, config, ThinkingSplitter()) { 0.0 }
        runBlocking { run(IntArray(count) { 40 + it }, generation) { events += it } }
        return events.last() as Finished
    }

    @Test
    fun `what a prompt had computed when it was cancelled is not computed again`() {
        val backend = Chunks().apply { cutBefore = 400 }
        val decoder = Decoder(backend, "chunks", Speculation.OFF)
        assertEquals(FinishReason.CANCELLED, decoder.answer(700).reason)
        backend.cutBefore = Int.MAX_VALUE
        assertEquals(384, decoder.answer(700).stats.cachedTokens)
        assertEquals(listOf(0 until 384, 384 until 700), backend.runs.take(2))
    }

    @Category(Sweep::class)
    @Test
    fun `the first answer does not wait for what runs cost to be measured`() {
        val layer = object : MtpLayer {
            override fun state(rows: Int): List<StateArray> = emptyList()
            override fun restore(arrays: List<StateArray>, rows: Int) = Unit
            override val draftIds = intArrayOf(50)
            override val hiddenSize = 1
            override fun read(hidden: FloatArray, ids: IntArray, count: Int, position: Int) = floatArrayOf(0f)
        }
        val backend = Chunks(MtpHead(layer, 128))
        val decoder = Decoder(backend, "chunks", Speculation.AUTO)
        assertTrue("${backend.runs}", backend.runs.isNotEmpty())
        backend.runs.clear()
        decoder.answer(300)
        assertEquals(0 until 300, backend.runs.first())
    }

    @Category(Sweep::class)
    @Test
    fun `what few runs cost tells what those between them cost`() {
        val backend = Chunks()
        val costs = Costs.measure(backend, 8)
        assertEquals(setOf(1, 2, 4, 8), backend.runs.map { it.count() }.toSet())
        assertEquals(8, costs.rowsS.size)
        assertEquals((costs.rowsS[1] + costs.rowsS[3]) / 2, costs.rowsS[2], 1e-12)
        assertEquals((3 * costs.rowsS[3] + costs.rowsS[7]) / 4, costs.rowsS[4], 1e-12)
        assertEquals(2, Costs.measure(backend, 2).rowsS.size)
    }

    @Test
    fun `who ends a generation that is over leaves the next alone`() {
        val backend = Chunks()
        val decoder = Decoder(backend, "chunks", Speculation.OFF)
        val first = Turn(decoder, Job())
        first.cancel()
        assertEquals(1, backend.cancels)
        first.end()
        val second = Turn(decoder, Job())
        first.cancel()
        assertEquals(1, backend.cancels)
        second.cancel()
        assertEquals(2, backend.cancels)
    }
}
