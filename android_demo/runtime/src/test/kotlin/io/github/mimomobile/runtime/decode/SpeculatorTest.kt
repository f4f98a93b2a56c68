package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.nanoOnnx
import io.github.mimomobile.runtime.text.ThinkingSplitter
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.nio.FloatBuffer
import java.util.Random
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class SpeculatorTest {
    private var now = 0L

    /** A layer that always drafts token 7, in so many seconds. */
    private inner class Layer(var seconds: Double = 0.0) : MtpLayer {
        override val draftIds = intArrayOf(5, 7)
        override val hiddenSize = 1
        val reads = mutableListOf<Triple<List<Float>, List<Int>, Int>>()

        override fun read(hidden: FloatArray, ids: IntArray, count: Int, position: Int): FloatArray {
            now += (seconds * 1e9).toLong()
            reads += Triple(hidden.take(count), ids.take(count), position)
            return floatArrayOf(0f, 1f)
        }
    }

    private val tokenizer = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))

    private fun generation() =
        Generation(tokenizer, GenerationConfig { temperature = 0.0 }, ThinkingSplitter()) { 0.0 }

    /** Share of steps with a draft, when drafts are right with some probability. */
    private fun drafted(mode: Speculation, costs: Costs, right: Double, steps: Int = 2000): Double {
        val head = MtpHead(Layer(costs.draftS), 8)
        val generation = generation()
        val speculator = Speculator(mode, head, costs) { now }.also { it.begin() }
        val random = Random(0)
        var drafts = 0
        for (position in 1..steps) {
            head.observe(position - 1, intArrayOf(0), 0, 1, FloatBuffer.allocate(1))
            val draft = speculator.propose(generation, position, 0)
            val hit = random.nextDouble() < right
            val drafted = draft != Generation.END
            if (drafted) drafts++
            speculator.follow(if (hit) 7 else 5)
            speculator.learn(drafted, hit, if (drafted) costs.verifyS else costs.stepS)
        }
        return drafts.toDouble() / steps
    }

    @Test
    fun `drafts are made while they pay, and only then`() {
        val cheap = Costs(stepS = 1.0, verifyS = 1.1, draftS = 0.05)
        assertTrue(drafted(Speculation.AUTO, cheap, right = 0.9) > 0.95)
        assertTrue(drafted(Speculation.AUTO, cheap, right = 0.0) < 0.1)
        val dear = Costs(stepS = 1.0, verifyS = 1.5, draftS = 0.6)
        assertEquals(0.0, drafted(Speculation.AUTO, dear, right = 1.0), 0.0)
        assertEquals(1.0, drafted(Speculation.MTP, dear, right = 0.0), 0.0)
    }

    /** How many drafts a layer makes in so many tokens, each of them right or none. */
    private fun Speculator.drafts(layer: Layer, head: MtpHead, tokens: Int, costs: Costs, right: Boolean = true): Int {
        val before = layer.reads.size
        val generation = generation()
        repeat(tokens) {
            head.observe(0, intArrayOf(0), 0, 1, FloatBuffer.allocate(1))
            follow(if (right) 7 else 5)
            val drafted = propose(generation, 1, 0) != Generation.END
            learn(drafted, drafted && right, if (drafted) costs.verifyS else costs.stepS)
        }
        return layer.reads.size - before
    }

    @Test
    fun `drafts that turn out to cost much are looked at rarely`() {
        val costs = Costs(stepS = 0.001, verifyS = 0.0011, draftS = 0.00001)
        val layer = Layer(seconds = 0.002) // whatever was measured before
        val head = MtpHead(layer, 8)
        val speculator = Speculator(Speculation.AUTO, head, costs) { now }
        assertTrue(speculator.drafts(layer, head, 2000, costs, right = false) in 1..30)
    }

    @Test
    fun `drafts that were held up are tried again`() {
        val costs = Costs(stepS = 0.001, verifyS = 0.0011, draftS = 0.0004)
        val layer = Layer(costs.draftS)
        val head = MtpHead(layer, 8)
        val speculator = Speculator(Speculation.AUTO, head, costs) { now }
        assertTrue(speculator.drafts(layer, head, 50, costs) > 40)
        layer.seconds = 0.004 // another app is in the way
        speculator.drafts(layer, head, 80, costs)
        assertTrue(speculator.drafts(layer, head, 60, costs) < 10)
        for (held in listOf(0.004, 0.00085)) { // the second is just too much for drafts that are all right
            layer.seconds = held
            speculator.drafts(layer, head, 200, costs)
            layer.seconds = costs.draftS
            speculator.drafts(layer, head, 400, costs)
            assertTrue(speculator.drafts(layer, head, 60, costs) > 40)
        }
    }

    @Test
    fun `the pace follows what runs take now`() {
        val pace = Pace(listOf(1.0, 1.1))
        repeat(60) { pace.learn(2, 2.2) } // all is half as fast, and only two rows are run
        assertEquals(2.2, pace.seconds(2), 0.02)
        assertTrue(pace.seconds(1) > 1.5 && pace.seconds(1) < 2.0)
        val other = Pace(listOf(1.0, 1.1))
        repeat(30) {
            other.learn(2, 1.6) // another app takes the second core: rows are no longer nearly free
            other.learn(1, 1.0)
        }
        assertTrue(other.seconds(2) / other.seconds(1) > 1.35)
        repeat(200) { other.learn(1, 1.0) } // long ago: worth a new look
        assertEquals(1.1, other.seconds(2), 0.022)
        repeat(8) { other.learn(1, if (it == 0) 1000.0 else 1.0) } // held up
        assertTrue(other.seconds(1) < 1.4)
    }

    @Test
    fun `rows are read once each, with the token that followed`() {
        val layer = Layer()
        val head = MtpHead(layer, 8)
        head.observe(0, intArrayOf(10, 11, 12), 0, 3, FloatBuffer.wrap(floatArrayOf(0f, 1f, 2f)))
        head.draft(3, 13)
        head.observe(3, intArrayOf(13, 99), 0, 2, FloatBuffer.wrap(floatArrayOf(3f, 9f)))
        head.draft(4, 14) // 99 was wrong
        head.observe(4, intArrayOf(14), 0, 1, FloatBuffer.wrap(floatArrayOf(4f)))
        assertEquals(5, head.resume(5))
        head.observe(5, intArrayOf(20), 0, 1, FloatBuffer.wrap(floatArrayOf(5f)))
        head.draft(6, 21)
        val expected = listOf(
            Triple(listOf(0f, 1f, 2f), listOf(11, 12, 13), 0),
            Triple(listOf(3f), listOf(14), 3),
            Triple(listOf(4f, 5f), listOf(20, 21), 4),
        )
        assertEquals(expected, layer.reads)
    }

    @Test
    fun `a row that was read with a token that does not follow now is made again`() {
        val head = MtpHead(Layer(), 8)
        head.observe(0, intArrayOf(10, 11), 0, 2, FloatBuffer.allocate(2))
        head.draft(2, 12)
        assertEquals(1, head.resume(2))
        assertEquals(0, head.resume(0))
    }
}
