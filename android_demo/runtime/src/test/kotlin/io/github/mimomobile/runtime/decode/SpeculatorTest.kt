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
    /** A layer that always drafts token 7. */
    private class Layer : MtpLayer {
        override val draftIds = intArrayOf(5, 7)
        override val hiddenSize = 1
        val reads = mutableListOf<Triple<List<Float>, List<Int>, Int>>()

        override fun read(hidden: FloatArray, ids: IntArray, count: Int, position: Int): FloatArray {
            reads += Triple(hidden.take(count), ids.take(count), position)
            return floatArrayOf(0f, 1f)
        }
    }

    private val tokenizer = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))

    /** Share of steps with a draft, when drafts are right with some probability. */
    private fun drafted(mode: Speculation, costs: Costs, right: Double, steps: Int = 2000): Double {
        val head = MtpHead(Layer(), 8)
        val generation = Generation(tokenizer, GenerationConfig(temperature = 0.0), ThinkingSplitter()) { 0.0 }
        val speculator = Speculator(mode, head, costs).also { it.begin() }
        val random = Random(0)
        var drafts = 0
        for (position in 1..steps) {
            head.observe(position - 1, intArrayOf(0), 0, 1, FloatBuffer.allocate(1))
            val draft = speculator.propose(generation, position, 0)
            val hit = random.nextDouble() < right
            if (draft != Generation.END) {
                drafts++
                speculator.learn(hit)
            }
            speculator.follow(if (hit) 7 else 5)
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
