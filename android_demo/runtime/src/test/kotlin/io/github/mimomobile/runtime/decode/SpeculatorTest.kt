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

    /** A layer that drafts [token], in so many seconds; tests change it, so that no text repeats itself. */
    private inner class Layer(var seconds: Double = 0.0) : MtpLayer {
        override fun state(rows: Int): List<StateArray> = emptyList()
        override fun restore(arrays: List<StateArray>, rows: Int) = Unit
        var token = 7
        override val draftIds get() = intArrayOf(5, token)
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
        val layer = Layer(costs.draftS)
        val head = MtpHead(layer, 8)
        val generation = generation()
        val speculator = Speculator(mode, head, costs) { now }.also { it.begin(IntArray(0)) }
        val random = Random(0)
        var drafts = 0
        for (position in 1..steps) {
            layer.token = 10 * position
            head.observe(position - 1, intArrayOf(0), 0, 1, FloatBuffer.allocate(1))
            val draft = speculator.propose(generation, position, 0, 1)
            val hit = random.nextDouble() < right
            if (draft.drafter == Drafter.MTP) drafts++
            speculator.follow(layer.token + if (hit) 0 else 1)
            speculator.learn(draft, if (hit) draft.ids.size else 0, costs.rowsS[draft.ids.size])
        }
        return drafts.toDouble() / steps
    }

    @Test
    fun `drafts are made while they pay, and only then`() {
        val cheap = Costs(listOf(1.0, 1.1), draftS = 0.05)
        assertTrue(drafted(Speculation.AUTO, cheap, right = 0.9) > 0.95)
        assertTrue(drafted(Speculation.AUTO, cheap, right = 0.0) < 0.1)
        val dear = Costs(listOf(1.0, 1.5), draftS = 0.6)
        assertEquals(0.0, drafted(Speculation.AUTO, dear, right = 1.0), 0.0)
        assertEquals(1.0, drafted(Speculation.MTP, dear, right = 0.0), 0.0)
    }

    /** How many drafts a layer makes in so many tokens, each of them right or none. */
    private fun Speculator.drafts(layer: Layer, head: MtpHead, tokens: Int, costs: Costs, right: Boolean = true): Int {
        val before = layer.reads.size
        val generation = generation()
        repeat(tokens) {
            head.observe(0, intArrayOf(0), 0, 1, FloatBuffer.allocate(1))
            follow(layer.token + if (right) 0 else 1)
            layer.token += 10
            val draft = propose(generation, 1, 0, 1)
            learn(draft, if (right) draft.ids.size else 0, costs.rowsS[draft.ids.size])
        }
        return layer.reads.size - before
    }

    @Test
    fun `drafts that turn out to cost much are looked at rarely`() {
        val costs = Costs(listOf(0.001, 0.0011), draftS = 0.00001)
        val layer = Layer(seconds = 0.002) // whatever was measured before
        val head = MtpHead(layer, 8)
        val speculator = Speculator(Speculation.AUTO, head, costs) { now }
        assertTrue(speculator.drafts(layer, head, 2000, costs, right = false) in 1..30)
    }

    @Test
    fun `drafts that were held up are tried again`() {
        val costs = Costs(listOf(0.001, 0.0011), draftS = 0.0004)
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

    /** What is drafted run after run when [next] follows [text]. */
    private fun Speculator.looksUp(text: IntArray, next: IntArray, costs: Costs): List<List<Int>> {
        val generation = generation()
        begin(text)
        val drafts = mutableListOf<List<Int>>()
        var at = 0
        while (at < next.size) {
            val draft = propose(generation, text.size + at, 0, next.size - at)
            drafts += draft.ids.toList()
            val right = draft.ids.indices.takeWhile { draft.ids[it] == next[at + it] }.size
            for (index in 0..minOf(right, next.size - at - 1)) follow(next[at + index])
            learn(draft, right, costs.rowsS[draft.ids.size])
            at += right + 1
        }
        return drafts
    }

    private val repeated = intArrayOf(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
    private val flat = Costs(List(8) { 1.0 + 0.01 * it }, draftS = 0.0)

    @Test
    fun `prompt lookup drafts up to seven tokens, and no more than there is room for`() {
        val drafts = Speculator(Speculation.NGRAM, null, flat).looksUp(repeated + intArrayOf(20), repeated, flat)
        val expected = listOf(listOf(), listOf(), listOf(), listOf(4, 5, 6, 7, 8, 9, 10), listOf(12))
        assertEquals(expected, drafts)
    }

    @Test
    fun `it drafts by itself while that pays, with as many tokens as promise most`() {
        val text = repeated + intArrayOf(20) + repeated
        val following = (1..20).flatMap { listOf(20) + repeated.toList() }.toIntArray()
        val drafts = Speculator(Speculation.AUTO, null, flat).looksUp(text, following, flat)
        assertEquals(7, drafts[drafts.size - 3].size)
        val dear = Costs(List(8) { 1.0 + it }, draftS = 0.0) // each row costs as much as a run
        assertTrue(Speculator(Speculation.AUTO, null, dear).looksUp(text, following, dear).all { it.isEmpty() })
        val pairs = Costs(List(8) { if (it < 2) 1.0 else 9.0 }, draftS = 0.0) // two rows are free
        assertEquals(1, Speculator(Speculation.AUTO, null, pairs).looksUp(text, following, pairs).maxOf { it.size })
    }

    @Test
    fun `drafts that are wrong are given up, and taken up again when they would be right`() {
        val costs = Costs(List(8) { 1.0 + 0.4 * it }, draftS = 0.0)
        val speculator = Speculator(Speculation.AUTO, null, costs)
        val random = Random(0)
        val noise = IntArray(3000) { random.nextInt(6) }
        val late = speculator.looksUp(noise, noise.copyOf(400).map { (it + 1) % 6 }.toIntArray(), costs).takeLast(100)
        assertTrue("$late", late.count { it.isNotEmpty() } < 30)
        val again = speculator.looksUp(repeated, (1..21).flatMap { repeated.toList() }.toIntArray(), costs)
        assertTrue("$again", again.takeLast(3).any { it.isNotEmpty() })
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
