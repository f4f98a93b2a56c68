package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.FinishReason
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.Heat
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.nanoOnnx
import io.github.mimomobile.runtime.text.ThinkingSplitter
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.yield
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class CoolingTest {
    private var now = 0L
    private var heat = Heat.NONE
    private var questions = 0
    private val changes = mutableListOf<Heat>()
    private val cooling = Cooling({ heat.also { questions++ } }, { changes += it }) { now }

    @Test
    fun `the hotter, the larger the share of rest`() {
        val expected = mapOf(Heat.NONE to 0L, Heat.LIGHT to 0L, Heat.MODERATE to 10L, Heat.SEVERE to 30L)
        for ((given, rest) in expected + (Heat.CRITICAL to 90L)) {
            heat = given
            now += 1_000_000_000
            assertEquals("$given", rest, cooling.due(30))
        }
        assertEquals(Heat.entries - Heat.NONE, changes)
    }

    @Test
    fun `heat is asked for once a second, and anew in a new generation`() {
        for (step in 0 until 30) {
            now = step * 100_000_000L
            cooling.due(1)
        }
        assertEquals(3, questions)
        cooling.begin()
        cooling.due(1)
        assertEquals(4, questions)
    }

    @Test
    fun `after a long prompt a rest is not long`() {
        heat = Heat.CRITICAL
        assertEquals(3_000_000_000, cooling.due(60_000_000_000))
    }

    /** Every token takes a second. */
    private class SlowBackend : Backend {
        private val logits = listOf(FloatArray(1088))
        private var cancelled = false
        override val contextLength = 64
        override val mtp: MtpHead? = null

        override fun decode(ids: IntArray, position: Int, rows: Int): List<FloatArray> {
            if (cancelled) throw Cancelled(0)
            Thread.sleep(1000)
            return logits
        }

        override fun cancel() {
            cancelled = true
        }

        override val kvBytesPerToken: Long get() = 0
        override fun state(tokens: Int): List<StateArray> = emptyList()
        override fun restore(arrays: List<StateArray>, tokens: Int) = Unit
        override fun forget() = Unit
        override fun renew() = Unit
        override fun close() = Unit
    }

    @Test
    fun `a rest is in the statistics, and stopping does not wait for its end`() = runBlocking {
        val tokenizer = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))
        val config = GenerationConfig { temperature = 0.0; maxTokens = 9 }
        val decoder = Decoder(SlowBackend(), "slow", Speculation.OFF, Cooling({ Heat.CRITICAL }))
        val events = mutableListOf<GenerationEvent>()
        val first = CompletableDeferred<Unit>()
        val stopper = launch(Dispatchers.Default) {
            first.await() // a second of work, then three of rest
            delay(150)
            decoder.cancel()
        }
        decoder.run(intArrayOf(1), Generation(tokenizer, config, ThinkingSplitter()) { 0.0 }) {
            events += it
            first.complete(Unit)
        }
        stopper.join()
        val end = events.last() as GenerationEvent.Finished
        assertEquals(FinishReason.CANCELLED, end.reason)
        assertEquals(1, end.stats.generatedTokens)
        assertTrue("${end.stats}", end.stats.restedS in 0.05..2.0)
    }

    @Test
    fun `a rest takes its time, and ends at once when it is woken or cancelled`() = runBlocking {
        val cooling = Cooling({ Heat.CRITICAL })
        assertTrue(cooling.rest(20_000_000) in 0.055..5.0)
        withTimeout(2_000) {
            val long = async { cooling.rest(1_000_000_000) }
            yield()
            cooling.wake()
            assertTrue(long.await() < 1.0)
            val started = CompletableDeferred<Unit>()
            val cancelled = launch(Dispatchers.Default) {
                started.complete(Unit)
                cooling.rest(1_000_000_000)
            }
            started.await()
            cancelled.cancelAndJoin()
        }
    }
}
