package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Prompt
import io.github.mimomobile.runtime.Role
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.nano
import io.github.mimomobile.runtime.nanoOnnx
import io.github.mimomobile.runtime.text.ThinkingSplitter
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Real graphs that compute NaN and infinity: MiMo-nano with other numbers in one of its norms. */
class NumericsTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val prompt = Prompt.Chat(listOf(Message(Role.USER, "What is 25 + 17 * 3?")))
    private val config = EngineConfig {
        recipe = "int4_b32"
        threads = 1
        speculation = Speculation.OFF
        verification = Verification.SIZE
    }
    private val greedy = GenerationConfig { temperature = 0.0; maxTokens = 40 }

    /**
     * Nano's folder with all numbers of a norm of [graph] replaced by [value].
     *
     * A single NaN is not enough: where activations are rounded to int8, that takes it for a number.
     */
    private fun nanoWith(value: Float, graph: String = "model.onnx", norm: String = "model.norm.weight"): File {
        val root = temporary.newFolder().also { nano.copyRecursively(it, overwrite = true) }
        val folder = root.listFiles()!!.single { it.name.endsWith("-onnx") }
        val place = Regex("$norm.{0,40}?offset..(\\d+).{0,9}?length..(\\d+)", RegexOption.DOT_MATCHES_ALL)
        val (offset, length) = place.find(File(folder, graph).readText(Charsets.ISO_8859_1))!!.destructured
        val bytes = ByteBuffer.allocate(length.toInt()).order(ByteOrder.LITTLE_ENDIAN)
        while (bytes.hasRemaining()) bytes.putFloat(value)
        RandomAccessFile(File(folder, "model.onnx.data"), "rw").use {
            it.seek(offset.toLong())
            it.write(bytes.array())
        }
        return root
    }

    /** The error that a generation ends with, after so many events. */
    private fun failure(engine: MimoEngine, generation: GenerationConfig): Pair<MimoException.Numerics, Int> {
        val events = mutableListOf<GenerationEvent>()
        val error = assertThrows(MimoException.Numerics::class.java) {
            runBlocking { withTimeout(60_000) { engine.generate(prompt, generation).collect { events += it } } }
        }
        return error to events.size
    }

    @Test
    fun `NaN and infinity end a generation with an error and no text, greedy and sampled`() {
        for (bad in listOf(Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY)) {
            MimoEngine().use { engine ->
                runBlocking { engine.load(nanoWith(bad), config) }
                for (temperature in listOf(0.0, 0.8)) {
                    val (error, events) = failure(engine, greedy.copy { this.temperature = temperature; seed = 1 })
                    assertEquals("$bad at $temperature", 0, events)
                    val start = "mimo-nano in int4_b32 on CPU gave NaN or infinity for token 1 of the answer: "
                    assertTrue(error.message!!, error.message!!.startsWith(start))
                    assertTrue(error.message!!, "KvCache.INT8" in error.message!! && "another recipe" in error.message!!)
                    assertTrue("${engine.state.value}", engine.state.value is EngineState.Ready)
                }
            }
        }
    }

    @Test
    fun `drafts that are no numbers end it, too, and the model goes on without them`() {
        val root = nanoWith(Float.NaN, "mtp.onnx", "model.mtp_layers.0.final_layernorm.weight")
        MimoEngine().use { engine ->
            runBlocking { engine.load(root, config.copy { speculation = Speculation.MTP }) }
            for (temperature in listOf(0.0, 0.8)) {
                val (error, _) = failure(engine, greedy.copy { this.temperature = temperature; seed = 1 })
                val start = "mimo-nano in int4_b32 on CPU gave NaN or infinity for a draft of token 2 of the answer: "
                assertTrue(error.message!!, error.message!!.startsWith(start))
                assertTrue(error.message!!, "Speculation.OFF" in error.message!!)
            }
            val events = mutableListOf<GenerationEvent>()
            runBlocking { engine.generate(prompt, greedy.copy { speculate = false }).collect { events += it } }
            assertEquals(0, (events.last() as GenerationEvent.Finished).stats.cachedTokens) // nothing bad was kept
        }
    }

    @Test
    fun `a backend is told to forget what it holds`() {
        var forgotten = 0
        val broken = object : Backend {
            override val contextLength = 64
            override val mtp: MtpHead? = null
            override fun decode(ids: IntArray, position: Int, rows: Int) = listOf(FloatArray(1088) { Float.NaN })
            override val kvBytesPerToken: Long get() = 0
            override fun state(tokens: Int): List<StateArray> = emptyList()
            override fun restore(arrays: List<StateArray>, tokens: Int) = Unit
            override fun forget() {
                forgotten++
            }
            override fun cancel() = Unit
            override fun renew() = Unit
            override fun close() = Unit
        }
        val tokenizer = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))
        assertThrows(MimoException.Numerics::class.java) {
            runBlocking {
                Decoder(broken, "broken", Speculation.OFF)
                    .run(intArrayOf(1), Generation(tokenizer, greedy, ThinkingSplitter()) { 0.0 }) {}
            }
        }
        assertEquals(1, forgotten)
    }

    @Test
    fun `the trunk's are found with drafts as well`() {
        MimoEngine().use { engine ->
            runBlocking { engine.load(nanoWith(Float.NaN), config.copy { speculation = Speculation.MTP }) }
            assertTrue("token 1 of the answer" in failure(engine, greedy).first.message!!)
        }
    }
}
